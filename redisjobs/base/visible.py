"""Text for logs and terminals: makes foreign text safe to print, and puts numbers and durations into words."""


def visible(text: str, most: int | None = None) -> str:
    r"""Return text as one line that can't control a terminal or forge a log line. A line feed becomes `\n`.

    Anyone who can reach the server can write ids, names and messages, so they may hold any character. Text of
    more than `most` characters is cut.
    """
    if not text.isprintable():
        text = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return text if most is None or len(text) <= most else f"{text[: most - 1]}…"


def without_password(url: str) -> str:
    """Return a URL with its passwords hidden: that before the hosts, and those among the options."""
    import re  # here, because every program loads this module and few show a URL

    url = re.sub(r"(?i)([?&]\w*password)=[^&#]*", r"\1=***", url)
    return re.sub(r"^([^/]*//[^/:@]*):.*@", r"\1:***@", url)  # to the last @: a password may have a / or a ?


def number_of(count: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun: `1 dead letter`, `2,000 dead letters`."""
    return f"{count} {noun}" if count == 1 else f"{count:,} {plural or noun + 's'}"


def in_words(seconds: float) -> str:
    """Return a duration for people: `2.2 s`, `12 min` or `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def sentence(text: str) -> str:
    """Return a text with a capital letter and a full stop; '' stays ''."""
    return text[:1].upper() + text[1:] + "." * (text[-1:] not in ("", ".", "?", "!"))
