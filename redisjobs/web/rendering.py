"""Templates to HTML, and the files that the page loads."""

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from redisjobs.base.visible import number_of
from redisjobs.web.board.filters import key_of, query_of
from redisjobs.web.show import format as shown
from redisjobs.web.show.plots import sparkline

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("redisjobs.web"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {
        "count": shown.count,
        "short": shown.short,
        "duration": shown.duration,
        "ago": shown.ago,
        "clock": shown.clock,
        "iso": shown.iso,
        "cut": shown.cut,
        "lines": shown.lines,
        "key": key_of,
        "query": query_of,
        "number_of": number_of,
        "commands": with_commands,
    }
    environment.globals |= {"version_of": version_of, "sparkline": sparkline}
    return environment


def with_commands(text: str) -> Markup:
    """Return text as HTML, with what stands between backticks as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # one has no end
        return Markup.escape(text)
    code = Markup("<code>{}</code>")
    return Markup().join(code.format(part) if at % 2 else part for at, part in enumerate(parts))


def render(template: str, data: Mapping[str, Any]) -> bytes:
    """Return the HTML of a template. Text that UTF-8 can't carry becomes escapes."""
    html = _environment().get_template(f"{template}.html").render(data)
    return html.encode("utf-8", "backslashreplace")


def static_file(name: str) -> tuple[bytes, str] | None:
    """Return a file that the page loads, with its media type; None if there is no such file."""
    return _static_files().get(name)


@cache
def _static_files() -> Mapping[str, tuple[bytes, str]]:
    folder = resources.files("redisjobs.web") / "static"
    return {
        each.name: (each.read_bytes(), _TYPES.get(f".{each.name.rpartition('.')[2]}", "application/octet-stream"))
        for each in folder.iterdir()
        if each.is_file()
    }


@cache
def version_of(name: str) -> str:
    """Return a short hash of a file that the page loads, for its address."""
    found = static_file(name)
    assert found is not None, name
    return hashlib.sha256(found[0]).hexdigest()[:12]
