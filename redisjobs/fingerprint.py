"""What tells one kind of failure from another: the exception's class, and its way through the code."""

import hashlib
import os
import re
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType

from redisjobs.visible import visible

_DIGITS = 12
_TYPE_CHARACTERS = 200
_STANDARD_LIBRARY = os.path.dirname(os.__file__)
_OURS = os.path.dirname(__file__)
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
        error_type = _type_of(type(error))
        return Fingerprint(error_type, digest_of(error_type, _frames_of(error)))
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


def _frames_of(error: BaseException) -> list[Frame]:
    trace: TracebackType | None = BaseException.__dict__["__traceback__"].__get__(error)
    codes = [frame.f_code for frame, _ in traceback.walk_tb(trace)]
    return [Frame(code.co_filename, code.co_qualname) for code in codes]
