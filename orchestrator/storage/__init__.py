"""The life of a storage: what is in it, whose it is, and how it goes."""
