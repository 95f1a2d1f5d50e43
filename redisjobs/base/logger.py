"""A worker's own logging: the handlers of a log are the user's, and may raise or hang."""

import logging
import sys
import threading
import traceback
from collections.abc import MutableMapping, Sequence
from contextlib import suppress
from typing import Any


class Log(logging.LoggerAdapter[logging.Logger]):
    """A logger for code that must go on: what a handler or a filter raises is only shown on stderr.

    Each line begins with the names of the queues that it is about, if any.
    """

    def __init__(self, name: str, queues: Sequence[str] = ()) -> None:
        super().__init__(logger := logging.getLogger(name), {})
        self.isEnabledFor = logger.isEnabledFor  # type: ignore[method-assign]  # asked for each job
        named = ", ".join(f"'{queue}'" for queue in queues).replace("%", "%%")
        self._first = f"{'queues' if len(queues) > 1 else 'queue'} {named}: " if queues else ""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Name the queues, and leave `extra` to the caller."""
        return f"{self._first}{msg}" if self._first else msg, kwargs

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log; what all the other methods do."""
        try:
            super().log(level, msg, *args, **{"stacklevel": 2, **kwargs})  # the line is the caller's, not this one
        except BaseException as error:
            if is_ctrl_c(error):
                raise  # it is not the log's
            if logging.raiseExceptions and sys.stderr is not None:  # as logging does with what it catches itself
                with suppress(Exception):
                    print("--- Logging error ---", traceback.format_exc(), sep="\n", file=sys.stderr)


def is_ctrl_c(error: BaseException) -> bool:
    """Return whether an error that foreign code raised may be Ctrl-C, which is not its own."""
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()


def log_from_thread(log: Log, level: int, text: str, *args: object, wait: float = 0) -> None:
    """Log a line from a thread of its own, and wait for it `wait` seconds at most.

    If no thread can be started, nothing is logged: the caller must not hang.
    """
    saying = threading.Thread(target=log.log, args=(level, text, *args), daemon=True)
    with suppress(RuntimeError):
        saying.start()
        saying.join(wait)
