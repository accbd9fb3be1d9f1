"""The sweep file: from YAML to a SweepSpec, and every mistake with its place."""
