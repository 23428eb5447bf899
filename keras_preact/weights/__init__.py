"""Trained weights: cards (where from, hash, licence, error), the store, a converter for each source."""
