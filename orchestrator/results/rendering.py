"""Rendering tables for people: GitHub's Markdown, LaTeX with booktabs, the terminal."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from functools import cached_property
from itertools import groupby, takewhile
from math import isfinite
from typing import Any

import pyarrow as pa
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "^": r"\textasciicircum{}", "_": r"\_", "~": r"\textasciitilde{}", "%": r"\%",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "±": r"$\pm$", "−": r"$-$", "×": r"$\times$", "≥": r"$\geq$", "≤": r"$\leq$", "–": "--",
    "—": "---", "β": r"$\beta$", "γ": r"$\gamma$", "η": r"$\eta$", "σ": r"$\sigma$",
    "χ": r"$\chi$", "…": r"\ldots{}", "\n": " ",
}  # fmt: skip


@dataclass(frozen=True)
class TextTable:
    """A table as text. Every one of the `headings`, lines from the top, is as long as a row.

    `bold` has (row, column) pairs, `right` the columns that are aligned to the right.
    """

    headings: tuple[tuple[str, ...], ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[int]
    bold: frozenset[tuple[int, int]] = frozenset()
    title: str = ""
    notes: tuple[str, ...] = ()


NOISE = 1e-9
"""What is closer to zero is zero but for rounding."""
EXACT = 12
"""Digits of a float that no sum of a few numbers changes."""


def decimals(value: float, places: int, significant: int = 2, sign: str = "") -> str:
    """A number with so many decimal places, or as many more as show `significant` digits: of
    0.0004, two places would leave nothing. With the `sign` "+", positive ones have one.

    This is the one rounding rule, of tables and pages (`decimals` in page/format.js): what is
    half-way in `EXACT` digits goes up, since in floats 81.975 may be a little less or more, by how
    it was computed. It goes up below zero too: so the difference to a published value with as many
    places is the difference of what is shown.
    """
    if not isfinite(value):
        return f"{value:{sign}f}"
    exact = Decimal(f"{value:.{EXACT}g}")
    if NOISE < abs(exact) < Decimal(10) ** (significant - 1 - places):
        small = _rounded(exact, significant - 1 - exact.adjusted())
        return f"{float(small):{sign}.{significant}g}"
    return f"{Decimal(0) if abs(exact) <= NOISE else _rounded(exact, places):{sign}.{places}f}"


def _rounded(value: Decimal, places: int) -> Decimal:
    up = value.scaleb(places) + Decimal("0.5")
    return up.to_integral_value(ROUND_FLOOR).scaleb(-places)


Shown = Mapping[str, tuple[str, Callable[[Any], str]]]
"""By the name of a column, its heading and the text of its values."""


def text_table(table: pa.Table, shown: Shown | None = None) -> TextTable:
    """An Arrow table with its values as Python prints them, or as `shown` has their columns; nulls
    are empty."""
    as_read = [(shown or {}).get(name, (name, str)) for name in table.column_names]
    columns = [
        ["" if value is None else form(value) for value in column.to_pylist()]
        for (_, form), column in zip(as_read, table.columns, strict=True)
    ]
    kinds = [field.type for field in table.schema]
    right = {
        i
        for i, kind in enumerate(kinds)
        if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    }
    headings = tuple(heading for heading, _ in as_read)
    return TextTable((headings,), tuple(zip(*columns, strict=True)), frozenset(right))


def as_markdown(table: TextTable) -> str:
    """A table as GitHub renders it; it has one line of headings, so several are joined."""
    joined = [", ".join(filter(None, parts)) for parts in zip(*table.headings, strict=True)]
    rules = ["--:" if i in table.right else "---" for i in range(len(joined))]
    lines = [_markdown_line([_markdown(text) for text in joined]), _markdown_line(rules)]
    for i, row in enumerate(table.rows):
        texts = [_markdown(text) for text in row]
        lines.append(
            _markdown_line([f"**{t}**" if (i, j) in table.bold else t for j, t in enumerate(texts)])
        )
    title = [_markdown(table.title), ""] if table.title else []
    notes = [line for note in table.notes for line in ("", _markdown(note))]
    return "\n".join([*title, *lines, *notes]) + "\n"


def as_latex(table: TextTable) -> str:
    """A `tabular` with booktabs' rules, in a `table` with a caption when the table has a title."""
    alignment = "".join("r" if i in table.right else "l" for i in range(len(table.headings[0])))
    lines = [rf"\begin{{tabular}}{{{alignment}}}", r"\toprule", *_latex_headings(table.headings)]
    lines.append(r"\midrule")
    for i, row in enumerate(table.rows):
        texts = [_latex(text) for text in row]
        bold = [rf"\textbf{{{t}}}" if (i, j) in table.bold else t for j, t in enumerate(texts)]
        lines.append(_latex_line(bold))
    lines += [r"\bottomrule", r"\end{tabular}"]
    if table.title:
        notes = [rf"\par\smallskip{{\footnotesize {_latex(note)}}}" for note in table.notes]
        caption = rf"\caption{{{_latex(table.title)}}}"
        lines = [r"\begin{table}", r"\centering", caption, *lines, *notes, r"\end{table}"]
    return "\n".join([r"% needs \usepackage{booktabs}", *lines]) + "\n"


