"""Movers that are killed at each of their calls or at any time, or frozen: a process for `test_killed_movers.py`.

A mover is a fork of this process, which has all modules. It kills itself before or after a call, or
is killed or frozen from here after a random time.
"""

import asyncio
import os
import random
import signal
import sys
import time
from contextlib import suppress
from typing import Any, cast

from redisjobs.control.move.mover import Mover
from redisjobs.drivers import connect
from redisjobs.model.driver import Driver

CALLS = 16
"""Up to this call a mover is killed; each batch has five."""
FROZEN = 5
"""Each fifth mover that is stopped at a random time is frozen, and goes on later."""
WITHIN = 0.3
"""The latest time in seconds at which a mover is killed or frozen."""


class Fatal:
    """A driver of a mover that kills its process before or after a call; both ends count together."""

    def __init__(self, driver: Driver, left: list[int], after: bool) -> None:
        self._driver, self._left, self._after = driver, left, after
        self.where = driver.where

    async def read(self, query: Any) -> Any:
        return await self._call(self._driver.read, query)

    async def change(self, change: Any) -> Any:
        return await self._call(self._driver.change, change)

    async def aclose(self) -> None:
        await self._driver.aclose()

    async def _call(self, call: Any, asked: Any) -> Any:
        self._left[0] -= 1
        if self._left[0] == 0 and not self._after:
            os.kill(os.getpid(), signal.SIGKILL)
        answer = await call(asked)
        if self._left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer


def start(source: str, target: str, queue: str, at: int = 0, *, after: bool = False) -> int:
    """Start a mover that is killed at its call of this number, 0 for none; its process id."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        left = [at]
        one, other = (cast("Driver", Fatal(connect(url, queue), left, after)) for url in (source, target))
        asyncio.run(Mover(one, other, lambda line: None).run())
        code = 0
    finally:
        os._exit(code)


def end(pid: int) -> int:
    """Kill a mover, if it has not ended; its exit code."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_at_each_call(source: str, target: str, queue: str, rounds: int) -> None:
    """Let movers kill themselves at each of their first calls, before and after it."""
    for number in range(rounds * CALLS * 2):
        at, after = divmod(number % (CALLS * 2), 2)
        os.waitpid(start(source, target, queue, at + 1, after=bool(after)), 0)


def kill_at_any_time(source: str, target: str, queue: str, kills: int, seed: int) -> None:
    """Kill or freeze movers at random times; frozen ones go on while the next one runs."""
    chance, frozen = random.Random(seed), list[int]()
    for number in range(kills):
        pid = start(source, target, queue)
        time.sleep(chance.uniform(0, WITHIN))
        if number % FROZEN:
            end(pid)
        else:
            os.kill(pid, signal.SIGSTOP)
            frozen.append(pid)
        if len(frozen) > 1:
            late = frozen.pop(0)
            os.kill(late, signal.SIGCONT)
            time.sleep(WITHIN)
            end(late)
    for pid in frozen:
        end(pid)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["calls", source, target, queue, rounds]:
            kill_at_each_call(source, target, queue, int(rounds))
        case ["times", source, target, queue, kills, seed]:
            kill_at_any_time(source, target, queue, int(kills), int(seed))
