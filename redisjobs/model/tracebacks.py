"""The text of a traceback, as Python writes it; of frames that come again and again it is made once."""

import traceback
from types import CodeType, TracebackType

_REMEMBERED = 1_000  # frames
_DEEP = 50  # frames; of more, Python says how often one comes in a row
# Of these Python says more than their text, by the names that there are.
_SAID_AT_LENGTH = (AttributeError, ImportError, NameError, SyntaxError, BaseExceptionGroup)
_CAUSED = "\nThe above exception was the direct cause of the following exception:\n\n"
_MEANWHILE = "\nDuring handling of the above exception, another exception occurred:\n\n"

_texts: dict[tuple[CodeType, int], str] = {}
"""Of frames, by where they were. Python reads the line anew each time, to find the part that it underlines."""


def format_exception(error: BaseException) -> list[str]:
    """As `traceback.format_exception`, where many jobs fail at one place in a fraction of the time."""
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
    """What is said of one exception; None where that is left to Python."""
    trace = error.__traceback__
    frames: list[str] = []
    while trace is not None and len(frames) <= _DEEP:
        frames.append(_text_of(trace))
        trace = trace.tb_next
    if not frames or len(frames) > _DEEP or isinstance(error, _SAID_AT_LENGTH):
        return None
    return ["Traceback (most recent call last):\n", *frames, *traceback.format_exception_only(error)]


def _text_of(trace: TracebackType) -> str:
    """The outermost frame of a traceback."""
    place = trace.tb_frame.f_code, trace.tb_lasti
    text = _texts.get(place)
    if text is None:
        if len(_texts) >= _REMEMBERED:
            _texts.clear()
        text = _texts[place] = traceback.format_tb(trace, limit=1)[0]
    return text
