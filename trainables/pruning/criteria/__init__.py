"""Criteria: what a weight is worth. One file each; a criterion maps a scoring to scores."""
