"""What tells one kind of failure from another."""

import json
import os
import types
from collections.abc import Callable
from typing import Any

import anyio
import pytest

import redisjobs
from redisjobs import Fail
from redisjobs.model import failures
from redisjobs.model.failures import Fingerprint, Frame, digest_of, fingerprint_of

STANDARD = os.path.dirname(os.__file__)
OURS = os.path.dirname(redisjobs.__file__)
INSTALLED = f"{STANDARD}/site-packages"
HANDLER = Frame("/app/mail.py", "send")
CALLED = Frame("/app/smtp.py", "Client.open")

SAME = {
    "another folder": [Frame("/srv/release-2/mail.py", "send"), CALLED],
    "another system": [Frame("C:\\app\\mail.py", "send"), Frame("C:\\app\\smtp.py", "Client.open")],
    "frames of redisjobs": [Frame(f"{OURS}/worker/execution.py", "run"), HANDLER, CALLED],
    "frames of the standard library": [HANDLER, CALLED, Frame(f"{STANDARD}/json/decoder.py", "decode")],
    "frozen frames": [Frame("<frozen importlib._bootstrap>", "_find"), HANDLER, CALLED],
    "frames of installed packages": [HANDLER, Frame("/v/lib/site-packages/anyio/a.py", "run"), CALLED],
    "frames of Debian's packages": [HANDLER, CALLED, Frame("/usr/lib/python3/dist-packages/redis/b.py", "get")],
    "a deeper recursion": [HANDLER, CALLED, HANDLER, CALLED, CALLED],
}
OTHER = {
    "another function": [HANDLER, Frame("/app/smtp.py", "Client.close")],
    "another file": [HANDLER, Frame("/app/imap.py", "Client.open")],
    "a frame more": [HANDLER, CALLED, Frame("/app/smtp.py", "Client.greet")],
    "a frame less": [HANDLER],
    "another order": [CALLED, HANDLER],
    "no frames": [],
}


@pytest.mark.parametrize("change", SAME)
def test_frames_that_are_not_the_users_and_where_files_are_do_not_count(change: str) -> None:
    assert digest_of("ValueError", SAME[change]) == digest_of("ValueError", [HANDLER, CALLED])


@pytest.mark.parametrize("change", OTHER)
def test_another_way_through_the_users_code_is_another_kind_of_failure(change: str) -> None:
    assert digest_of("ValueError", OTHER[change]) != digest_of("ValueError", [HANDLER, CALLED])


def test_another_class_is_another_kind_of_failure() -> None:
    assert digest_of("KeyError", [HANDLER]) != digest_of("ValueError", [HANDLER])


def test_of_an_application_that_is_installed_as_a_package_the_frames_count() -> None:
    installed = [Frame(f"{INSTALLED}/shop/mail.py", "send")]
    assert digest_of("ValueError", installed) == digest_of("ValueError", [HANDLER])
    assert digest_of("ValueError", installed) != digest_of("ValueError", [])


def raised_by(call: Callable[..., Any], *arguments: Any) -> BaseException:
    try:
        call(*arguments)
    except BaseException as error:
        return error
    raise AssertionError


def module(source: str) -> dict[str, Any]:
    """The names of a module of the user's."""
    names: dict[str, Any] = {"__name__": "app"}
    exec(compile(source, "/app/app.py", "exec"), names)
    return names


def test_a_release_that_moves_lines_keeps_the_fingerprint() -> None:
    source = "def check(n):\n    raise ValueError(n)\ndef send(n):\n    check(n)\n"
    before, after = (module(text)["send"] for text in (source, "\n\n" + source.replace("def send", "\ndef send")))

    one, other = raised_by(before, 1), raised_by(after, "other")

    assert fingerprint_of(one) == fingerprint_of(other)
    assert fingerprint_of(raised_by(module(source)["check"], 1)) != fingerprint_of(one)


def test_all_depths_of_a_recursion_have_one_fingerprint() -> None:
    names = module("def down(n):\n    return down(n - 1) if n else 1 / 0\n")
    assert fingerprint_of(raised_by(names["down"], 5)) == fingerprint_of(raised_by(names["down"], 50))


def test_what_was_seen_before_is_known_by_its_class_and_its_way_and_there_are_never_too_many() -> None:
    names = module("def fail(error):\n    raise error\ndef other(error):\n    fail(error)\n")

    def kinds() -> list[Fingerprint]:
        calls = [
            (names[way], error) for way in ("fail", "other") for error in (ValueError(), KeyError(), ValueError())
        ]
        return [fingerprint_of(raised_by(call, error)) for call, error in calls]

    first = kinds()
    assert all(one is another for one, another in zip(first, kinds(), strict=True))  # known, and not made again
    assert len(set(first)) == 4

    for number in range(1_100):  # the code of each is gone before the next is made, which may have its place
        name = f"fail_{number}"
        error = raised_by(module(f"def {name}():\n    raise ValueError\n")[name])
        frames = [Frame(code.co_filename, code.co_qualname) for code in failures._codes_of(error)]
        assert fingerprint_of(error).digest == digest_of("ValueError", frames)

    assert kinds() == first
    assert len(failures._known) <= 1_000


class Declined(Exception):
    class Twice(Exception):
        pass


@pytest.mark.parametrize(
    ("error", "error_type"),
    [
        (ValueError("x"), "ValueError"),
        (Fail("x"), "redisjobs.errors.Fail"),
        (Declined("x"), f"{__name__}.Declined"),
        (Declined.Twice(), f"{__name__}.Declined.Twice"),
        (json.JSONDecodeError("x", "", 0), "json.decoder.JSONDecodeError"),
        (ExceptionGroup("x", [ValueError()]), "ExceptionGroup"),
    ],
)
def test_a_class_goes_by_its_module_and_qualified_name_and_a_builtin_by_its_name(
    error: Exception, error_type: str
) -> None:
    known = fingerprint_of(error)
    assert known.error_type == error_type
    assert len(known.digest) == 12
    assert int(known.digest, 16) >= 0


def test_an_error_that_was_never_raised_goes_by_its_class() -> None:
    assert fingerprint_of(ValueError("a")) == fingerprint_of(ValueError("b"))
    assert fingerprint_of(ValueError("a")) != fingerprint_of(KeyError("a"))


class Liar(type):
    def __getattribute__(cls, name: str) -> Any:
        raise BaseException(name)


def test_an_error_that_hides_its_class_and_its_traceback_is_looked_at_all_the_same() -> None:
    class Hiding(Exception, metaclass=Liar):
        @property
        def __traceback__(self) -> Any:  # type: ignore[override]
            raise BaseException

    def fail() -> None:
        raise Hiding

    assert fingerprint_of(raised_by(fail)).error_type.endswith("Hiding")
    assert fingerprint_of(raised_by(fail)) != fingerprint_of(Hiding())


def test_a_class_whose_module_is_no_text_or_ends_lines_is_one_line() -> None:
    odd: Any = types.new_class("Odd\nname", (Exception,))
    odd.__module__ = 5
    assert fingerprint_of(odd()).error_type == r"5.Odd\nname"


def test_an_error_that_came_through_an_event_loop_has_the_frames_of_its_own_code_alone() -> None:
    async def send() -> None:
        raise ValueError

    async def handler() -> None:
        async with anyio.create_task_group():
            await send()

    group = raised_by(anyio.run, handler)
    assert fingerprint_of(group) == Fingerprint(
        "ExceptionGroup",
        digest_of(
            "ExceptionGroup",
            [
                Frame(__file__, raised_by.__qualname__),
                Frame(__file__, handler.__qualname__),
            ],
        ),
    )