def as_rich(table: TextTable) -> Group:
    """A table for the terminal; what is bold has a star too, for where there are no fonts.

    No number is broken over lines: columns that have no room go below, beside the names again.
    """
    title = [Text(table.title)] if table.title else []
    return Group(*title, _Fitted(table), *map(Text, table.notes))


GAP = 2
"""Spaces after a column of the terminal."""


@dataclass(frozen=True)
class _Fitted:
    """The body of a table, in as many parts as the terminal needs."""

    table: TextTable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for number, columns in enumerate(self._parts(options.max_width)):
            if number:
                yield Text()
            yield self._part(columns, options.max_width)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(min(self._least), self._total(self._natural))

    @cached_property
    def _columns(self) -> list[tuple[list[str], list[str]]]:
        """The lines of heading and the texts of each column."""
        starred = [
            [f"{text}*" if (i, j) in self.table.bold else text for j, text in enumerate(row)]
            for i, row in enumerate(self.table.rows)
        ]
        headings = [*zip(*self.table.headings, strict=True)]
        return [([*heading], [row[j] for row in starred]) for j, heading in enumerate(headings)]

    @cached_property
    def _natural(self) -> list[int]:
        return [max(map(cell_len, [*heading, *texts])) for heading, texts in self._columns]

    @cached_property
    def _least(self) -> list[int]:
        """Headings and names may be broken between words, and numbers not at all."""
        return [
            max(
                map(
                    cell_len,
                    [*_words(heading), *(texts if j in self.table.right else _words(texts))],
                )
            )
            for j, (heading, texts) in enumerate(self._columns)
        ]

    def _total(self, widths: Iterable[int]) -> int:
        return sum(width + GAP for width in widths)

    def _parts(self, room: int) -> list[list[int]]:
        """The columns of each part: first the names, then as many others as there is room for;
        those below one heading stay together where they can."""
        count = len(self._columns)
        names = [*takewhile(lambda j: j not in self.table.right, range(count))]
        if len(names) == count:
            return [names]
        above = self.table.headings[:-1] or (range(count),)
        groups = groupby(range(len(names), count), lambda j: [line[j] for line in above])
        parts = [[*names]]
        for _, group in groups:
            columns = [*group]
            for each in (
                [columns] if self._fits([*names, *columns], room) else [[j] for j in columns]
            ):
                if len(parts[-1]) > len(names) and not self._fits([*parts[-1], *each], room):
                    parts.append([*names])
                parts[-1] += each
        return parts

    def _fits(self, columns: Sequence[int], room: int) -> bool:
        return self._total(self._least[j] for j in columns) <= room

    def _part(self, columns: Sequence[int], room: int) -> Table:
        widths = {j: self._natural[j] for j in columns}
        while self._total(widths.values()) > room:
            widest = max(columns, key=lambda j: widths[j] - self._least[j])
            if widths[widest] <= self._least[widest]:
                break
            widths[widest] -= 1
        shown = Table(box=None, padding=(0, GAP, 0, 0))
        for j in columns:
            heading = Text("\n".join(self._columns[j][0]))
            justify = "right" if j in self.table.right else "left"
            shown.add_column(heading, justify=justify, overflow="fold", width=widths[j])
        for i in range(len(self.table.rows)):
            shown.add_row(
                *(
                    Text(self._columns[j][1][i], "bold" if (i, j) in self.table.bold else "")
                    for j in columns
                )
            )
        return shown


def _words(texts: Iterable[str]) -> list[str]:
    return [word for text in texts for word in text.split()] or [""]


def _markdown(text: str) -> str:
    text = re.sub(r"([\\`*<|\[\]])|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)
    return re.sub(r"\s*\n\s*", " ", text)


def _markdown_line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _latex_line(texts: Sequence[str]) -> str:
    line = " & ".join(texts) + r" \\"
    # Else it would be an argument of the line before.
    return f"{{}}{line}" if line.startswith(("[", "*")) else line


def _latex_headings(headings: Sequence[Sequence[str]]) -> list[str]:
    """Lines of headings; equal neighbours below equal ones become one, with a rule below."""
    lines = []
    for depth in range(1, len(headings)):
        spans = [len([*run]) for _, run in groupby(zip(*headings[:depth], strict=True))]
        starts = [sum(spans[:i]) for i in range(len(spans))]
        texts = [_latex(headings[depth - 1][start]) for start in starts]
        pairs = [*zip(starts, spans, texts, strict=True)]
        lines.append(
            _latex_line([rf"\multicolumn{{{n}}}{{c}}{{{t}}}" if n > 1 else t for _, n, t in pairs])
        )
        rules = [
            rf"\cmidrule(lr){{{start + 1}-{start + n}}}" for start, n, t in pairs if t and n > 1
        ]
        lines += [" ".join(rules)] if rules else []
    return [*lines, _latex_line([_latex(text) for text in headings[-1]])]
