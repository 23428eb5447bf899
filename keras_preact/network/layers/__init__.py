"""Registered Keras layers: what the networks need and Keras' own layers do not offer."""
