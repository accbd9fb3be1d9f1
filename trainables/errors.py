"""Errors that tell who meets them what to do next."""


class Hopeless(Exception):
    """Another attempt would meet it again, so none is made."""
