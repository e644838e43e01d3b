"""One page out of its parts: style, body, libraries, scripts and data.

Names and messages from a repository are only ever data: JSON in a script element that no browser
runs, with every `<` escaped. The page's policy lets only the scripts run whose digests it names,
and loads nothing.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from git_theta.repo.objects import store_failed

_LIBRARIES = ("vendor/d3.min.js", "vendor/plot.umd.min.js", "common.js")


def assemble(name: str, title: str, data: Any) -> str:
    """The page called `name` (`diff`, `log`) with its data."""
    scripts = [_part(part) for part in (*_LIBRARIES, f"{name}.js")]
    told = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="referrer" content="no-referrer">',
        f"<title>{html.escape(title)}</title>",
        '<link rel="icon" href="data:,">',
        f"<style>{_part('style.css')}</style>",
        "</head>",
        "<body>",
        _part(f"{name}.html"),
        "<noscript><p>This page draws itself with a script that is part of it.</p></noscript>",
        f'<script type="application/json" id="data">{told}</script>',
        *(f"<script>{script}</script>" for script in scripts),
        "</body>",
        "</html>",
    ]
    return "\n".join(parts) + "\n"


def _part(name: str) -> str:
    return files(__package__ or "").joinpath(*name.split("/")).read_text("utf-8")


def _policy(scripts: Sequence[str]) -> str:
    """Only these very scripts run. The plotting library styles its pictures from within."""
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    allowed = " ".join(f"'sha256-{base64.b64encode(d).decode()}'" for d in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def write_page(target: Path, text: str) -> None:
    """Write a page.

    Raises:
        StoreError: the file cannot be written.
    """
    try:
        target.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        store_failed(error, f"{target} cannot be written")
