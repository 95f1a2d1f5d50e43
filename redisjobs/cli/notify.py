"""Reports to systemd whether a worker is ready, alive or stopping, for a unit with `Type=notify`."""

import os
import socket
import threading
import time
from collections.abc import Callable

from redisjobs.base.logger import Log
from redisjobs.base.visible import visible
from redisjobs.worker.settings.health import Health

logger = Log("redisjobs.worker")

_LOOK = 1.0  # seconds between looks at the health, at most
_SOON = 0.05  # the same before the worker is ready
_TIMEOUT = 1.0  # seconds that a message may take


class Notifier:
    """The connection to the service manager that started this process; without one, it does nothing.

    It takes the variables of the protocol out of the environment: no process that is started later may use them.
    """

    def __init__(self) -> None:
        address = os.environ.pop("NOTIFY_SOCKET", "")
        every, pid = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address  # @: no file, but a name
        self._watched = every.isdecimal() and pid in ("", str(os.getpid()))
        self._pause = min(_LOOK, int(every) / 2e6) if self._watched else _LOOK  # half of it, as systemd advises
        self._is_stopping = False

    def stopping(self) -> None:
        """Report that the process stops."""
        self._is_stopping = True
        self._send("STOPPING=1")

    def follow(self, health: Callable[[], Health]) -> None:
        """Report the health in a thread: once that it is ready, then whether it is live.

        Without a report in time, systemd restarts the process.
        """
        if self._address:
            threading.Thread(target=self._follow, args=(health,), name="redisjobs notify", daemon=True).start()

    def _follow(self, health: Callable[[], Health]) -> None:
        ready, said = False, ""
        while True:
            now = health()
            lines = [] if now.why == said else [f"STATUS={visible(now.why)}"]
            if now.ready and not ready and not self._is_stopping:
                lines.append("READY=1")
            if now.live and self._watched:
                lines.append("WATCHDOG=1")
            if lines:
                error = self._send("\n".join(lines))
                if error is None:
                    ready, said = ready or "READY=1" in lines, now.why
                elif not isinstance(error, TimeoutError):  # else it is busy: the next look tries again
                    logger.warning("systemd can't be notified, and is not any more: %s", error)
                    return
            time.sleep(self._pause if ready else min(_SOON, self._pause))

    def _send(self, text: str) -> OSError | None:
        """Send a message; return the error. It does not log: a signal handler may call it."""
        if not self._address:
            return None
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
                manager.settimeout(_TIMEOUT)
                manager.connect(self._address)
                manager.send(text.encode())
        except OSError as error:
            return error
        return None
