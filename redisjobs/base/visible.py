"""Text for a log or a terminal: what comes from outside made fit for it, and numbers of things."""


def visible(text: str, most: int | None = None) -> str:
    r"""Text in one line that acts on no terminal and forges no line of a log: `\n` for a line feed.

    Ids, names and messages come from whoever can reach the server, so they may hold any character.

    Args:
        text: The text.
        most: How many characters are shown of it. Defaults to all.
    """
    if not text.isprintable():
        text = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return text if most is None or len(text) <= most else f"{text[: most - 1]}…"


def without_password(url: str) -> str:
    """A URL that can be shown."""
    from urllib.parse import urlsplit  # everybody loads this module, and few show a URL

    parts = urlsplit(url)
    if parts.password is None:
        return url
    return parts._replace(netloc=f"{parts.username or ''}:***@{parts.netloc.rpartition('@')[2]}").geturl()


def number_of(count: int, noun: str) -> str:
    """A number of things, as `1 dead letter` and `2 dead letters`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
