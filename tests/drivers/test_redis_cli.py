"""Every redis-cli command that is written down works on a live queue, and shows something."""

import functools
import json
import re
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from subprocess import PIPE
from typing import Any, ClassVar

import pytest
import redis
from anyio.from_thread import start_blocking_portal
from pages import PAGES, PROJECT, Page
from store import Heart, RedisStore

from redisjobs import Fail, JobContext, JobName, Keep, Priority, Retention, Schedule, Worker
from redisjobs import JobQueue as AsyncJobQueue
from redisjobs.drivers.redis.driver import RedisDriver
from redisjobs.local import server
from redisjobs.model.changes import Cancel, GetStatus, SetLimit
from redisjobs.model.driver import Consumer
from redisjobs.model.moving import FindTaken, Import, Take
from redisjobs.model.queries import Find
from redisjobs.model.relaying import Relay
from redisjobs.model.steps import Signal
from redisjobs.model.transitions import After, Group, NewJob, SaveStep, Suspend, Wait, WaitsFor
from redisjobs.sync import JobQueue
from redisjobs.worker.source import reclaimer

pytestmark = pytest.mark.anyio

_RULES = "docs/how-to/restrict-access.md"  # its commands are test_acl.py's
_PAGES = (*(page for page in PAGES if page.name != _RULES), Page(PROJECT / "lua/README.md"))
_WORKER = "web-1:4242:9f3c2a1b"
_SAMPLE_ENTRY, _SAMPLE_SLOT = "1732438800000-0", "346487760"
_SAMPLE_RELEASE, _SAMPLE_KIND = "5e28fca0c2e00b30", "0f1e2d3c4b5a"
_SAMPLE_KEYS = {"minute": "28873980", "ten": "2887398", "recorded": "9f3c2a1b5e28fca0"}
KEPT = Retention(completed=Keep(count=100), cancelled=Keep(count=100))


@dataclass
class SendEmail:
    """As in the README."""

    job_name: ClassVar[str] = "SendEmail"
    to: str
    subject: str


def documented() -> list[str]:
    """Every redis-cli command of the pages: a line of a block, or code within a line."""
    text = "".join(page.text for page in _PAGES)
    found = re.findall(r"^(?:\$ )?(redis-cli .+)$|`(redis-cli [^`]+)`", text, re.MULTILINE)
    return list(dict.fromkeys(line or code for line, code in found))


