"""What counts of a failure, its traceback, and a fingerprint that is equal for failures of one kind."""

import hashlib
import os
import re
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import CodeType, TracebackType
from typing import NamedTuple

from redisjobs.base.visible import visible
from redisjobs.errors import Fail, NoResult, Retry, Snooze, UnwritableResult, leaves_of

_FAILURE = 2  # how weak a failure is that does not steer its job, see `deciding`
_REMEMBERED = 1_000  # the most entries of each cache
# Frames. A deeper traceback is not cached: a recursion has one for each depth. Python shortens its text, too.
_DEEP = 50
_DIGITS = 12
_TYPE_CHARACTERS = 200
_STANDARD_LIBRARY = os.path.dirname(os.__file__)
_OURS = os.path.dirname(os.path.dirname(__file__))
_INSTALLED = {"site-packages", "dist-packages"}
# Python prints more than the text of these errors, for example "Did you mean: ...".
_PRINTED_AT_LENGTH = (AttributeError, ImportError, NameError, SyntaxError, BaseExceptionGroup)
_CAUSED = "\nThe above exception was the direct cause of the following exception:\n\n"
_MEANWHILE = "\nDuring handling of the above exception, another exception occurred:\n\n"

# Exception groups


def deciding(error: BaseException) -> BaseException:
    """Return the error that decides what becomes of its job.

    In a group, as of `asyncio.TaskGroup`, this is the first of the strongest kind: an error that ends the job,
    then `Retry`, then any other error, then `Snooze`. So a snooze hides no failure.
    """
    return min(leaves_of(error), key=_weakness) if _is(error, BaseExceptionGroup) else error


def failures_in(error: BaseException) -> list[BaseException]:
    """Return the errors of a group that are failures; what is no failure, if there are none."""
    leaves = leaves_of(error)
    return [each for each in leaves if _weakness(each) <= _FAILURE] or leaves


def ends_job(error: BaseException) -> bool:
    """Return whether an error makes its job a dead letter, whatever the retry policy says."""
    if _is(error, NoResult):
        return vars(error).get("of_child") is True
    return _is(error, Fail, UnwritableResult)


def _weakness(error: BaseException) -> int:
    if _is(error, Snooze):
        return _FAILURE + 1
    if not _is(error, Exception):  # a cancellation, or that the job is suspended
        return _FAILURE + 2
    return 0 if ends_job(error) else 1 if _is(error, Retry) else _FAILURE


def _is(error: BaseException, *kinds: type[BaseException]) -> bool:
    return issubclass(type(error), kinds)  # `isinstance` may run code of the error


# The traceback

_texts: dict[tuple[CodeType, int], str] = {}
"""A cache of the text of each frame, by code and instruction. Python would parse the source line each time."""


def format_exception(error: BaseException) -> list[str]:
    """Return the same as `traceback.format_exception`, but much faster if many jobs fail at the same place."""
    parts: list[str] = []
    seen: set[int] = set()
    shown: BaseException | None = error
    between: list[str] = []
    while shown is not None:
        own = _parts_of(shown) if id(shown) not in seen else None
        if own is None:
            return traceback.format_exception(error)
        seen.add(id(shown))
        parts = [*own, *between, *parts]
        if shown.__cause__ is not None:
            shown, between = shown.__cause__, [_CAUSED]
        else:
            shown, between = None if shown.__suppress_context__ else shown.__context__, [_MEANWHILE]
    return parts


def _parts_of(error: BaseException) -> list[str] | None:
    """Return the text of one exception without its causes; None if only Python can format it."""
    trace = error.__traceback__
    frames: list[str] = []
    while trace is not None and len(frames) <= _DEEP:
        frames.append(_text_of(trace))
        trace = trace.tb_next
    if not frames or len(frames) > _DEEP or isinstance(error, _PRINTED_AT_LENGTH):
        return None
    return ["Traceback (most recent call last):\n", *frames, *traceback.format_exception_only(error)]


def _text_of(trace: TracebackType) -> str:
    place = trace.tb_frame.f_code, trace.tb_lasti
    text = _texts.get(place)
    if text is None:
        if len(_texts) >= _REMEMBERED:
            _texts.clear()
        text = _texts[place] = traceback.format_tb(trace, limit=1)[0]
    return text


# The fingerprint


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The fingerprint of a failure. Failures of one kind have equal fingerprints."""

    error_type: str = ""  # module and qualified name of the exception's class; for a builtin, only the name
    digest: str = ""  # 12 hex characters: a hash of the class and the application's functions in the traceback


_known: dict[tuple[object, ...], tuple[list[CodeType], Fingerprint]] = {}
"""A cache of fingerprints, by class and the ids of the code. It holds the code, so that no id is used again."""


class Frame(NamedTuple):
    """A frame of a traceback: the path of its file, and the qualified name of its function."""

    file: str
    function: str


def fingerprint_of(error: BaseException) -> Fingerprint:
    """Return the fingerprint of an exception; an empty one if reading the exception raises."""
    try:
        error_type, codes = _type_of(type(error)), _codes_of(error)
        place = (error_type, *map(id, codes))
        known = _known.get(place)
        if known is None:
            frames = [Frame(code.co_filename, code.co_qualname) for code in codes]
            known = codes, Fingerprint(error_type, digest_of(error_type, frames))
            if len(codes) <= _DEEP:
                if len(_known) >= _REMEMBERED:
                    _known.clear()
                _known[place] = known
        return known[1]
    except BaseException:
        return Fingerprint()


def digest_of(error_type: str, frames: Sequence[Frame]) -> str:
    """Return a hash of an exception class, and of the file name and function of the application's frames.

    Line numbers don't count, so a release that only moves lines does not change it. Repeated frames count once,
    so a recursion has the same digest at each depth.
    """
    places = dict.fromkeys(f"{_path(frame.file)[-1]}:{frame.function}" for frame in _own(frames))
    text = "\n".join([error_type, *places])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]


def _own(frames: Iterable[Frame]) -> list[Frame]:
    """Return the application's frames: those outside site-packages, or inside if the application is installed."""
    others = [frame for frame in frames if not _is_known(frame.file)]
    return [frame for frame in others if not _INSTALLED & {*_path(frame.file)}] or others


def _is_known(file: str) -> bool:
    """Return whether a file belongs to the standard library or to redisjobs."""
    if file.startswith(("<frozen ", _OURS + os.sep)):
        return True
    return file.startswith(_STANDARD_LIBRARY + os.sep) and not _INSTALLED & {*_path(file)}


def _path(file: str) -> list[str]:
    return re.split(r"[/\\]", file)


def _type_of(kind: type[BaseException]) -> str:
    # Read through `type`, because a metaclass may return anything.
    name = str(type.__dict__["__qualname__"].__get__(kind))
    module = str(type.__dict__["__module__"].__get__(kind))
    return visible(name if module == "builtins" else f"{module}.{name}", _TYPE_CHARACTERS)


def _codes_of(error: BaseException) -> list[CodeType]:
    trace: TracebackType | None = BaseException.__dict__["__traceback__"].__get__(error)
    codes: list[CodeType] = []
    while trace is not None:
        codes.append(trace.tb_frame.f_code)
        trace = trace.tb_next
    return codes
