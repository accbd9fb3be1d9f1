"""Rendering tables for people: GitHub's Markdown, LaTeX with booktabs, the terminal."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import pyarrow as pa
from rich.console import Group
from rich.table import Table
from rich.text import Text

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "^": r"\textasciicircum{}", "_": r"\_", "~": r"\textasciitilde{}", "%": r"\%",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "±": r"$\pm$", "−": r"$-$", "×": r"$\times$", "≥": r"$\geq$", "≤": r"$\leq$", "–": "--",
    "—": "---", "β": r"$\beta$", "γ": r"$\gamma$", "η": r"$\eta$", "χ": r"$\chi$", "\n": " ",
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


def decimals(value: float, places: int, significant: int = 2, sign: str = "") -> str:
    """A number with so many decimal places, or as many more as show `significant` digits: of
    0.0004, two places would leave nothing. With the `sign` "+", positive ones have one."""
    if NOISE < abs(value) < 10.0 ** (significant - 1 - places):
        return f"{value:{sign}.{significant}g}"
    return f"{0.0 if abs(value) <= NOISE else value:{sign}.{places}f}"


def text_table(
    table: pa.Table, formats: Mapping[str, Callable[[float], str]] | None = None
) -> TextTable:
    """An Arrow table with its values as Python prints them, or as the `formats` of their columns
    have them; nulls are empty."""
    shown = [(formats or {}).get(name, str) for name in table.column_names]
    columns = [
        ["" if value is None else form(value) for value in column.to_pylist()]
        for form, column in zip(shown, table.columns, strict=True)
    ]
    kinds = [field.type for field in table.schema]
    right = {
        i
        for i, kind in enumerate(kinds)
        if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    }
    return TextTable(
        (tuple(table.column_names),), tuple(zip(*columns, strict=True)), frozenset(right)
    )


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
    """A table for the terminal; what is bold has a star too, for where there are no fonts."""
    shown = Table(box=None, padding=(0, 2, 0, 0))
    for j, parts in enumerate(zip(*table.headings, strict=True)):
        justify = "right" if j in table.right else "left"
        shown.add_column(Text("\n".join(parts)), justify=justify, overflow="fold")
    for i, row in enumerate(table.rows):
        bold = [(i, j) in table.bold for j in range(len(row))]
        shown.add_row(
            *(Text(f"{t}*", "bold") if b else Text(t) for t, b in zip(row, bold, strict=True))
        )
    title = [Text(table.title)] if table.title else []
    return Group(*title, shown, *map(Text, table.notes))


def _markdown(text: str) -> str:
    text = re.sub(r"([\\`*<|\[\]])|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)
    return re.sub(r"\s*\n\s*", " ", text)


def _markdown_line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _latex_line(texts: Sequence[str]) -> str:
    return " & ".join(texts) + r" \\"


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
