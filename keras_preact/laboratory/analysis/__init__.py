"""Signals and gradients of every unit, measured: the paper's equations on any network, as numbers and as pictures."""
