"""Text for logs and terminals: foreign text made safe to print, durations and numbers in words."""


def visible(text: str, most: int | None = None) -> str:
    r"""Return text as one line that can't control a terminal or forge a log line: `\n` for a line feed.

    Ids, names and messages come from anyone who can reach the server, so they may hold any character. Up to `most`
    characters are shown.
    """
    if not text.isprintable():
        text = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return text if most is None or len(text) <= most else f"{text[: most - 1]}…"


def without_password(url: str) -> str:
    """Return a URL that can be shown."""
    from urllib.parse import urlsplit  # every program loads this module, and few show a URL

    parts = urlsplit(url)
    if parts.password is None:
        return url
    return parts._replace(netloc=f"{parts.username or ''}:***@{parts.netloc.rpartition('@')[2]}").geturl()


def number_of(count: int, noun: str) -> str:
    """Return a number of things, as `1 dead letter` or `2 dead letters`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def in_words(seconds: float) -> str:
    """Return a duration for people, as `2.2 s`, `12 min` or `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
