"""Training: one run, its recipe, its data and its randomness."""
