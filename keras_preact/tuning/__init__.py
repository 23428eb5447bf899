"""Sweeps that go on after a kill, and keras-tuner's searches, over a network and its recipe."""
