"""The commands of `prunesweep`: parse, call, print."""
