"""What is known of a failure: its traceback as text, and a fingerprint that failures of one kind share."""

import hashlib
import os
import re
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import CodeType, TracebackType
from typing import NamedTuple

from redisjobs.base.visible import visible

_REMEMBERED = 1_000  # frames, and ways through the code
_DEEP = 50  # frames; a deeper way is one of as many as a recursion has depths, and Python folds its text
_DIGITS = 12
_TYPE_CHARACTERS = 200
_STANDARD_LIBRARY = os.path.dirname(os.__file__)
_OURS = os.path.dirname(os.path.dirname(__file__))
_INSTALLED = {"site-packages", "dist-packages"}
# Of these Python says more than their text, such as the names that exist.
_SAID_AT_LENGTH = (AttributeError, ImportError, NameError, SyntaxError, BaseExceptionGroup)
_CAUSED = "\nThe above exception was the direct cause of the following exception:\n\n"
_MEANWHILE = "\nDuring handling of the above exception, another exception occurred:\n\n"

# The traceback

_texts: dict[tuple[CodeType, int], str] = {}
"""The texts of frames, by their place. Python reads the line each time, to find the part that it underlines."""


def format_exception(error: BaseException) -> list[str]:
    """Return what `traceback.format_exception` does, much faster where many jobs fail at one place."""
    parts: list[str] = []
    seen: set[int] = set()
    shown: BaseException | None = error
    said_between: list[str] = []
    while shown is not None:
        own = _parts_of(shown) if id(shown) not in seen else None
        if own is None:
            return traceback.format_exception(error)
        seen.add(id(shown))
        parts = [*own, *said_between, *parts]
        if shown.__cause__ is not None:
            shown, said_between = shown.__cause__, [_CAUSED]
        else:
            shown, said_between = None if shown.__suppress_context__ else shown.__context__, [_MEANWHILE]
    return parts


def _parts_of(error: BaseException) -> list[str] | None:
    """Return the text of one exception; None where that is left to Python."""
    trace = error.__traceback__
    frames: list[str] = []
    while trace is not None and len(frames) <= _DEEP:
        frames.append(_text_of(trace))
        trace = trace.tb_next
    if not frames or len(frames) > _DEEP or isinstance(error, _SAID_AT_LENGTH):
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
    """The fingerprint of one failure; equal for failures of one kind."""

    error_type: str = ""  # module and qualified name of the exception's class; of a builtin the name alone
    digest: str = ""  # 12 hex characters, by the class and the user's functions that it came through


_known: dict[tuple[object, ...], tuple[list[CodeType], Fingerprint]] = {}
"""By class and way, as many jobs fail alike. The code is held, so that no other code gets its `id`."""


class Frame(NamedTuple):
    """A frame of a traceback: the path of its file, and the qualified name of its function."""

    file: str
    function: str


def fingerprint_of(error: BaseException) -> Fingerprint:
    """Return the fingerprint of an exception; an empty one if its class can't be looked at."""
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
    """Return a hash of a class and the user's own frames, by file name and function.

    Line numbers don't count, so a release that moves lines keeps it. Repeated frames count once, so all depths of
    a recursion have one digest.
    """
    places = dict.fromkeys(f"{_path(frame.file)[-1]}:{frame.function}" for frame in _own(frames))
    text = "\n".join([error_type, *places])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]


def _own(frames: Iterable[Frame]) -> list[Frame]:
    """Return the user's frames. If the application itself is an installed package, they are in site-packages."""
    others = [frame for frame in frames if not _is_known(frame.file)]
    return [frame for frame in others if not _INSTALLED & {*_path(frame.file)}] or others


def _is_known(file: str) -> bool:
    """Return whether a file is of the standard library or of redisjobs."""
    if file.startswith(("<frozen ", _OURS + os.sep)):
        return True
    return file.startswith(_STANDARD_LIBRARY + os.sep) and not _INSTALLED & {*_path(file)}


def _path(file: str) -> list[str]:
    return re.split(r"[/\\]", file)


def _type_of(kind: type[BaseException]) -> str:
    # Asked of `type` itself: a metaclass may answer with anything.
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
