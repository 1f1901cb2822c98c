"""One static HTML page: templates that escape what they are given, data as JSON, charts from a vendored library.

Nothing is fetched and nothing else runs: the page's own policy (Content-Security-Policy) names the scripts by their
hashes and refuses every request, so that a text which looks like markup stays text whoever wrote it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

ASSETS = Path(__file__).parent / "assets"


def templates(package: str) -> jinja2.Environment:
    """The templates that lie in a package's folder, with escaping on and the filters of numbers."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader(package, ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"count": _count, "percent": _percent, "number": _number}
    return found


def page(title: str, body: str, data: Mapping[str, Any], script: str) -> str:
    """A whole page as HTML.

    Args:
        title: Of the page, as text.
        body: Markup of the page's main part, from a template of `templates`.
        data: What `script` draws from, as JSON; in the script it is `DATA`.
        script: JavaScript of the page's own; `Plot`, `DATA` and the functions of charts.js are there for it.
    """
    scripts = [_asset("plot.min.js"), _asset("charts.js"), script]
    return (
        templates(__name__)
        .get_template("assets/page.html")
        .render(
            title=title,
            body=Markup(body),
            style=Markup(_asset("page.css")),
            scripts=[Markup(one) for one in scripts],
            policy=_policy(scripts),
            data=Markup(_embedded(data)),
        )
    )


def _policy(scripts: list[str]) -> str:
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


def _embedded(data: Mapping[str, Any]) -> str:
    """JSON that cannot end the element it stands in; a number that is none is an error, a lone surrogate is not."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text = text.encode("utf-8", "replace").decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _count(value: int) -> str:
    return f"{value:,}"


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _number(value: float) -> str:
    return f"{value:,.2f}" if abs(value) < 100 else f"{value:,.0f}"
