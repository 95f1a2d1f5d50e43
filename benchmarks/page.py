"""`python -m benchmarks.page`: the web page of a queue with a million jobs in each state.

For each view, how long its first answer takes and the later ones, and the longest call of the server. Then what
viewers cost who poll.
"""

import argparse
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import anyio
import httpx
import redis

from benchmarks.report import table
from redisjobs import JobName, JobQueue, Keep, Retention, Worker, no_retry
from redisjobs.local import server

Admin = Any  # a client of redis-py, whose types differ from release to release

_NAME = "benchmark"
_PREFIX = f"redisjobs:{{{_NAME}}}:"
_KINDS, _NAMES = (
    40,
    200,
)  # causes of the dead letters, and job names in the statistics: the most that they tell apart
_BATCH = 5_000
_SPREAD = 2 * 86_400_000  # ms over which the ended jobs have ended
_LATE, _SLOW = 200.0, 20.0  # ms that no view may take, and no call of the server
_POLLED = ("", "jobs?state=dead", "failures")
_APP = f"""
import os
from redisjobs import JobQueue
queue = JobQueue(os.environ["REDISJOBS_URL"], {_NAME!r})
"""
_MAIL: JobName[dict[str, Any]] = JobName("SendEmail", dict[str, Any])


async def fill(queue: JobQueue, admin: Admin, count: int) -> None:
    """Fill a queue with this many jobs that are ready, delayed, completed and dead."""
    real = await _one_of_each(queue, admin)
    for state, fields in real.items():
        _copy(admin, state, fields, count)
    for delay in (0, 30 * 86_400):
        for start in range(0, count, _BATCH):
            mails = [{"to": f"user-{start + at}@example.com", "order": start + at} for at in range(_BATCH)]
            await queue.push_many(mails, _MAIL, delay=delay)
    _record(admin)
    counts, groups = await queue.control.counts(), await queue.control.dead_groups()
    found = [counts.dead, counts.completed, counts.delayed, sum(counts.ready.values())]
    assert {*found, sum(group.count for group in groups)} == {count}, (found, groups)


async def _one_of_each(queue: JobQueue, admin: Admin) -> dict[str, dict[bytes, bytes]]:
    """Let one job be completed, and one become a dead letter; return their fields, and delete them."""

    @queue.register(_MAIL, retry=no_retry())
    async def send(mail: dict[str, Any]) -> None:
        if "@" not in mail["to"]:
            raise ValueError(f"no such address: {mail['to']}")

    await queue.push_many([{"to": "ann@example.com"}, {"to": "ann"}], _MAIL)
    await Worker(queue, schedules=False).run(until_idle=True)
    real = dict[str, dict[bytes, bytes]]()
    for state in ("completed", "dead"):
        ((_, real[state]),) = admin.xrange(_PREFIX + state)
        assert await queue.control.delete(real[state][b"id"].decode())
        admin.delete(_PREFIX + state)  # the stream takes no ids before its last
    return real


def _copy(admin: Admin, state: str, fields: Mapping[bytes, bytes], count: int) -> None:
    """Write what the scripts write when jobs end: the entries, the locators, and the groups of dead letters."""
    first = int(time.time() * 1000) - _SPREAD
    for start in range(0, count, _BATCH):
        pipe, located = admin.pipeline(transaction=False), {}
        groups: dict[str, dict[str, int]] = {}
        for at in range(start, start + _BATCH):
            ms, kind, ended = first + at * _SPREAD // count, f"{at % _KINDS:012x}", f"{state}-{at}"
            mine: dict[bytes, Any] = {b"id": ended, b"parameters": f'{{"to":"user-{at}","order":{at}}}'}
            mine |= {b"queued_at": ms - 1000, b"failed_at" if state == "dead" else b"finished_at": ms}
            if state == "dead":
                mine |= {b"fingerprint": kind, b"error": f"ValueError: no such address: user-{at}"}
                groups.setdefault(kind, {})[f"{ms}-{at:06}"] = ms
            assert mine.keys() <= fields.keys(), fields
            pipe.xadd(_PREFIX + state, {**fields, **mine}, id=f"{ms}-{at}")
            located[ended] = f"{state} {ms}-{at}"
        pipe.hset(f"{_PREFIX}jobs", mapping=located)
        for kind, members in groups.items():
            pipe.zadd(f"{_PREFIX}group:{kind}", members)
            pipe.zadd(f"{_PREFIX}groups", {kind: max(members.values())}, gt=True)
        pipe.execute()


