"""The version of prunesweep: here alone, so that a checkout knows it as an install does."""

VERSION = "0.1.0"
