"""Trained networks on other images: a new head, and a choice of what is trained and how fast."""
