"""Sparsity: masks, and what a network with them comes to."""