def _record(admin: Admin) -> None:
    """Write statistics of 8 hours and of 3 days, with as many job names and causes as they can have."""
    now, pipe = int(admin.time()[0]), admin.pipeline(transaction=False)
    sums = (
        "completed=9000 retried=20 dead=4 run5=900 run10=6000 run20=2000 run50=90 run100=10 wait2=8000 wait50=1000"
    )
    fields = {"all": sums, "queue": "ready=1000000 running=80"}
    fields |= {f"job Job{at}": sums for at in range(_NAMES - 1)} | {"job SendEmail": sums}
    fields["causes"] = " ".join(f"{at:012x}={at}" for at in range(_KINDS))
    for key, length, count in (("minute", 60, 480), ("ten", 600, 432)):
        for ago in range(count):
            pipe.hset(f"{_PREFIX}{key}:{now // length - ago}", mapping=fields)
    pipe.execute()


@dataclass(frozen=True, slots=True)
class Seen:
    """What a view took, in ms: its first answer, the later ones, and each time the server's longest call for it.

    The server's times are those of a clock. So on a busy machine the longest of all says little.
    """

    first: float
    later: Sequence[float]
    calls: Sequence[float]

    @property
    def p95(self) -> float:
        """The 95th percentile of the later answers."""
        return quantiles(self.later, n=20, method="inclusive")[18]

    @property
    def call(self) -> float:
        """The median of the server's longest calls."""
        return median(self.calls)

    def row(self) -> list[str]:
        """Return the cells of a table."""
        figures = [self.first, median(self.later), self.p95]
        return [*(f"{figure:.0f}" for figure in figures), f"{self.call:.1f}", f"{max(self.calls):.1f}"]


def views(client: httpx.Client, count: int) -> dict[str, str]:
    """Return the views by what they are, with lists in their middle and filters that match little or nothing."""
    found = {"overview, 1 hour": "", "overview, 8 hours": "?range=8h", "overview, 3 days": "?range=3d"}
    found |= {
        f"{state} jobs": f"jobs?state={state}" for state in ("ready", "running", "delayed", "completed", "dead")
    }
    for state in ("ready", "delayed", "completed", "dead"):
        following = re.search(r'rel="next" href="[^"]*?after=([^"&]+)', client.get(f"jobs?state={state}").text)
        assert following is not None
        found[f"{state} jobs, second page"] = f"jobs?state={state}&after={following[1]}"
    kind = f"{7:012x}"
    found |= {
        "dead jobs of a cause": f"jobs?state=dead&fingerprint={kind}",
        "dead jobs with a text that none has": "jobs?state=dead&text=nowhere-to-be-found",
        "ready jobs of a name that none has": "jobs?state=ready&name=Nothing",
        "delayed jobs with a text": "jobs?state=delayed&text=user-99999",
        "completed jobs older than a day": "jobs?state=completed&age=86400",
        "failures by cause": "failures",
        "a dead job": f"job?id=dead-{count // 2}",
        "edit and retry": f"edit?id=dead-{count // 2}",
        "a job name": "name?name=SendEmail",
        "schedules": "schedules",
        "workers": "workers",
        "limits": "limits",
        "doctor": "doctor",
    }
    ready = re.search(r'href="[^"]*/(job\?id=[^"]+)"', client.get("jobs?state=ready").text)
    assert ready is not None
    return found | {"a ready job": ready[1]}


def look(client: httpx.Client, admin: Admin, count: int, rounds: int) -> dict[str, Seen]:
    """Open each view in turn, in rounds of more than a second, so that no answer is one that was kept."""
    addresses = views(client, count)
    times = dict[str, list[float]]()
    calls = dict[str, list[float]]()
    for _ in range(rounds + 1):
        began = time.monotonic()
        for what, address in addresses.items():
            admin.slowlog_reset()
            asked = time.perf_counter()
            status = client.get(address).status_code
            times.setdefault(what, []).append((time.perf_counter() - asked) * 1000)
            assert status == 200, (what, status)
            longest = max((each["duration"] for each in admin.slowlog_get(100)), default=0)
            calls.setdefault(what, []).append(longest / 1000)
        time.sleep(max(0.0, began + 1.5 - time.monotonic()))
    return {what: Seen(found[0], found[1:], calls[what]) for what, found in times.items()}


def count_all(client: httpx.Client, admin: Admin) -> list[str]:
    """Count all dead letters with a text, while another viewer looks; return what that took."""
    admin.slowlog_reset()
    began = time.monotonic()
    asked = {"kind": "retry", "state": "dead", "text": "user-99"}
    form = client.post("act/count-bulk", data=asked, headers={"sec-fetch-site": "same-origin"})
    act = client.base_url.join(form.headers["location"])
    seen = list[float]()
    while True:
        opened = time.perf_counter()
        client.get("jobs?state=dead")
        seen.append((time.perf_counter() - opened) * 1000)
        text = client.get(act).text
        if "counted so far" not in text:
            break
        time.sleep(0.5)
    assert "that match, counted" in text, text
    took, slowest = time.monotonic() - began, max(each["duration"] / 1000 for each in admin.slowlog_get(1000))
    return [f"{took:.1f}", f"{max(seen):.0f}", f"{slowest:.1f}"]


