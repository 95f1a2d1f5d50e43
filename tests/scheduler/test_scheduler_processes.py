"""Scheduler processes that are killed and frozen, on a server that is killed too: each slot is fired once."""

import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

import pytest
import redis
from fleet import Fleet
from store import eventually

from redisjobs import Schedule
from redisjobs.events import recording
from redisjobs.local import server
from redisjobs.local.server import Server

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@dataclass
class Work:
    """What the processes have a handler for."""

    job_name: ClassVar[str] = "Work"
    label: str = "latest"


SCHEDULER = """
from app import *
import anyio
from redisjobs import Schedule, Scheduler
from redisjobs.events.recording import Recording

queue.schedule(Work("all"), Schedule.every(1), name="all", accuracy="all", at_most=500)
Recording(".").listen(queue.events)
anyio.run(Scheduler(queue).run)
"""


class Schedulers(Fleet):
    """Processes that fire `all`, which they declare, and `latest`, which was put. No worker runs the jobs."""

    def __init__(self, folder: Path, own: Server, queue_name: str) -> None:
        super().__init__(folder, own.url, queue_name)
        self.server = own

    async def begin(self, number: int) -> None:
        """Start some; they are there when they listen."""
        for _ in range(number):
            self.python(SCHEDULER)
        await eventually(lambda: self._listening() == number, within=20)

    async def go_on(self, seconds: float = 0) -> None:
        """Wait until both schedules have fired a slot that is yet to come: the first, or one this much later."""
        until = datetime.now(UTC) + timedelta(seconds=seconds)
        await eventually(lambda: all(self.last(name) >= until for name in ("all", "latest")), within=20)

    def last(self, name: str) -> datetime:
        """The slot that a schedule fired last."""
        info = self.queue.schedules.get(name)
        return (info and info.last_slot) or datetime.min.replace(tzinfo=UTC)

    def missed(self, name: str) -> int:
        info = self.queue.schedules.get(name)
        assert info is not None
        return info.missed

    def fired(self) -> Iterator[tuple[str, bool]]:
        """What the processes tell of slots that they fired: the job's id, and whether it was added."""
        for line in recording.read(self.folder):
            if line["what"] == "ScheduleFired":
                yield from ((job, added) for job, _, added in line["jobs"])

    def slots(self, name: str) -> list[datetime]:
        """The slots of a schedule that have a job, in order."""
        jobs = [job.job_id for job in self.queue.control.jobs("ready", 500)]
        return sorted(datetime.fromisoformat(job[len(name) + 1 :]) for job in jobs if job.startswith(f"{name}@"))

    def _listening(self) -> int:
        with redis.Redis.from_url(self.server.url) as client:
            ((_, number),) = client.pubsub_numsub(f"redisjobs:{{{self.queue.name}}}:control:0")
        return int(number)


@pytest.fixture
def schedulers(tmp_path: Path, queue_name: str) -> Iterator[Schedulers]:
    with server.start(options=("--appendfsync", "always")) as own:
        processes = Schedulers(tmp_path, own, queue_name)
        yield processes
        processes.end()


async def test_each_slot_is_fired_once_though_schedulers_are_killed_and_frozen_and_the_server_is_killed(
    schedulers: Schedulers,
) -> None:
    schedulers.queue.schedules.put("latest", Work(), Schedule.every(1))
    await schedulers.begin(3)
    killed, frozen, last = schedulers.processes
    await schedulers.go_on()

    killed.kill()
    await schedulers.go_on()
    frozen.send_signal(signal.SIGSTOP)
    await schedulers.go_on(2)
    schedulers.server.kill()
    away = time.monotonic()
    await eventually(lambda: time.monotonic() > away + 3.5)  # three slots pass, or four
    schedulers.server.restart()
    await schedulers.go_on()
    last.kill()
    last.wait()
    fired_last = schedulers.last("all")
    await eventually(
        lambda: datetime.now(UTC) > fired_last + timedelta(seconds=1)
    )  # now one is due that no process fires
    frozen.send_signal(signal.SIGCONT)  # all that were fired meanwhile are due to this one, as far as it knows
    await schedulers.go_on()

    for name in ("all", "latest"):
        schedulers.queue.schedules.pause(name)
    told = Counter(job for job, _ in schedulers.fired())
    assert set(told.values()) == {1}
    assert all(added for _, added in schedulers.fired())
    every, latest = schedulers.slots("all"), schedulers.slots("latest")
    assert every == [every[0] + timedelta(seconds=number) for number in range(len(every))]
    assert (every[-1], latest[-1]) == (schedulers.last("all"), schedulers.last("latest"))
    assert schedulers.missed("all") == 0
    assert schedulers.missed("latest") >= 2
    assert len(set(latest)) == len(latest) >= len(every) - schedulers.missed("latest") - 1
