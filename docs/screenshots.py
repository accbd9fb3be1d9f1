"""The pictures in the documents, of a real run of the quickstart: `make screenshots`.

The terminal's are what rich has drawn, 80 and 140 columns wide; the report's are what Chromium
shows of it, in light and dark and as wide as a phone.
"""

import io
import os
import re
import shutil
import tempfile
import threading
import time
from pathlib import Path

import psutil
from PIL import Image
from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.text import Text

from orchestrator.results.opening import open_results
from orchestrator.results.query import last_iterations
from orchestrator.results.rendering import as_rich
from orchestrator.results.report import write_report
from orchestrator.run.progress import RunProgress
from orchestrator.run.sweep import run_sweep
from orchestrator.sweepfile.yaml_source import load_sweep
from trainables.data import data_roots
from trainables.store import Store

IMAGES = Path(__file__).parent / "images"
QUICKSTART = Path(__file__).parents[1] / "sweeps/quickstart.yaml"

COLUMNS = (80, 140)
HALFWAY = 0.6
"""Of the iterations, when the run's view is taken: some lineages are done, and some at work."""

PAGES = {
    "report-light": (1280, 1000, "light"),
    "report-dark": (1280, 1000, "dark"),
    "report-phone": (390, 844, "light"),
}
"""Width, height and theme; a phone's pixels are twice as dense."""
REMOTE_FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
"""What rich's SVG would fetch from the network to be read."""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        views = _run(store)
        for width in COLUMNS:
            _terminal(width, views[width], store)
        report = Path(folder) / "report.html"
        write_report(open_results(store, "quickstart"), report)
        _pages(report)
    for file in sorted(IMAGES.iterdir()):
        print(f"{file} {file.stat().st_size / 1000:.0f} kB")


def _run(store: Store) -> dict[int, Text]:
    """Run the quickstart; its view in the middle, for each width."""
    spec, roots = load_sweep(QUICKSTART, ["wandb.mode=disabled"]), data_roots(None, os.environ)
    progress = RunProgress(store, spec.name, Console(file=io.StringIO(), width=max(COLUMNS)))
    views: dict[int, Text] = {}

    def look() -> None:
        psutil.cpu_percent()  # the view says how busy the processors were since the last look
        while progress.counts.iterations < HALFWAY * max(progress.counts.to_train, 1):
            time.sleep(0.2)
        for width in COLUMNS:
            time.sleep(0.5)
            views[width] = Text.from_ansi(_drawn(progress, width))

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    command = ["prunesweep", "run", "quickstart"]
    run_sweep(spec, store, roots, progress, address=None, command=command)
    looking.join()
    return views


def _drawn(what: object, width: int) -> str:
    console = Console(
        file=io.StringIO(), width=width, force_terminal=True, color_system="truecolor"
    )
    with console.capture() as captured:
        console.print(what)
    return captured.get()


def _terminal(width: int, view: Text, store: Store) -> None:
    """The run in the middle, and what it ends with, as an SVG."""
    console = Console(file=io.StringIO(), width=width, record=True, force_terminal=True)
    console.print("$ prunesweep run quickstart", style="bold", highlight=False)
    console.print(view)
    console.print("… and at its end", style="dim")
    console.print(as_rich(last_iterations(open_results(store, "quickstart"))))
    svg = console.export_svg(title=f"{width} columns")
    (IMAGES / f"run-{width}.svg").write_text(REMOTE_FONT.sub("", svg))


def _pages(report: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, (width, height, theme) in PAGES.items():
            page = browser.new_page(
                viewport={"width": width, "height": height},
                color_scheme=theme,  # pyright: ignore[reportArgumentType]
                device_scale_factor=2 if width < 500 else 1,
            )
            page.goto(report.as_uri())
            page.wait_for_selector("svg, canvas")
            page.wait_for_timeout(1500)
            taken = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            few = taken.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
            few.save(IMAGES / f"{name}.png", optimize=True)
        browser.close()


if __name__ == "__main__":
    main()
