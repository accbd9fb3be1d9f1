"""Settings of the site that `make docs` builds with Sphinx, of the repository's own documents."""

import re
from importlib.metadata import version as installed
from pathlib import Path

ROOT = Path(__file__).parents[1]

project = "prunesweep"
author = "The prunesweep authors"
version = release = installed("prunesweep")

extensions = ["myst_parser", "sphinx.ext.autodoc", "cyclopts.sphinx_ext"]
root_doc = "docs/index"
# The repository is the source, so that documents link to each other and to files as they do there.
include_patterns = ["*.md", "docs/*.md", "sweeps/README.md"]
exclude_patterns = [".*", "build", "shared", "tests"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]

html_theme = "furo"
html_title = f"prunesweep {release}"

autodoc_member_order = "bysource"
autodoc_typehints = "description"

FOLDER = re.compile(r"\[([^\]]+)\]\(((?:\.\./)?[\w./-]+)\)")


def setup(app) -> None:
    app.connect("source-read", _name_folders)
    app.connect("autodoc-process-docstring", _as_restructured_text)


def _name_folders(app, document: str, source: list[str]) -> None:
    """A link to a folder of the repository becomes its name: a site has no folders."""
    here = (ROOT / document).parent

    def named(link: re.Match[str]) -> str:
        return link[1] if (here / link[2]).is_dir() else link[0]

    source[0] = FOLDER.sub(named, source[0])


def _as_restructured_text(app, what, name, thing, options, lines: list[str]) -> None:
    """Docstrings are plain text in which backticks stand around code, and code may be indented."""
    text = re.sub(r"`([^`]+)`", lambda code: f"``{' '.join(code[1].split())}``", "\n".join(lines))
    lines[:] = re.sub(r":\n\n(?= {4})", "::\n\n", text).split("\n")
