"""What tells one kind of failure from another: the exception's class, and its way through the code."""

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import CodeType, TracebackType

from redisjobs.base.visible import visible

_DIGITS = 12
_REMEMBERED = 1_000  # ways through the code
_DEEP = 50  # frames; longer ways are as many as a recursion has depths
_TYPE_CHARACTERS = 200
_STANDARD_LIBRARY = os.path.dirname(os.__file__)
_OURS = os.path.dirname(os.path.dirname(__file__))
_INSTALLED = {"site-packages", "dist-packages"}


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Of one failure; equal for failures of one kind.

    Attributes:
        error_type: The exception's class: module and qualified name; of a builtin the name alone.
        digest: 12 hex characters.
    """

    error_type: str = ""
    digest: str = ""


_known: dict[tuple[object, ...], tuple[list[CodeType], Fingerprint]] = {}
"""By class and way, as many jobs fail alike. The code is held, so that no other can come to its `id`."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame of a traceback.

    Attributes:
        file: The file's path, as Python knows it.
        function: The qualified name of the function.
    """

    file: str
    function: str


def fingerprint_of(error: BaseException) -> Fingerprint:
    """The fingerprint of an exception; an empty one where its class does not let itself be looked at."""
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
    """A hash over a class and the user's own frames, by the last part of the file's name and the function.

    Line numbers don't count, so a release that moves lines keeps it; nor does how often a frame comes, so all
    depths of a recursion are one.
    """
    places = dict.fromkeys(f"{_parts(frame.file)[-1]}:{frame.function}" for frame in _own(frames))
    text = "\n".join([error_type, *places])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]


def _own(frames: Iterable[Frame]) -> list[Frame]:
    """The user's frames. Of an application that is a package itself they are in site-packages."""
    others = [frame for frame in frames if not _is_known(frame.file)]
    return [frame for frame in others if not _INSTALLED & {*_parts(frame.file)}] or others


def _is_known(file: str) -> bool:
    """Whether a file is of the standard library or of redisjobs."""
    if file.startswith(("<frozen ", _OURS + os.sep)):
        return True
    return file.startswith(_STANDARD_LIBRARY + os.sep) and not _INSTALLED & {*_parts(file)}


def _parts(file: str) -> list[str]:
    return re.split(r"[/\\]", file)


def _type_of(kind: type[BaseException]) -> str:
    # Asked of `type` itself: a metaclass may answer with anything.
    name = str(type.__dict__["__qualname__"].__get__(kind))
    module = str(type.__dict__["__module__"].__get__(kind))
    return visible(name if module == "builtins" else f"{module}.{name}", _TYPE_CHARACTERS)


def _codes_of(error: BaseException) -> list[CodeType]:
    """The code of each frame."""
    trace: TracebackType | None = BaseException.__dict__["__traceback__"].__get__(error)
    codes: list[CodeType] = []
    while trace is not None:
        codes.append(trace.tb_frame.f_code)
        trace = trace.tb_next
    return codes
