"""Modules that networks are built of. They derive from torch's, so importing them imports torch."""
