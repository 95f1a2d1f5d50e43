"""Logging for code that must go on, even if a log handler of the application raises or hangs."""

import logging
import sys
import threading
import traceback
from collections.abc import MutableMapping, Sequence
from contextlib import suppress
from typing import Any


class Log(logging.LoggerAdapter[logging.Logger]):
    """A logger that shows errors of log handlers and filters on stderr, and never raises them.

    If it has queues, each line begins with their names.
    """

    def __init__(self, name: str, queues: Sequence[str] = ()) -> None:
        super().__init__(logger := logging.getLogger(name), {})
        self.isEnabledFor = logger.isEnabledFor  # type: ignore[method-assign]  # faster: each job calls it
        named = ", ".join(f"'{queue}'" for queue in queues).replace("%", "%%")
        self._first = f"{'queues' if len(queues) > 1 else 'queue'} {named}: " if queues else ""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Add the queues to the line, and keep the caller's `extra`."""
        return f"{self._first}{msg}" if self._first else msg, kwargs

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log a line; all other methods call this one."""
        try:
            super().log(level, msg, *args, **{"stacklevel": 2, **kwargs})  # show the caller's line, not this one
        except BaseException as error:
            if is_ctrl_c(error):
                raise
            if logging.raiseExceptions and sys.stderr is not None:  # like logging's own handlers
                with suppress(Exception):
                    print("--- Logging error ---", traceback.format_exc(), sep="\n", file=sys.stderr)


def is_ctrl_c(error: BaseException) -> bool:
    """Return whether an error that came out of the application's code may be a Ctrl-C."""
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()


def log_from_thread(log: Log, level: int, text: str, *args: object, wait: float = 0) -> None:
    """Log a line from a new thread, and wait at most `wait` seconds for it.

    The caller must not hang, so if no thread can be started, nothing is logged.
    """
    thread = threading.Thread(target=log.log, args=(level, text, *args), daemon=True)
    with suppress(RuntimeError):
        thread.start()
        thread.join(wait)
