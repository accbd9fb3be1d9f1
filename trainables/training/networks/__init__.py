"""What a training step computes with: one network, or several of one architecture at once."""

from trainables.training.networks.form import Unfusible, form_of
from trainables.training.networks.networks import Networks
from trainables.training.networks.one import One
from trainables.training.networks.stack import Stack

__all__ = ["Networks", "One", "Stack", "Unfusible", "form_of"]
