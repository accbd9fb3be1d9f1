"""Measurements: what is measured of stored tickets, beside the iterations that made them."""

from typing import Annotated

from trainables.measurements.measure import MEASURE, Measure, Row, Tickets
from trainables.plugins.entry import Named

__all__ = ["MEASURE", "Measure", "MeasureConfig", "Row", "Tickets"]

MeasureConfig = Annotated[Measure, Named(MEASURE)]
