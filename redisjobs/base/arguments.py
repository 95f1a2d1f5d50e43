"""Checks of arguments that callers give: what is wrong, and what to give instead."""

import re
from enum import StrEnum
from typing import TypeGuard, TypeVar

Choice = TypeVar("Choice", bound=StrEnum)

_HALF_A_PAIR = re.compile("[\ud800-\udfff]")


def number(value: float, what: str) -> float:
    """A number, if it is one.

    Raises:
        ValueError: It is something else; `what` is what the caller calls it.
    """
    if isinstance(value, bool) or not isinstance(value, float | int):
        raise ValueError(f"{what}={value!r}: give a number")
    return value


def whole(value: int, what: str) -> int:
    """A whole number from 1 up, if it is one.

    Raises:
        ValueError: It is something else; `what` is what the caller calls it.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{what}={value!r}: give a whole number from 1 up")
    return value


def flag(value: object, what: str) -> bool:
    """A value that is True or False.

    Raises:
        ValueError: It is neither.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{what}={value!r}: give True or False")
    return value


def one_of(kind: type[Choice], value: str, what: str) -> Choice:
    """One of a few words, which may be given as text.

    Raises:
        ValueError: It is none of them; `what` is what the caller calls it.
    """
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(f"{kind.__name__}.{each.name} ('{each}')" for each in kind)
        raise ValueError(f"{what}={value!r}: give one of {known}") from None


def is_text(value: object, pattern: str) -> TypeGuard[str]:
    """Whether something is text that matches a pattern whole, and that UTF-8 can carry."""
    return isinstance(value, str) and bool(re.fullmatch(pattern, value)) and not _HALF_A_PAIR.search(value)
