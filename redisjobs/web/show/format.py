"""Numbers, durations, times and JSON as text for people. Pure."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise

from redisjobs.base.visible import in_words, visible

_SUFFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
_DAY = 86_400
# Possessive: a text of many quotes without an end would else be read again from each.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"?|[{}\[\],:]|[^\s{}\[\],:"]+', re.DOTALL)
_MOST_TOKENS = 20_000  # a longer text is shown as it is stored


def count(number: float) -> str:
    """Return a number with separators: `18,430`."""
    return f"{number:,.0f}"


def short(number: float) -> str:
    """Return a number with three digits: `950`, `1.23k`, `761k`, `18.4M`."""
    for size, suffix in _SUFFIXES:
        if number >= size * 0.9995:
            return f"{number / size:.3g}{suffix}"
    return f"{number:.3g}" if number >= 1 else f"{number:.2g}"


def duration(seconds: float | None) -> str:
    """Return a duration: `84 ms`, `2.2 s`, `12 min`, `3.5 h` or `3 days`; '' for None."""
    if seconds is None:
        return ""
    if 0 < seconds < 0.0005:
        return "<1 ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds / _DAY:.0f} days" if seconds >= 2 * _DAY else in_words(seconds)


def ago(when: datetime, now: datetime) -> str:
    """Return a time as its distance from now: `4 min ago`, `in 20 s` or `just now`."""
    seconds = (now - when).total_seconds()
    if abs(seconds) < 1:  # the clock of this process may differ from the server's
        return "just now"
    distance = duration(round(abs(seconds)))
    return f"{distance} ago" if seconds > 0 else f"in {distance}"


def clock(when: datetime, now: datetime) -> str:
    """Return a time in UTC, with its date if it is not today's: `11:36:02` or `28 Dec 11:36`."""
    when, now = when.astimezone(UTC), now.astimezone(UTC)
    if when.date() == now.date():
        return f"{when:%H:%M:%S}"
    return f"{when.day} {when:%b %H:%M}" if when.year == now.year else f"{when:%Y-%m-%d %H:%M}"


def iso(when: datetime) -> str:
    """Return a time in UTC for a title: `2026-11-26 11:36:02 UTC`."""
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def cut(text: str, most: int) -> str:
    """Return text on one line, without control characters, cut to `most` characters."""
    return visible(text[: most + 1], most)


def lines(text: str) -> str:
    """Return text of several lines without other control characters, which a browser can't show."""
    return "\n".join(map(visible, text.expandtabs(4).splitlines()))


def json_lines(text: str) -> str:
    """Return JSON text with line breaks and indents. No number or string changes, and any text is accepted.

    The text is not parsed and written again, because that would change large integers, floats and repeated keys.
    """
    tokens = _TOKEN.findall(text)
    if not _is_json(tokens, text):
        return lines(text)
    written, depth = list[str](), 0
    tokens = _with_short_lists(tokens)
    for at, token in enumerate(tokens):
        after = tokens[at + 1] if at + 1 < len(tokens) else ""
        if token in _CLOSES:
            depth -= 1
            written.append(token if tokens[at - 1] in _OPENS else f"{_line(depth)}{token}")
        elif token in _OPENS:
            depth += 1
            written.append(token if after in _CLOSES else f"{token}{_line(depth)}")
        elif token == ",":
            written.append(f",{_line(depth)}")
        else:
            written.append(": " if token == ":" else visible(token))
    return "".join(written)


def _with_short_lists(tokens: Sequence[str]) -> list[str]:
    """Return the tokens, with each short list of numbers and strings as one token: `[1, 2, 3]`."""
    found, at = list[str](), 0
    while at < len(tokens):
        end = next((place for place in range(at + 1, min(at + 40, len(tokens))) if tokens[place] in _SIGNS), at)
        inside = tokens[at + 1 : end]
        if (
            tokens[at] == "["
            and tokens[end] == "]"
            and inside
            and {*inside[1::2]} <= {","}
            and "," not in inside[::2]
        ):
            short = f"[{', '.join(map(visible, inside[::2]))}]"
            if len(inside) % 2 and len(short) <= _SHORT:
                found.append(short)
                at = end + 1
                continue
        found.append(tokens[at])
        at += 1
    return found


_SHORT = 72  # characters of a list on one line
_SIGNS = ("{", "}", "[", "]", ":")
_OPENS, _CLOSES = ("{", "["), ("}", "]")
_DEEPEST = 20  # deeper lines are not indented further


def _line(depth: int) -> str:
    return "\n" + "  " * min(depth, _DEEPEST)


def _is_json(tokens: Sequence[str], text: str) -> bool:
    """Return whether a text has the form of a JSON object or list, and is not too long to look at."""
    if len(tokens) > _MOST_TOKENS or tokens[:1] not in (["{"], ["["]):
        return False
    signs = {*_OPENS, *_CLOSES, ",", ":"}
    has_pairs = any(one not in signs and other not in signs for one, other in pairwise(tokens))
    opened = sum((token in _OPENS) - (token in _CLOSES) for token in tokens)
    return not has_pairs and opened == 0 and len("".join(tokens)) >= len("".join(text.split()))
