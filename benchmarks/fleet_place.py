"""A server of its own for `python -m benchmarks fleet`, and the processes on it."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from threading import Timer as Alarm
from typing import Any, Self

import redis

from benchmarks.fleet_process import QUEUE
from benchmarks.systems import CHECKOUT, Failed
from redisjobs.local import server

SPARE = 300
"""Files and connections beside those of the fleet."""

KEY = f"redisjobs:{{{QUEUE}}}:"
_ANSWER, _START = 60.0, 90.0  # seconds to wait


class Place:
    """A context manager: a server of its own, and the processes on it."""

    def __init__(self, connections: int) -> None:
        self._connections = connections + SPARE

    def __enter__(self) -> Self:
        options = ("--appendonly", "no", "--maxclients", str(self._connections))
        with ExitStack() as stack:
            self.server = stack.enter_context(server.start(options=options))
            self.admin: Any = stack.enter_context(redis.Redis.from_url(self.server.url))
            if int(self.admin.config_get("maxclients")["maxclients"]) < self._connections:
                raise Failed(f"the server takes fewer than {self._connections} connections: raise `ulimit -n`")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def start(self, role: str, *numbers: float) -> "Process":
        """Start a process; see `fleet_process.ROLES`."""
        return self._stack.enter_context(Process(role, self.server.url, numbers))

    def info(self, section: str) -> Mapping[str, Any]:
        """What the server says of itself."""
        found: Mapping[str, Any] = self.admin.info(section)
        return found

    @property
    def cpu(self) -> float:
        """CPU seconds that the server has used."""
        used = self.info("cpu")
        return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])

    @property
    def connections(self) -> int:
        """How many connections there are, but for our own."""
        return int(self.info("clients")["connected_clients"]) - 1

    @property
    def memory(self) -> int:
        """Bytes that the server has allocated."""
        return int(self.info("memory")["used_memory"])

    @property
    def received(self) -> int:
        """Bytes that came from clients."""
        return int(self.info("stats")["total_net_input_bytes"])

    @property
    def completed(self) -> int:
        """Jobs that are done."""
        return int(self.admin.hget(f"{KEY}stats", "completed") or 0)

    @property
    def waiting(self) -> int:
        """Jobs on the queue, those that run among them."""
        return int(self.admin.xlen(f"{KEY}ready:normal"))

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until something is so.

        Raises:
            Failed: It took too long.
        """
        deadline = time.monotonic() + _START
        while not condition():
            if time.monotonic() > deadline:
                raise Failed(f"{what} did not come within {_START:g} s")
            time.sleep(0.05)


class Process:
    """A context manager: a process of `fleet_process`."""

    def __init__(self, role: str, url: str, numbers: Sequence[float]) -> None:
        self._role = role
        command = [sys.executable, "-m", "benchmarks.fleet_process", role, url, *map(str, numbers)]
        self._process = subprocess.Popen(
            command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        self._answer(_START)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, **asked: Any) -> dict[str, float]:
        """Tell it something; what it has counted until now.

        Raises:
            Failed: It has died, or does not answer.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise Failed(f"the process of {self._role} died") from error
        return self._answer(_ANSWER)

    def _answer(self, within: float) -> dict[str, float]:
        assert self._process.stdout is not None
        alarm = Alarm(within, self._process.kill)
        alarm.start()
        line = self._process.stdout.readline()
        alarm.cancel()
        if not line:
            raise Failed(f"the process of {self._role} ended, or did not answer within {within:g} s")
        answer: dict[str, float] = json.loads(line)
        return answer
