"""Values that are hidden, and where a text repeats them."""

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from redisjobs.errors import DecodeError
from redisjobs.model.payload import decode_untyped

HIDDEN = "•••"

# Possessive: a text of many quotes without an end would else be read again from each. A cut text has no end.
_STRING = r'"(?:[^"\\]|\\(?s:.))*+"?'
_SCALAR = re.compile(rf"{_STRING}|[^\s,\]}}\[{{]+")
_PART = re.compile(rf"{_STRING}|[\[{{]|[\]}}]")

_LONGEST = 1_000  # characters of a hidden value; what follows a longer one is hidden, too
_SHORTEST = 3  # shorter values are too frequent in other words
_CUT = "…"
# Characters of a text that may be cut: a note of a history is, at 1,000 bytes, and does not say so.
_CUT_FROM = 900
_PLAIN = ("true", "false", "null")


class Keys:
    """The names of JSON keys whose values are hidden."""

    def __init__(self, names: list[str]) -> None:
        self.names = frozenset(name.lower() for name in names)
        either = "|".join(map(re.escape, names))
        self._pattern = re.compile(rf'("(?:{either})"\s*:\s*)({_SCALAR.pattern}|[\[{{])', re.IGNORECASE)

    def without(self, text: str) -> str:
        """Return a JSON text, or a text with a part of one, without the values of the keys."""
        shown, at = list[str](), 0
        for key, start, end in self._found(text):
            shown += [text[at:start], key, f'"{HIDDEN}"']
            at = end
        return "".join([*shown, text[at:]])

    def secrets(self, text: str) -> set["Secret"]:
        """Return the texts and numbers under the keys in a JSON text, which may be cut."""
        found = set[Secret]()
        for key, start, end in self._found(text):
            for one in _SCALAR.finditer(text, start + len(key), end):
                found.add(Secret(_decoded(one[0]), is_cut=one.end() == len(text)))
        return {secret for secret in found if len(secret.value) >= _SHORTEST and secret.value not in _PLAIN}

    def _found(self, text: str) -> Iterator[tuple[str, int, int]]:
        """Yield each key as it stands there, where it begins, and where its value ends."""
        at = 0
        while found := self._pattern.search(text, at):
            at = _end_of(text, found.end() - 1) if found[2] in ("[", "{") else found.end()
            yield found[1], found.start(), at


@dataclass(frozen=True, slots=True)
class Secret:
    """A hidden value, in any form in which an error repeats it.

    It may stand there as it is, in one line, with the escapes of JSON or Python, or cut off.

    Attributes:
        value: The value.
        is_cut: Whether only its beginning is known.
    """

    value: str
    is_cut: bool = False

    def hidden_in(self, text: str) -> str:
        """Return a text without the value."""
        text = re.sub(self._pattern(), HIDDEN, text)
        return self._without_beginning(text) if len(text) >= _CUT_FROM or _CUT in text else text

    def _pattern(self) -> str:
        has_rest = self.is_cut or len(self.value) > _LONGEST
        return "".join(self._characters()) + (r"(?s:.*)" if has_rest else "")

    def _characters(self) -> list[str]:
        # Two repetitions in a row would take too long.
        return [*map(_of_character, re.sub(r"(\s)\s+|(\\)\\+", r"\1\2", self.value[:_LONGEST]))]

    def _without_beginning(self, text: str) -> str:
        """Return a text without the beginning of the value, where the text was cut inside of it."""
        characters, shown, done = self._characters(), list[str](), 0
        for found in re.finditer("".join(characters[:_SHORTEST]), text):
            end = _followed(text, found.end(), characters[_SHORTEST:])
            if found.start() >= done and (end == len(text) or text[end] == _CUT):
                shown += [text[done : found.start()], HIDDEN]
                done = end
        return "".join([*shown, text[done:]])


def _followed(text: str, at: int, characters: Iterable[str]) -> int:
    """Return how far a text has these characters from a place on."""
    for character in characters:
        if not (more := re.compile(character).match(text, at)):
            break
        at = more.end()
    return at


def _decoded(value: str) -> str:
    """Return a text of a JSON text, or another value as it stands there."""
    for whole in (value, f'{value}"'):  # the second: it was cut off
        with suppress(DecodeError):
            if isinstance(text := decode_untyped("a value", whole.encode("utf-8", "replace")), str):
                return text
    return value.removeprefix('"')


def _of_character(char: str) -> str:
    if char.isspace():
        return r"(?:\s|\\[nrtvf]|\\x..|\\u....)+"
    if char == "\\":
        return r"\\+"
    escaped = rf"\\*{re.escape(char)}" if char in "\"'/" else re.escape(char)
    code = f"{ord(char):04x}"
    return escaped if char.isascii() and char.isprintable() else rf"(?:{escaped}|(?i:\\u{code}|\\x{code[-2:]}))"


def _end_of(text: str, at: int) -> int:
    """Return where the list or object ends that begins at a place of a JSON text; the text's end if nowhere."""
    depth = 0
    for found in _PART.finditer(text, at):
        depth += (found[0] in "[{") - (found[0] in "]}") if found[0][0] != '"' else 0
        if depth == 0:
            return found.end()
    return len(text)