async def poll(base: str, viewers: int, seconds: float) -> list[float]:
    """Let viewers poll as the page does; return how long each answer took, in ms."""
    took = list[float]()

    async def view(number: int) -> None:
        async with httpx.AsyncClient(base_url=base, headers={"hx-request": "true"}) as client:
            address, tag = _POLLED[number % len(_POLLED)], ""
            await anyio.sleep(2 * number / viewers)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                began = time.perf_counter()
                answer = await client.get(address, headers={"if-none-match": tag})
                took.append((time.perf_counter() - began) * 1000)
                tag = answer.headers["etag"]
                await anyio.sleep(2)

    if not viewers:
        await anyio.sleep(seconds)
    async with anyio.create_task_group() as group:
        for number in range(viewers):
            group.start_soon(view, number)
    return took


def cost(base: str, admin: Admin, page: int, viewers: int, seconds: float) -> list[str]:
    """Return what viewers cost: the share of a core that the server and the page take, and their answers."""
    admin.slowlog_reset()
    before, began = (_cpu(admin), _cpu_of(page)), time.monotonic()
    took = sorted(anyio.run(poll, base, viewers, seconds))
    passed = time.monotonic() - began
    shares = [(_cpu(admin) - before[0]) / passed, (_cpu_of(page) - before[1]) / passed]
    answers = [f"{took[len(took) // 2]:.0f}", f"{took[len(took) * 95 // 100]:.0f}"] if took else ["", ""]
    return [str(viewers), *(f"{share:.1%}" for share in shares), *answers]


def _cpu(admin: Admin) -> float:
    used: Mapping[str, Any] = admin.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


def _cpu_of(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@contextmanager
def served(url: str) -> Iterator[tuple[str, int]]:
    """Serve the page by its command; yield its address and its process."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pageapp.py").write_text(_APP)
        command = [sys.executable, "-m", "redisjobs", "web", "pageapp:queue", "--listen", "127.0.0.1:0"]
        environment = os.environ | {"REDISJOBS_URL": url}
        with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                said = process.stdout.readline()
                address = re.search(r"http://\S+/", said)
                assert address is not None, said
                yield f"{address[0]}{_NAME}/", process.pid
            finally:
                process.send_signal(signal.SIGINT)
                process.wait(10)


def main() -> int:
    """Fill, look, and print; return 1 if a view or a call of the server took too long."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000, help="in each state (1,000,000)")
    parser.add_argument("--rounds", type=int, default=15, help="in which each view is opened again (15)")
    parser.add_argument("--seconds", type=float, default=30, help="that viewers poll (30)")
    options = parser.parse_args()
    jobs = -(-options.jobs // _BATCH) * _BATCH
    logging.getLogger("redisjobs").setLevel(logging.CRITICAL)
    with server.start() as running, redis.Redis.from_url(running.url) as admin:
        began = time.monotonic()
        anyio.run(_filled, running.url, admin, jobs)
        memory = admin.info("memory")["used_memory"] / 2**30
        print(f"{jobs:,} jobs in each state, {memory:.1f} GB, filled in {time.monotonic() - began:.0f} s\n")
        admin.config_set("slowlog-log-slower-than", 100)
        admin.config_set("slowlog-max-len", 10_000)
        with served(running.url) as (base, page), httpx.Client(base_url=base, timeout=60) as client:
            seen = look(client, admin, jobs, options.rounds)
            head = ["view", "first, ms", "later p50, ms", "p95, ms", "longest call, p50, ms", "of all, ms"]
            print(table(head, [[what, *each.row()] for what, each in seen.items()]), "\n", flush=True)
            head = ["all that match are counted in, s", "a view meanwhile at most, ms", "longest call, ms"]
            print(table(head, [count_all(client, admin)]), "\n", flush=True)
            rows = [cost(base, admin, page, viewers, options.seconds) for viewers in (0, 10)]
            print(table(["viewers", "CPU of the server", "CPU of the page", "p50, ms", "p95, ms"], rows))
    late = [what for what, each in seen.items() if max(each.first, each.p95) > _LATE]
    slow = [what for what, each in seen.items() if each.call > _SLOW]
    print(f"\nover {_LATE:g} ms: {', '.join(late) or 'no view'}")
    print(f"with a call of the server over {_SLOW:g} ms: {', '.join(slow) or 'no view'}")
    return 1 if late or slow else 0


async def _filled(url: str, admin: Admin, count: int) -> None:
    keep = Keep(count=10 * count)
    async with JobQueue(url, _NAME, retention=Retention(dead=keep, completed=keep, cancelled=keep)) as queue:
        await fill(queue, admin, count)


if __name__ == "__main__":
    sys.exit(main())
