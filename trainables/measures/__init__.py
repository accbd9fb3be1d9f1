"""Measures: what is measured of a network and its masks."""
