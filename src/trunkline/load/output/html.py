"""Pieces of a report that is one HTML file: no network, nothing of a report's texts that could do anything. Pure.

Rules: each text is escaped where it is put in; the page's policy lets nothing run or load but the one script and the
one style sheet whose hashes it names. Plots get their data as JSON in which no character can end the element that holds
it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from html import escape as escaped
from importlib import resources
from string import Template
from typing import Final

import msgspec

from trunkline.load.output.formatting import plain
from trunkline.load.output.plots import MAX_POINTS, Plots

SPACE: Final = "\u00a0"
"""In numbers, so that no line ends before a unit."""


def document(title: str, body: str, drawn: Plots) -> bytes:
    """The whole file in UTF-8, of a title as plain text and of a body as HTML."""
    style, script = _asset("page.css"), _asset("page.js")
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    whole = Template(_asset("page.html")).substitute(
        policy=policy, style=style, script=script, body=body, plots=_embedded(drawn), title=text(title)
    )
    return whole.encode("utf-8", "replace")


def over_time(drawn: Plots) -> str:
    """The section that the script fills with the plots over time; empty without any."""
    if not drawn.over_time:
        return ""
    note = "Point at a plot, or focus it and use the arrow keys, for the values of that moment."
    if drawn.step > 1:
        note += f" There are more than {MAX_POINTS:,} seconds, so each point covers {drawn.step} s: {drawn.binned}."
    return section(
        "Over time",
        f'<p class="hint" id="pointing" hidden>{note}</p><div id="over-time" class="plots"></div>'
        "<noscript><p>The plots are drawn by the script of this page; all numbers are in the tables.</p></noscript>",
    )


def section(title: str, content: str) -> str:
    """A part of the page: a title as plain text, and HTML."""
    return f"<section><h2>{text(title)}</h2>{content}</section>"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], none: str) -> str:
    """A table of HTML cells; a column whose name begins with # holds numbers. `none` stands for one without rows."""
    numeric = [' class="n"' if name.startswith("#") else "" for name in columns]
    lines = [
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(numeric, row, strict=True)) + "</tr>"
        for row in rows
    ]
    if not lines:
        return f'<p class="none">{text(none)}</p>'
    head = "".join(
        f'<th scope="col"{kind}>{text(name.removeprefix("#"))}</th>'
        for kind, name in zip(numeric, columns, strict=True)
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def tile(what: str, value: str, about: str, *, bad: bool = False) -> str:
    """One of the key numbers, and what it is about; all HTML."""
    return f"<li{' class=bad' if bad else ''}><span>{what}</span> <strong>{value}</strong> <span>{about}</span></li>"


def code(of: str) -> str:
    """A name or an expression, as it is written."""
    return f"<code>{text(of)}</code>"


def mark(good: bool, yes: str, no: str) -> str:
    """A result that does not depend on colours alone."""
    return f'<span class="good">✓ {yes}</span>' if good else f'<span class="bad">✗ {no}</span>'


def free(of: str) -> str:
    """A text of any length, which may be broken anywhere."""
    return f'<span class="text">{text(of)}</span>'


def text(of: str) -> str:
    """Any text as HTML that shows it, and does nothing else."""
    return escaped(plain(of))


def unbroken(number: str) -> str:
    """A number as HTML, on one line with its unit."""
    return escaped(number).replace(" ", SPACE)


def _asset(name: str) -> str:
    return resources.files("trunkline.load.output").joinpath("page_assets", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """A source of a Content-Security-Policy that allows exactly this inline text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _embedded(data: msgspec.Struct) -> str:
    r"""JSON for inside a script element: `<`, `>`, `&` and the two line ends of Unicode only as \u escapes."""
    text = msgspec.json.encode(data).decode()
    return text.translate({ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"})