@dataclass
class Live:
    """A server with the queue `emails`, in which there are jobs in every state, and a worker that runs one."""

    url: str
    samples: dict[str, str]  # what the pages say -> what it is here

    def here(self, command: str) -> str:
        """A command of the pages, with this queue's ids in place of the samples."""
        for sample, real in self.samples.items():
            command = command.replace(sample, real)
        return command

    def pause(self) -> None:
        """As one of these commands undoes it."""
        with redis.Redis.from_url(self.url) as admin:
            admin.set("redisjobs:{emails}:paused", "by-hand")
            admin.hdel("redisjobs:{emails}:limits", "Thumbnail")


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    started, ended = threading.Event(), threading.Event()
    with (
        server.start() as running,
        JobQueue(running.url, name="emails", retention=KEPT) as queue,
        start_blocking_portal() as portal,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(reclaimer, "_TIDY", 1e9)  # the worker would end what waits to be cancelled
        register(queue, started, ended)
        put_behind(queue)
        portal.call(functools.partial(Worker(queue).run, until_idle=True))
        worker = Worker(queue, concurrency=1)
        worker.settings = replace(worker.settings, worker_id=_WORKER)
        queue.push({"long": True}, job_name(queue, "Run"), priority=Priority.HIGH, unique="joe")
        ran = portal.start_task_soon(worker.run)
        assert started.wait(30)
        portal.call(wait_for_a_rate, running.url)
        put_in_line(queue)
        portal.call(suspend, running.url)
        portal.call(die, running.url)
        portal.call(wait, running.url)
        portal.call(relay, running.url)
        portal.call(move, running.url)
        with redis.Redis.from_url(running.url) as admin:  # which no worker takes in: the only one is busy
            admin.xadd("redisjobs:{emails}:inbox", {"name": "Run"})
        yield Live(running.url, samples(running.url))
        ended.set()
        portal.call(worker.stop)
        ran.result(30)


def register(queue: JobQueue, started: threading.Event, ended: threading.Event) -> None:
    @queue.job(name="Run")
    def run(long: bool = False) -> dict[str, int]:
        if long:
            started.set()
            ended.wait(60)
        return {"pages": 3}

    @queue.job(name="Break")
    def break_down() -> None:
        raise Fail("no such mailbox")


async def die(url: str) -> None:
    """A worker that its supervisor has found dead; it is looked after for an hour, as its lease is that long."""
    driver = RedisDriver(url, "emails")
    worker = driver.consumer("web-2:17:5d2f01aa", lease=3600, max_deliveries=3)
    await worker.open()
    with closing(Heart(worker)) as heart:
        heart.release()
    await worker.aclose()
    await driver.aclose()


async def suspend(url: str) -> None:
    """A job waits for a signal, and has saved a step; another one keeps a signal."""
    driver = RedisDriver(url, "emails")
    worker = driver.consumer("web-4:5:1b2c3d4e", lease=3600, max_deliveries=3)
    await worker.open()
    await driver.push([NewJob("invoice-46", ["name", "Order", "parameters", "{}"], Priority.HIGH)], repeated=False)
    (lease,) = (await worker.exchange([], 1)).leases
    await worker.exchange([(lease, SaveStep("charge", 1, b'{"id":7}'))], None)
    wait = Wait(2, WaitsFor.SIGNAL, "approved")
    suspended = Suspend(wait, After(3_600_000), changes={"steps": "1"})  # as a worker notes
    await worker.exchange([(lease, suspended)], None)
    await driver.change(Signal("invoice-46", "paid", b"true", "0f1e2d3c4b5a6978"))
    await wait_for_children(driver, worker)
    await worker.aclose()
    await driver.aclose()


async def wait_for_children(driver: RedisDriver, worker: Consumer) -> None:
    """Two jobs wait for a child each; one of them was cancelled, and its child is to be."""
    for token, parent in (("7d8e9fa0b1c2d3e4f5a6b7c8", "album"), ("e" * 24, "cancelled-album")):
        await driver.push([NewJob(parent, ["name", "Album", "parameters", "{}"], Priority.HIGH)], repeated=False)
        (lease,) = (await worker.exchange([], 1)).leases
        fields = ["name", "Page", "parameters", "{}", "child_of", f"{token} 0"]
        child = NewJob(f"{token}-0", fields, due=After(3_600_000))
        waits = Wait(1, WaitsFor.CHILDREN, "render")
        await worker.exchange([(lease, Suspend(waits, group=Group(token, "render", 1), pushes=[child]))], None)
    await driver.change(Cancel("cancelled-album"))


async def relay(url: str) -> None:
    """A relay has pushed a row of the outbox that the pages show, and not deleted it."""
    driver, outbox = RedisDriver(url, "emails"), "3f0c2f2e-9a50-4c7e-8f55-0a8d6c8d7f0e"
    began = await driver.change(Relay(outbox))
    relayed = NewJob("of-the-outbox", ["name", "Run", "parameters", "{}"], due=After(3_600_000))
    await driver.change(Relay(outbox, [relayed], began.server_ms))
    await driver.aclose()


async def move(url: str) -> None:
    """A job is on its way to another store, and one has come from the queue that the pages show."""
    driver = RedisDriver(url, "emails")
    await driver.push(
        [NewJob("moving", ["name", "Run", "parameters", "{}"], due=After(3_600_000))], repeated=False
    )
    row = await driver.read(Find("moving"))
    assert row
    await driver.change(Take([row]))
    (taken,) = (await driver.read(FindTaken())).jobs
    await driver.change(Import("3f0c2f2e9a504c7e8f550a8d6c8d7f0e", [replace(taken, job_id="moved")]))
    await driver.aclose()


async def wait(url: str) -> None:
    """A process waits for a job, which has reported how far it is, and emitted a chunk."""
    driver = RedisDriver(url, "emails")
    await driver.change(GetStatus(["invoice-42"], "4242-9f3c2a1b"))
    await driver.aclose()
    with redis.Redis.from_url(url) as admin:
        admin.set("redisjobs:{emails}:progress:invoice-42", '{"fraction":0.5}', ex=86400)
        admin.xadd("redisjobs:{emails}:chunks:invoice-42", {"json": '"page"', "run": "1"})


async def wait_for_a_rate(url: str) -> None:
    """Of two jobs of a tenant one runs, for as long as its worker's lease is; one waits for an hour."""
    driver = RedisDriver(url, "emails")
    worker = driver.consumer("web-3:99:7a1c22bd", lease=3600, max_deliveries=3)
    await worker.open()
    await driver.change(SetLimit("SendEmail", "max_concurrency=5 rate=1/h burst=1"))
    fields = ["name", "SendEmail", "parameters", "{}", "limit_key", "joe"]
    await driver.push([NewJob("tenant-1", fields), NewJob("tenant-2", fields)], repeated=False)
    assert [lease.job_id for lease in (await worker.exchange([], 9)).leases] == ["tenant-1"]
    await driver.change(Cancel("tenant-1"))
    await worker.aclose()
    await driver.aclose()


def job_name(queue: JobQueue, name: str) -> JobName[Any]:
    return queue.definition(name).name


def put_behind(queue: JobQueue) -> None:
    """Jobs that the first worker finishes: one well, one as a dead letter."""
    queue.push({}, job_name(queue, "Run"), job_id="invoice-40", keep_result=3600)
    queue.push({}, job_name(queue, "Break"), job_id="invoice-41")


def put_in_line(queue: JobQueue) -> None:
    """Jobs that stay where they are put, as the only slot is taken."""
    run = job_name(queue, "Run")
    queue.push({}, run, job_id="invoice-42")
    queue.schedules.put("nightly", {}, Schedule.daily(hour=4), job=run)
    queue.push({}, run, job_id="invoice-43", delay=3600)
    queue.push({}, run, job_id="invoice-44", priority=Priority.LOW, headers={"note": "x" * 20_000})
    queue.push({}, run, unique="jim", delay=3600)
    replacing = queue.prepare({}, run, unique="jim", delay=7200, on_conflict="replace")
    queue.push_many([replace(replacing, job_id="invoice-45")])
    queue.control.hold("invoice-43")
    queue.control.pause("Break")


def samples(url: str) -> dict[str, str]:
    """What stands here for the entry, the five seconds and the keys that the pages show."""
    with redis.Redis.from_url(url, decode_responses=True) as admin:
        place = str(admin.hget("redisjobs:{emails}:jobs", "invoice-42"))
        finished, *_ = admin.scan_iter("redisjobs:{emails}:finished:*")
        release, *_ = admin.zrange("redisjobs:{emails}:schedulers", 0, 0)
        kind, *_ = admin.zrange("redisjobs:{emails}:groups", 0, 0)
        admin.persist("redisjobs:{emails}:conflict:invoice-45")
        keys = {
            f"{key}:{sample}": next(admin.scan_iter(f"redisjobs:{{emails}}:{key}:*")).partition("}:")[2]
            for key, sample in _SAMPLE_KEYS.items()
        }
    samples = {_SAMPLE_ENTRY: place.split()[1], _SAMPLE_SLOT: finished.rpartition(":")[2]}
    return samples | {_SAMPLE_RELEASE: release, _SAMPLE_KIND: kind} | keys


def by_redis_cli(url: str, command: str) -> str:
    """What the real redis-cli prints, as a shell runs the very words of the page."""
    shell = f'redis-cli() {{ exec redis-cli -e -u {url} "$@"; }}\n{command}'
    with subprocess.Popen(["bash", "-c", shell], text=True, stdout=PIPE, stderr=PIPE) as process:
        if "SUBSCRIBE" in command:  # it would go on for ever
            assert process.stdout
            line = process.stdout.readline()
            process.kill()
            return line
        shown, complaint = process.communicate(timeout=20)
    assert process.returncode == 0, complaint or shown
    return shown


def by_the_same_words(url: str, command: str) -> str:
    """What the server says to the same words; for a machine without redis-cli."""
    _, *words = shlex.split(command)
    with redis.Redis.from_url(url, decode_responses=True) as client:
        if words[:2] == ["--scan", "--pattern"]:
            return "\n".join(client.scan_iter(words[2]))
        if words[0] in ("SUBSCRIBE", "PSUBSCRIBE"):
            with client.pubsub() as ear:
                (ear.subscribe if words[0] == "SUBSCRIBE" else ear.psubscribe)(words[1])
                return str(ear.get_message(timeout=10) or "")
        client.response_callbacks.clear()  # the reply as it is
        reply: Any = client.execute_command(*words)
        return str(reply or "")


WAYS = [by_the_same_words, by_redis_cli] if shutil.which("redis-cli") else [by_the_same_words]


@pytest.mark.parametrize("run", WAYS)
@pytest.mark.parametrize("command", documented())
def test_a_documented_command_shows_something(live: Live, run: Callable[[str, str], str], command: str) -> None:
    live.pause()
    shown = run(live.url, live.here(command))

    assert shown.strip() not in ("", "(nil)", "(empty array)", "0")


@pytest.mark.parametrize("run", WAYS)
async def test_a_job_pushed_by_the_documented_words_runs(
    run: Callable[[str, str], str], redis_store: RedisStore
) -> None:
    commands = [command for command in documented() if command.startswith("redis-cli XADD")]
    pushed, ran = [], []

    async with AsyncJobQueue(redis_store.url, name=redis_store.queue_name) as queue:

        @queue.register(SendEmail)
        async def send(parameters: SendEmail, context: JobContext) -> None:
            ran.append((context.job_id, parameters))

        for command in commands:
            entry = run(redis_store.url, command.replace("{emails}", f"{{{queue.name}}}")).strip()
            pushed.append((entry, SendEmail(**json.loads(shlex.split(command)[-1]))))
        await Worker(queue).run(until_idle=True)

    assert pushed
    assert sorted(ran, key=str) == sorted(pushed, key=str)


def test_the_list_of_workers_tells_who_is_alive_and_the_idle_time_how_long_a_job_has_been_running(
    live: Live,
) -> None:
    shown = by_the_same_words(live.url, "redis-cli ZRANGE 'redisjobs:{emails}:workers' 0 -1 WITHSCORES")
    with redis.Redis.from_url(live.url, decode_responses=True) as admin:
        seconds, micros = admin.time()
        stream = "redisjobs:{emails}:ready:high"
        (first,) = admin.xpending_range(stream, "workers", "-", "+", 9)
        (end,) = re.findall(rf"{_WORKER}\D+(\d+)", shown)
        time.sleep(0.1)
        (later,) = admin.xpending_range(stream, "workers", "-", "+", 9)

    assert "web-2" not in shown
    assert 0 < int(end) - (seconds * 1000 + micros // 1000) <= 15_000
    assert first["consumer"] == _WORKER
    assert later["time_since_delivered"] - first["time_since_delivered"] >= 100


def test_the_fields_of_a_suspended_job_have_each_name_once(live: Live) -> None:
    with redis.Redis.from_url(live.url) as admin:
        _, *fields = json.loads(admin.hget("redisjobs:{emails}:delayed", "invoice-46") or "[]")

    names = fields[::2]
    assert "waits" in names
    assert sorted(names) == sorted(set(names))
