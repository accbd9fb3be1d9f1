"""The schedule: what to kill, and at which moment of a run's life."""

from dataclasses import dataclass, replace
from itertools import cycle, islice
from random import Random
from typing import Literal

Victim = Literal["driver", "worker", "workers", "raylet", "driver and workers"]
Moment = Literal["start", "training", "commit", "tables"]

MIX: tuple[tuple[Victim, Moment], ...] = (
    ("worker", "commit"),
    ("driver", "tables"),
    ("workers", "training"),
    ("driver and workers", "commit"),
    ("raylet", "training"),
    ("driver", "start"),
    ("worker", "training"),
    ("driver", "commit"),
    ("driver and workers", "training"),
    ("workers", "commit"),
    ("driver", "training"),
    ("worker", "training"),
    ("worker", "commit"),
    ("driver", "start"),
    ("workers", "training"),
    ("worker", "training"),
    ("driver", "commit"),
    ("raylet", "commit"),
    ("worker", "training"),
    ("workers", "commit"),
    ("driver", "training"),
    ("worker", "commit"),
    ("driver and workers", "training"),
    ("driver", "training"),
    ("worker", "training"),
)
"""Taken from the top, over and over; the first five have every victim."""

DELAYS: dict[Moment, tuple[float, float]] = {
    "start": (0.0, 5.0),
    "training": (0.0, 2.0),
    "commit": (0.0, 0.015),
    "tables": (0.0, 0.5),
}
"""Seconds: after the launch; since something trains; since a folder came to be in `tmp/`; since an
interrupted run began with its tables."""

LAST = 0.85
"""The part of a sweep that the kills are spread over; it ends with a launch that is left alone."""


@dataclass(frozen=True)
class Kill:
    """Whom to kill, `delay` seconds after which moment, once `after` iterations are committed."""

    victim: Victim
    moment: Moment
    delay: float
    after: int = 0

    @property
    def ends_the_launch(self) -> bool:
        return self.victim not in ("worker", "workers")


def schedule(kills: int, iterations: int, random: Random) -> list[Kill]:
    """`kills` kills in random order, spread over a sweep of `iterations` iterations; those of
    starting runs each follow one that ends a launch."""
    drawn = [
        Kill(victim, moment, random.uniform(*DELAYS[moment]))
        for victim, moment in islice(cycle(MIX), kills)
    ]
    order = [kill for kill in drawn if kill.moment != "start"]
    random.shuffle(order)
    for kill in drawn:
        if kill.moment == "start":
            fresh = [0, *(i + 1 for i, before in enumerate(order) if before.ends_the_launch)]
            order.insert(random.choice(fresh), kill)
    step = LAST * iterations / kills
    return [replace(kill, after=int((i + random.random()) * step)) for i, kill in enumerate(order)]
