"""The stop rules, each in a file of its own."""
