"""Printing results: a query's answer, and what a run ends with."""

from __future__ import annotations

import io
import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console

from orchestrator.commands.called import called
from orchestrator.commands.printing import print_failures, print_json, print_stopped, show_sent
from orchestrator.commands.streams import takes_unicode, write_bytes
from orchestrator.errors import ExportError
from orchestrator.records.labels import lineage_labels
from orchestrator.records.status import stopped_in
from orchestrator.results.encoding import as_csv, as_json, as_parquet
from orchestrator.results.opening import Results
from orchestrator.results.query import Answer, last_iterations
from orchestrator.results.rendering import TextTable, as_latex, as_markdown, as_rich
from orchestrator.run.allowance import budget_line

if TYPE_CHECKING:
    from orchestrator.run.sweep import RunSummary
    from trainables.store import Store

UNLIMITED = 100_000

Format = Literal["table", "csv", "json", "parquet", "latex", "markdown"]


def show_summary(summary: RunSummary, store: Store, out: Console, as_json: bool) -> None:
    plan, outcome = summary.planned.plan, summary.outcome
    name, budget = summary.planned.spec.name, summary.planned.spec.budget
    if as_json:
        print_json(
            {
                "sweep": name,
                "storage": store.location,
                "lineages": len(plan.lineages),
                "planned": len(plan.to_train),
                "to_measure": len(plan.to_measure),
                "interrupted": outcome.interrupted,
                "stopped": [asdict(each) for each in stopped_in(summary.record)],
                "budget": budget and budget.model_dump(),
                "spent": asdict(summary.spent),
                "failures": [asdict(failure) for failure in outcome.failures],
                "healed": [str(damage) for damage in summary.healed],
                "damage": [str(damage) for damage in summary.damage],
                "problem": summary.problem,
                "wandb": summary.wandb and asdict(summary.wandb),
            }
        )
        return
    if outcome.left:
        out.print(
            "told to go: everything committed is safe, and so is the state of what was in flight; "
            "the same command goes on from there. The tables are made by the next command that "
            "shows them",
            soft_wrap=True,
        )
    elif summary.problem is None:
        out.print(as_rich(last_iterations(Results(store, summary.record))))
    else:
        out.print(
            f"[red]the tables could not be written:[/red] {summary.problem}; every iteration "
            f"is committed, `{called()} results {name}` makes them when it can"
        )
    names = lineage_labels(summary.record)
    print_stopped(stopped_in(summary.record), names, out)
    print_failures(outcome.failures, names, out)
    for damage in summary.healed:
        out.print(f"set aside in quarantine/ and trained again: {damage}")
    for damage in summary.damage:
        out.print(f"[red]damaged:[/red] {damage}; run again to train it anew")
    if outcome.spent and budget:
        out.print(
            f"budget: {budget_line(budget, summary.spent)}; {_unfinished(summary, store)}, and the "
            "same command with a larger budget goes on",
            soft_wrap=True,
            highlight=False,
        )
    elif outcome.interrupted and not outcome.left:
        out.print("interrupted: everything committed is safe; the same command resumes")
    elif not plan.tasks and not plan.left:
        out.print("nothing to train: the store has every iteration")
    if summary.wandb is not None:
        show_sent(summary.wandb, store, name, out, as_json=False)
    query_command = f"{called()} results {name} --storage {shlex.quote(store.location)}"
    shown = f"results: {store.uri('tables')}   query them: {query_command}"
    out.print(shown, soft_wrap=True, highlight=False)


def _unfinished(summary: RunSummary, store: Store) -> str:
    """What is left to train, in words."""
    there = store.committed("iterations")
    lines = [[key for key in line.keys if key not in there] for line in summary.record.lineages]
    lines = [line for line in lines if line]
    left = len({key for line in lines for key in line})
    most = "at most " if summary.planned.plan.may_end else ""
    whose = "1 lineage" if len(lines) == 1 else f"{len(lines)} lineages"
    return f"{most}{left} iterations of {whose} are left"


def show_table(answer: Answer, out: Console, format: Format, output: Path | None) -> None:
    """Raises ExportError when `output` cannot be written."""
    if output is not None:
        try:
            output.write_bytes(_encoded(answer, format))
        except OSError as error:
            raise ExportError(f"cannot write {output}: {error.strerror}") from error
    elif format == "table" and out.is_terminal:
        out.print(as_rich(answer.text))
    elif format == "parquet" or takes_unicode():
        write_bytes(_encoded(answer, format))
    else:
        sys.stdout.write(_with_escapes(answer, format))


def _encoded(answer: Answer, format: Format) -> bytes:
    match format:
        case "table":
            return _plain_text(answer.text)
        case "markdown":
            return as_markdown(answer.text).encode()
        case "latex":
            return as_latex(answer.text).encode()
        case "csv":
            return as_csv(answer.table)
        case "json":
            return as_json(answer.table)
        case "parquet":
            return as_parquet(answer.table)


def _with_escapes(answer: Answer, format: Format) -> str:
    """For a stream that cannot encode everything: in JSON, unlike elsewhere, nothing is lost."""
    text = _encoded(answer, format).decode()
    return json.dumps(json.loads(text), indent=1) + "\n" if format == "json" else text


def _plain_text(table: TextTable) -> bytes:
    """As wide as it needs to be: a pipe or a file has no width."""
    text, shown = io.StringIO(), as_rich(table)
    console = Console(file=text, width=UNLIMITED)
    Console(file=text, width=console.measure(shown).maximum).print(shown)
    return text.getvalue().encode()
