"""The page of a sweep: HTML, CSS and JavaScript around JSON data.

Python gives the data, JavaScript shows it: what users wrote is set as text and never as markup, and
the content security policy forbids every script but the page's own.
"""

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, TypeAlias

import altair
import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

SCRIPTS = (
    "data.js", "format.js", "table.js", "figures.js", "glance.js", "paper.js", "state.js",
    "header.js", "controls.js", "selected.js", "beside.js", "nodes.js", "live.js", "page.js",
)  # fmt: skip
"""The page's own JavaScript, in the order in which it runs."""

Payload: TypeAlias = dict[str, Any]
"""All that a page shows, as JSON values; made by `orchestrator.results.report`."""

WEIGHTS = {"density": "remaining weights", "density_effective": "effective weights"}
"""Which weights a density on the page is of."""

INDEX_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"


def render(payload: Payload, *, live: bool = False) -> str:
    """The page with its data, scripts and styles in it.

    A `live` page asks the server that it came from whether there is news.
    """
    return _template("page.html").render(
        sweep=payload["sweep"],
        live=live,
        weights=WEIGHTS[payload["density"]],
        policy=content_policy(live=live),
        style=Markup(_asset("page.css")),
        payload=compressed(payload),
        script=Markup(_page_script()),
        charts=Markup(_chart_script()),
    )


def render_index(storage: str, sweeps: Sequence[Mapping[str, Any]]) -> str:
    """The page with the sweeps of a storage: each has `name`, and a `status` or a `problem`."""
    style = Markup(_asset("page.css"))
    return _template("index.html").render(storage=storage, sweeps=sweeps, style=style)


def compressed(payload: Payload) -> str:
    """The payload as JSON, compressed (gzip) and in base64: a third of its size, and no markup.

    A part after the other, since all of it as text would take as much memory as the tables.
    """
    gzip = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    parts = [gzip.compress(f'{"," if i else "{"}{json.dumps(name)}:{_json(value)}'.encode())
             for i, (name, value) in enumerate(payload.items())]  # fmt: skip
    return base64.b64encode(b"".join([*parts, gzip.compress(b"}"), gzip.flush()])).decode()


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


@cache
def content_policy(*, live: bool) -> str:
    """The Content-Security-Policy: the page's own two scripts, and no network.

    Vega sets style attributes, hence 'unsafe-inline' for styles, which can load nothing.
    """
    scripts = " ".join(f"'sha256-{_digest(text)}'" for text in (_page_script(), _chart_script()))
    network = "'self'" if live else "'none'"
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; "
        f"img-src data: blob:; connect-src {network}; "
        "base-uri 'none'; form-action 'none'"
    )


@cache
def _template(name: str) -> Template:
    return Environment(
        loader=PackageLoader("orchestrator.results.page", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    ).get_template(name)


@cache
def _page_script() -> str:
    body = "\n".join(_asset(name) for name in SCRIPTS)
    return f'"use strict";\n(async () => {{\n{body}\n}})();\n'


@cache
def _chart_script() -> str:
    """Vega, Vega-Lite and vega-embed, of the Vega-Lite version that altair writes."""
    vegalite = ".".join(altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=vegalite)


def _asset(name: str) -> str:
    return (files("orchestrator.results.page") / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
