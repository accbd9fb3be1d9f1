"""The ablations of a stored mask, one file each."""
