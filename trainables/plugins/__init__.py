"""Plug-ins: how the package and its users add what a sweep file can name, by one mechanism."""
