"""The text of a traceback: as Python writes it."""

import traceback
from collections.abc import Callable

import pytest

from redisjobs.model import failures
from redisjobs.model.failures import format_exception


def plain() -> None:
    raise ValueError("no")


def underlined() -> None:
    pairs = {"a": {"b": 1}}
    assert pairs["a"]["c"] + pairs["b"]["d"]


def caused() -> None:
    try:
        plain()
    except ValueError as error:
        raise KeyError("other") from error


def meanwhile() -> None:
    try:
        caused()
    except KeyError:
        underlined()


def cause_hidden() -> None:
    try:
        plain()
    except ValueError:
        raise OSError(2, "gone") from None


def noted() -> None:
    error = ValueError("two\nlines")
    error.add_note("a note\nof two lines")
    raise error


def misspelt() -> None:
    plane()  # type: ignore[name-defined]  # noqa: F821


def no_attribute() -> None:
    "text".uper()  # type: ignore[attr-defined]


def unreadable() -> None:
    compile("a b", "there.py", "exec")


def grouped() -> None:
    try:
        caused()
    except KeyError as error:
        raise ExceptionGroup("several", [error, ValueError("x")]) from error


def repeated(depth: int = 20) -> None:
    repeated(depth - 1) if depth else plain()


def deep() -> None:
    repeated(80)


def round_in_a_circle() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    raise first


def caused_by_what_was_never_raised() -> None:
    raise ValueError("no") from KeyError("never")


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def mute() -> None:
    raise Mute


ALL = [
    *(plain, underlined, caused, meanwhile, cause_hidden, noted, misspelt, no_attribute, unreadable, grouped),
    *(deep, round_in_a_circle, caused_by_what_was_never_raised, mute),
]


def error_of(call: Callable[[], None]) -> BaseException:
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError


@pytest.mark.parametrize("call", ALL)
def test_a_traceback_is_as_python_writes_it_also_when_it_comes_again(call: Callable[[], None]) -> None:
    error = error_of(call)
    expected = "".join(traceback.format_exception(error))
    for _ in range(2):
        assert "".join(format_exception(error)) == expected
    assert "".join(format_exception(error_of(call))) == expected


def test_each_frame_of_recursion_has_its_text() -> None:
    error = error_of(lambda: repeated(2))
    frames = [part for part in format_exception(error) if part.lstrip().startswith("File")]
    assert frames == traceback.format_tb(error.__traceback__)


def test_of_many_frames_only_some_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "_REMEMBERED", 5)
    failures._texts.clear()
    for call in ALL:
        format_exception(error_of(call))
        assert len(failures._texts) <= 5
