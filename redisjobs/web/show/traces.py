"""Tracebacks with the application's own frames first. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_FRAME = re.compile(
    r'^  (?:\| )*File "(?P<file>[^"\n]*)", line (?P<line>\d+), in (?P<function>[^\n]*)\n'
    r"(?P<code>(?:    [^\n]*\n?)*)",
    re.MULTILINE,
)
_LIBRARY = re.compile(
    r"[/\\](?:site-packages|dist-packages)[/\\]|[/\\]lib(?:64)?[/\\]python3[^/\\]*[/\\]|^<frozen ", re.I
)
_OURS = re.compile(r"[/\\]redisjobs[/\\](?:worker|events|base|client|model)\b")
_MARKS = re.compile(r"^\s*[~^]+\s*$")
_MOST = 100_000  # characters; the end of a longer traceback is looked at


@dataclass(frozen=True, slots=True)
class TraceFrame:
    """A frame of a traceback.

    Attributes:
        place: The end of its file's path, and the line: `billing/render.py:41`.
        function: Its function.
        code: Its source line; '' if it is not known.
    """

    place: str
    function: str
    code: str


@dataclass(frozen=True, slots=True)
class Trace:
    """A traceback.

    Attributes:
        own: The application's own frames, the innermost first. If there are none, all frames.
        others: How many frames of libraries there are besides.
        text: The whole text.
    """

    own: Sequence[TraceFrame]
    others: int
    text: str


def read_trace(text: str) -> Trace:
    """Return the frames of a traceback's last exception, and the whole text."""
    last = text[-_MOST:].rpartition("Traceback (most recent call last):")[2]
    frames = [*_FRAME.finditer(last)]
    own = [frame for frame in frames if not _is_library(frame["file"])] or frames
    return Trace([_frame(found) for found in reversed(own)], len(frames) - len(own), text)


def _is_library(file: str) -> bool:
    return bool(_LIBRARY.search(file) or _OURS.search(file))


def _frame(found: "re.Match[str]") -> TraceFrame:
    parts = re.split(r"[/\\]", found["file"])
    code = next((line.strip() for line in found["code"].splitlines() if not _MARKS.match(line)), "")
    return TraceFrame(f"{'/'.join(parts[-2:])}:{found['line']}", found["function"], code)
