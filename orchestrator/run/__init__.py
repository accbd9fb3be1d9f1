"""A run: what there is to train, and the training of it on a Ray cluster."""
