"""The command `prunesweep`: what commands there are, and how they end."""

import gc
import signal
import sys

import cyclopts

from orchestrator.commands.called import as_called
from orchestrator.commands.exit_codes import FAILED, INTERRUPTED, OK, WRONG_INPUT
from orchestrator.commands.results import dashboard, export, figures, report, results, wandb_sync
from orchestrator.commands.running import plan, run, status, stop, submit
from orchestrator.commands.storages import doctor, du, gc_, merge, mv, rm, verify
from orchestrator.commands.streams import complain, leave_stdout, prepare_streams
from orchestrator.commands.sweep_files import init, list_, schema
from orchestrator.errors import message
from orchestrator.run.interruption import TOLD_TO_GO, interrupt
from orchestrator.version import VERSION

app = cyclopts.App(
    name="prunesweep",
    help="Sweeps of neural-network pruning experiments on a Ray cluster.",
    help_format="markdown",
    version=VERSION,
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,
)

app.register_install_completion_command()

for command in (
    *(init, list_, schema),
    *(plan, run, submit, stop, status),
    *(results, figures, report, dashboard, wandb_sync, export),
    *(rm, mv, gc_, merge, du, verify, doctor),
):
    app.command(command)


def main() -> None:
    """The entry point: exit codes 0, 1 (failures), 2 (wrong input), 130 (interrupted)."""
    for told_to_go in TOLD_TO_GO:
        signal.signal(told_to_go, interrupt)
    prepare_streams()
    # Imports make many objects and little garbage; most of a command's start is imports.
    gc.set_threshold(100_000)
    try:
        code = app(sys.argv[1:], result_action="return_value", exit_on_error=False)
        sys.stdout.flush()
        if "duckdb" not in sys.modules:  # it complains of what it finds left of its own
            gc.freeze()  # else Python goes through every object when it exits, several times
        sys.exit(code or OK)
    except KeyboardInterrupt:
        complain("interrupted; everything committed is safe, run again to resume")
        leave_stdout()
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # who read it has enough
        leave_stdout()
        sys.exit(FAILED)
    except cyclopts.CycloptsError:
        sys.exit(WRONG_INPUT)
    except Exception as error:
        told = message(error)
        if told is None:
            raise
        complain(f"prunesweep: {as_called(told)}")
        leave_stdout()
        sys.exit(WRONG_INPUT)
