"""Tracking: a sweep in Weights & Biases, filled from its commits."""
