"""Figures as files: images for papers, self-contained pages, and Vega-Lite's JSON."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import altair as alt

from orchestrator.errors import ExportError
from orchestrator.results.figures import FIGURES, Figure
from orchestrator.results.figures.style import theme
from orchestrator.results.opening import Results

Format = Literal["png", "svg", "pdf", "html", "json"]
PIXELS_PER_INCH = 200


def save_figures(
    results: Results, names: Sequence[str], format: Format, folder: Path
) -> Iterator[tuple[Figure, Path | None]]:
    """Write the figures `names` to `folder`, one file each; without names, all that there are.

    Yields each figure with its file, None when the sweep lacks what the figure needs. Raises
    ExportError, also when a figure that was asked for by its name cannot be drawn.
    """
    unknown = [name for name in names if name not in FIGURES]
    if unknown:
        raise ExportError(f"there is no figure {unknown[0]!r}; there are: {', '.join(FIGURES)}")
    for name in dict.fromkeys(names or FIGURES):
        yield FIGURES[name], _save(FIGURES[name], results, format, folder, required=bool(names))


def _save(
    figure: Figure, results: Results, format: Format, folder: Path, required: bool
) -> Path | None:
    chart = figure.draw(results)
    if chart is None:
        if required:
            raise ExportError(
                f"{results.record.name} has no figure {figure.name!r}: it needs {figure.needs}"
            )
        return None
    file = folder / f"{figure.name}.{format}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_chart(chart, file, format)
    except OSError as error:
        raise ExportError(f"cannot write {file}: {error.strerror}") from error
    return file


def write_chart(chart: alt.TopLevelMixin, file: Path, format: Format) -> None:
    """Write `chart`; a page has all it needs in it. Raises OSError."""
    if format == "png":
        # A picture may be looked at on any background; the others take that of their page.
        chart = chart.configure(**theme(background="white"))
        chart.save(file, format, ppi=PIXELS_PER_INCH)
    elif format == "html":
        chart.save(file, format, inline=True)
    else:
        chart.save(file, format)
