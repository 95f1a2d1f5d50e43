"""The command line, as a user runs it: exit codes, what is said and where, and JSON for programs."""

import functools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import redis
import typer
from commands import module_of, until
from results import worker_in_thread
from store import RedisStore

import redisjobs
from redisjobs import (
    JobContext,
    JobFailed,
    JobName,
    Keep,
    Progress,
    Retention,
    Schedule,
    UniqueConflict,
    Worker,
    no_retry,
    sync,
)
from redisjobs.base.visible import without_password
from redisjobs.cli import app
from redisjobs.cli.dev import ended_by_signals
from redisjobs.cli.target import where
from redisjobs.model.job import Priority
from redisjobs.model.options import PushOptions
from redisjobs.model.progress import amount, counted
from redisjobs.model.queries import COUNTERS
from redisjobs.model.stored import Declarer, Put, PutSchedules, WithdrawSchedules
from redisjobs.worker.settings.shutdown import Interrupts

PACKAGE = Path(redisjobs.__file__).parent

MODULE = """
import time
from dataclasses import dataclass
from typing import ClassVar

import anyio
import httpx

from redisjobs import JobQueue, no_retry, sync

print("imported")
queue = JobQueue("redis://127.0.0.1:1/0", name="{queue}")
plain = sync.JobQueue("redis://127.0.0.1:1/0", name="{queue}-sync")
same = JobQueue("redis://127.0.0.1:2/0", name="{queue}")
memory = JobQueue("memory://")
shelf = {{}}

@dataclass
class Mail:
    job_name: ClassVar[str] = "Mail"
    to: str
    copies: int = 1

@queue.register(Mail)
async def mail(parameters: Mail) -> None:
    print(f"mailed {{parameters.to}} x{{parameters.copies}}", flush=True)

@queue.job
async def rest() -> None:
    print("resting", flush=True)
    await anyio.sleep(60)

@queue.job
async def stubborn() -> None:
    print("resting", flush=True)
    while True:
        try:
            await anyio.sleep(60)
        except BaseException:
            time.sleep(0.05)  # anyio cancels again at once, so this would keep a core busy

@queue.job
async def block() -> None:
    print("resting", flush=True)
    time.sleep(60)

@queue.job
def thread() -> None:
    print("resting", flush=True)
    time.sleep(60)

@queue.job(retry=no_retry())
def boom(what: str) -> None:
    raise ValueError(what)

@queue.job(keep_result=60)
async def add(a: int) -> int:
    return a + 1

@queue.job(priority="high", unique="order-{{order}}")
async def pay(order: int) -> None: ...

@plain.job
def parent() -> None:
    plain.push_many([child.prepare()])

@plain.job
def child() -> None:
    print("born", flush=True)
"""


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def folder(tmp_path: Path, queue_name: str) -> Path:
    """A directory with a user's module, and some that are broken."""
    (tmp_path / "shop.py").write_text(MODULE.format(queue=queue_name))
    (tmp_path / "lacks.py").write_text("import surely_not_there")
    (tmp_path / "unfinished.py").write_text("def f(")
    (tmp_path / "leaves.py").write_text("raise SystemExit(0)")
    (tmp_path / "work.py").write_text("from shop import queue\n\n@queue.job\ndef far() -> None: print('far')\n")
    (tmp_path / "sched.py").write_text("from shop import queue")
    (tmp_path / "clash.py").write_text("import redisjobs\nredisjobs.JobQueue('http://x')")
    return tmp_path


@pytest.fixture
def cli(folder: Path, redis_url: str, there: object, monkeypatch: Any, capfd: Any) -> Callable[..., Ended]:
    """Run a command in this process, which is quicker: all but its process is real."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("REDISJOBS_URL", redis_url)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*arguments: str) -> Ended:
        for module in ("shop", "work", "lacks", "unfinished", "leaves", "clash"):
            sys.modules.pop(module, None)
        monkeypatch.setattr(sys, "argv", ["redisjobs", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            app.run()
        out, err = capfd.readouterr()
        return Ended(left.value.code or 0 if isinstance(left.value.code, int | None) else 1, out, err)

    return run


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(folder: Path, redis_url: str, there: object) -> Iterator[Start]:
    """Start a command as a process of its own."""
    environment = os.environ | {"REDISJOBS_URL": redis_url, "PYTHONPATH": str(PACKAGE.parent)}
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str, stderr: int = subprocess.PIPE, **changes: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "redisjobs", *arguments],
            cwd=folder,
            env=environment | changes,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def ended(process: "subprocess.Popen[str]", within: float = 40) -> Ended:
    out, err = process.communicate(timeout=within)
    return Ended(process.returncode, out, err)


def one_line(text: str) -> str:
    (line,) = text.splitlines()
    return line


# Pushing and looking


@pytest.mark.slow
def test_what_push_puts_on_the_queue_a_worker_runs_and_stats_count(start: Start, queue_name: str) -> None:
    pushed = ended(start("push", "shop:queue", "Mail", '{"to": "joe"}'))
    assert (pushed.code, pushed.err) == (0, "")

    ran = ended(start("worker", "shop:queue", "--until-idle"))

    assert ran.code == 0
    assert "mailed joe x1" in ran.out
    assert re.search(r"^\d{4}-\d\d-\d\dT[\d:.]+Z INFO +redisjobs\.worker: job \S+ \(Mail.*done$", ran.err, re.M)
    stats = ended(start("stats", "-q", queue_name, "--json"))
    counted = stats.document["totals"]
    assert counted == dict.fromkeys(COUNTERS, 0) | {"pushed": 1, "completed": 1}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [[], ["--processes", "2"]], ids=["worker", "supervisor"])
def test_a_worker_runs_several_queues_and_its_log_says_of_which_each_job_is(
    start: Start, queue_name: str, processes: list[str]
) -> None:
    assert ended(start("push", "shop:queue", "Mail", '{"to": "joe"}', "--id", "mine")).code == 0
    assert ended(start("push", "shop:plain", "parent", "{}", "--id", "yours")).code == 0

    ran = ended(start("worker", "shop:queue=3", "shop:plain", "--until-idle", *processes))

    assert ran.code == 0
    assert "mailed joe x1" in ran.out
    assert "born" in ran.out
    several = rf"redisjobs\.worker: worker \S+ has 10 slots for queues '{queue_name}' \(weight 3\), "
    assert re.search(rf"{several}'{queue_name}-sync' \(weight 1\)$", ran.err, re.M)
    assert re.search(rf"redisjobs\.worker: queue '{queue_name}': job mine \(Mail.*done$", ran.err, re.M)
    assert re.search(rf"redisjobs\.worker: queue '{queue_name}-sync': job yours \(parent.*done$", ran.err, re.M)
    for name in (queue_name, f"{queue_name}-sync"):
        assert re.search(rf"worker \S+ ended on queue '{name}'$", ran.err, re.M)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [[], ["--processes", "1"]], ids=["worker", "supervisor"])
def test_a_worker_that_is_told_to_takes_its_queues_in_strict_order(start: Start, processes: list[str]) -> None:
    ran = ended(start("worker", "shop:queue", "shop:plain", "--strict", "--until-idle", *processes))

    assert ran.code == 0
    assert re.search(r"has 10 slots for queues '\S+', '\S+-sync', in strict order$", ran.err, re.M)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [[], ["--processes", "1"]], ids=["worker", "supervisor"])
def test_a_worker_imports_the_modules_of_handlers_and_takes_targets_of_one_queue_as_one(
    start: Start, processes: list[str]
) -> None:
    imported = ("--import", "work")
    assert ended(start("push", "shop:queue", "far", "{}", "--id", "mine", *imported)).code == 0

    ran = ended(start("worker", "shop:queue", "work:queue=2", *imported, "--until-idle", *processes))

    assert ran.code == 0
    assert "far" in ran.out.splitlines()
    assert re.search(r"runs queue '\S+' at redis://\S+ in \d+ slots: Mail, add, .*, far, ", ran.err)


@pytest.mark.slow
def test_a_worker_on_memory_says_that_no_other_process_can_push_to_it(start: Start) -> None:
    ran = ended(start("worker", "shop:memory", "--until-idle", "--url", "memory://"))

    assert ran.code == 0
    assert "queue 'default' is at memory://: only this process can push to it, and its jobs end" in ran.err
    assert "this worker has no handlers for queue 'default'" in ran.err


def test_push_prints_the_id_that_the_job_has_and_whether_it_was_added(
    cli: Callable[..., Ended], there: sync.JobQueue
) -> None:
    options = ["--id", "mail-1", "--priority", "high", "--unique", "joe", "--delay", "60"]

    pushed = cli("push", "shop:queue", "Mail", '{"to": "joe", "copies": 2}', *options)

    assert pushed.out.splitlines() == ["imported", f"mail-1 added to {where(there)}"]
    again = cli("push", "shop:queue", "Mail", '{"to": "joe", "copies": 3}', *options)
    assert (again.code, again.out.splitlines()) == (0, ["imported", f"mail-1 already on {where(there)}"])
    job = there.get("mail-1")
    assert job is not None
    assert (job.state, job.priority, job.unique) == ("delayed", "high", "joe")
    assert json.loads(job.parameters) == {"to": "joe", "copies": 2}


def test_push_replaces_a_job_that_waits_or_says_who_holds_the_key(
    cli: Callable[..., Ended], there: sync.JobQueue
) -> None:
    push = ["push", "shop:queue", "Mail"]
    cli(*push, '{"to": "joe"}', "--id", "first", "--unique", "joe", "--unique-until", "start", "--delay", "60")

    replaced = cli(*push, '{"to": "jim"}', "--unique", "joe", "--on-conflict", "replace", "--delay", "60")
    assert replaced.out.splitlines() == ["imported", f"first replaced on {where(there)}"]
    as_json = cli(*push, '{"to": "ann"}', "--unique", "joe", "--on-conflict", "replace", "--json")
    told = json.loads(as_json.out.removeprefix("imported\n"))
    assert told == {"job_id": "first", "added": False, "replaced": True}
    refused = cli(*push, '{"to": "eve"}', "--unique", "joe", "--on-conflict", "raise")
    assert refused.code == 1
    assert refused.err.endswith("not pushed: the job first holds the unique key 'joe'\n")
    job = there.get("first")
    assert job is not None
    assert json.loads(job.parameters)["to"] == "ann"


def test_push_takes_what_goes_along_and_how_long_a_key_is_held(
    cli: Callable[..., Ended], there: sync.JobQueue, redis_url: str, queue_name: str
) -> None:
    headers = ["--header", "trace=4bf9=2f", "--header", "from=cli", "--header", "empty="]
    held = ["--unique", "joe", "--unique-for", "60", "--expires-in", "30.5"]

    assert cli("push", "shop:queue", "Mail", '{"to": "joe"}', "--id", "mail-1", *headers, *held).code == 0

    job = there.get("mail-1")
    assert job is not None
    assert job.headers == {"trace": "4bf9=2f", "from": "cli", "empty": ""}
    with redis.Redis.from_url(redis_url) as admin:
        assert 50 < admin.ttl(f"redisjobs:{{{queue_name}}}:unique:joe") <= 60
        ((entry, fields),) = admin.xrange(f"redisjobs:{{{queue_name}}}:ready:normal")
    assert int(fields[b"expires_at"]) - int(entry.partition(b"-")[0]) == pytest.approx(30_500, abs=5)


def test_push_takes_what_the_handler_has_as_defaults(cli: Callable[..., Ended], there: sync.JobQueue) -> None:
    command = ("push", "shop:queue", "pay", '{"order": 7}', "--json")
    ends = [cli(*command), cli(*command), cli(*command, "--unique", "own")]
    *pushed, other = [json.loads(end.out.partition("imported\n")[2]) for end in ends]

    assert [each["added"] for each in (*pushed, other)] == [True, False, True]
    job = there.get(pushed[0]["job_id"])
    assert job is not None
    assert job.priority is Priority.HIGH


@pytest.fixture
def works(there: sync.JobQueue) -> Iterator[None]:
    """A worker that has handlers for some of the module's jobs."""

    @there.job(keep_result=60)
    async def add(a: int) -> int:
        return a + 2**70

    @there.job(retry=no_retry())
    def boom(what: str) -> None:
        raise ValueError(what)

    @there.register(JobName("Mail", dict[str, Any]))
    async def mail(parameters: dict[str, Any]) -> dict[str, Any]:
        return parameters

    with worker_in_thread(there):
        yield


@pytest.mark.usefixtures("works")
def test_push_waits_for_a_result_and_prints_it_as_json(cli: Callable[..., Ended], there: sync.JobQueue) -> None:
    done = cli("push", "shop:queue", "add", '{"a": 4}', "--wait", "--id", "mine")
    assert (done.code, done.err, done.out.splitlines()) == (0, "", ["imported", str(2**70 + 4)])
    done = cli("push", "shop:queue", "Mail", '{"to": "joe"}', "--wait", "--timeout", "30", "--json")
    assert (done.code, done.err) == (0, "")
    document = json.loads(done.out.removeprefix("imported\n"))
    assert document.pop("job_id")
    assert document == {"added": True, "result": {"to": "joe", "copies": 1}}

    failed = cli("push", "shop:queue", "boom", '{"what": "no luck"}', "--wait", "--id", "bad")
    assert (failed.code, failed.out) == (1, "imported\n")
    first, *traceback = failed.err.splitlines()
    assert first == f"redisjobs: job bad failed: ValueError: no luck ({where(there)})"
    assert traceback[0] == "Traceback (most recent call last):"
    assert traceback[-1] == "ValueError: no luck"


def test_push_waits_so_long_and_no_longer(cli: Callable[..., Ended], there: sync.JobQueue) -> None:
    late = cli("push", "shop:queue", "add", '{"a": 4}', "--wait", "--timeout", "0.1", "--id", "mine")
    assert (late.code, late.out) == (124, "imported\n")
    assert late.err == f"redisjobs: job mine has not ended in 0.1 s; it goes on ({where(there)})\n"
    late = cli("push", "shop:plain", "parent", "{}", "--wait", "--timeout", "0.1", "--id", "yours")
    assert late.code == 124
    assert late.err.startswith(
        f"redisjobs: job yours has not ended in 0.1 s; it goes on (queue '{there.name}-sync' at"
    )
    there.cancel("mine")
    gone = cli("push", "shop:queue", "add", '{"a": 4}', "--keep-result", "0", "--id", "mine")
    assert gone.code == 0
    job = there.get("mine")
    assert job is not None
    for options, said in {
        ("--timeout", "5"): "--timeout says how long --wait waits; give that too",
        ("--wait", "--keep-result", "0"): "--keep-result 0 keeps nothing that --wait could print",
        ("--wait", "--timeout", "-1"): "--timeout -1: give seconds from 0 up",
    }.items():
        wrong = cli("push", "shop:queue", "add", '{"a": 4}', *options)
        assert (wrong.code, wrong.err) == (2, f"redisjobs: {said}\n")


@pytest.fixture
def book(there: sync.JobQueue) -> Iterator[threading.Event]:
    """A worker with a job that reports how far it is, and ends once this is set."""
    seen = threading.Event()

    @there.job(keep_result=60)
    def book(context: JobContext) -> int:
        context.progress(1, 4, "pages")
        assert seen.wait(30)
        return 4

    with worker_in_thread(there):
        yield seen
        seen.set()


@pytest.mark.slow
def test_a_job_can_be_watched_until_it_has_ended(
    start: Start, there: sync.JobQueue, book: threading.Event
) -> None:
    job_id = there.push({}, "book").id
    of = (job_id, "--queue", there.name, "--watch")
    for_people, for_programs = start("job", *of), start("job", *of, "--json")
    assert until(for_people, "of") == "1 of 4  pages\n"
    said = {"fraction": 0.25, "done": 1, "total": 4, "note": "pages"}
    assert json.loads(until(for_programs, "fraction")) == said

    book.set()

    left = ended(for_people)
    assert (left.code, left.err) == (0, "")
    told = left.out.split()
    assert told[:4] == ["queue", there.name, "server", there.driver.where]
    assert told[4:] == ["job", "id", job_id, "outcome", "completed", "result", "4"]
    last = ended(for_programs).out
    assert json.loads(one_line(last)) == {"job_id": job_id, "outcome": "completed", "result": 4}


@pytest.mark.slow
def test_a_job_can_be_followed_until_it_has_ended(
    start: Start, cli: Callable[..., Ended], there: sync.JobQueue
) -> None:
    seen = threading.Event()

    @there.job(keep_result=60)
    def tell(context: JobContext) -> int:
        context.emit("Once\x1b")
        assert seen.wait(30)
        context.emit({"a": [1, "é"]})
        context.emit(b"a \xff\ntime")
        return 4

    job_id = there.push({}, "tell").id
    of = (job_id, "--queue", there.name, "--follow")
    with worker_in_thread(there):
        for_people, for_programs = start("job", *of), start("job", *of, "--json")
        assert until(for_people, "Once") == "Once\\x1b\n"
        first = json.loads(until(for_programs, "Once"))
        seen.set()
        left, lines = ended(for_people), ended(for_programs).out.splitlines()

    assert (left.code, left.err) == (0, "")
    assert left.out.splitlines()[:3] == ['{"a": [1, "é"]}', "a \\xff", "time"]
    assert left.out.split()[-2:] == ["result", "4"]
    assert (first["run"], first["data"]) == (1, "Once\x1b")
    second, third, last = map(json.loads, lines)
    assert (second["data"], third["base64"]) == ({"a": [1, "é"]}, "YSD/CnRpbWU=")
    assert last == {"job_id": job_id, "outcome": "completed", "result": 4}
    rest = cli("job", *of, "--json", "--after", second["id"])
    assert [json.loads(line) for line in rest.out.splitlines()] == [third, last]


def test_what_can_t_be_followed_is_said(cli: Callable[..., Ended], there: sync.JobQueue) -> None:
    of = ("job", "none", "--queue", there.name)
    for options, said in (
        (["--follow", "--watch"], "give one of --watch, --follow and --children"),
        (["--after", "1-1"], "--after needs --follow"),
        (["--follow", "--after", "x"], "the id of a chunk"),
    ):
        done = cli(*of, *options)
        assert done.code == 2
        assert said in " ".join(done.err.split())
    assert cli(*of, "--follow").code == 1


@pytest.mark.usefixtures("works")
def test_a_watch_of_a_job_that_failed_or_was_cancelled_exits_with_1(
    cli: Callable[..., Ended], there: sync.JobQueue
) -> None:
    failed = there.push({"what": "no"}, "boom").id
    with pytest.raises(JobFailed):
        there.result(failed, returns=str, timeout=30)
    gone = there.push({"to": "joe"}, JobName("Mail", dict[str, Any]), delay=60, keep_result=60).id
    there.cancel(gone)

    for job_id, said in ((failed, "failed"), (gone, "was cancelled")):
        watched = cli("job", job_id, "-q", there.name, "--watch")
        assert (watched.code, watched.err) == (1, f"redisjobs: job {job_id} {said}\n")
        assert job_id in watched.out
        assert cli("job", job_id, "-q", there.name).code == 0


def test_running_jobs_are_cancelled_by_a_filter(
    cli: Callable[..., Ended], there: sync.JobQueue, queue_name: str
) -> None:
    began = threading.Semaphore(0)

    @there.job
    async def rest() -> None:
        began.release()
        await anyio.sleep(60)

    @there.job
    async def other() -> None:
        began.release()
        await anyio.sleep(60)

    with worker_in_thread(there):
        jobs = [rest.push(), rest.push(), other.push()]
        for _ in jobs:
            assert began.acquire(timeout=30)
        done = cli("cancel", "--state", "running", "--name", "rest", "-q", queue_name)
        assert (done.code, done.out) == (0, f"cancelled 2 running jobs on {where(there)}\n")
        while there.control.counts().totals["cancelled"] < 2:
            time.sleep(0.01)
        assert [job.job_id for job in there.control.jobs("running")] == [jobs[2].id]
        assert cli("cancel", jobs[2].id, "-q", queue_name).code == 0


@pytest.mark.slow
def test_a_watch_of_a_job_that_ends_and_leaves_nothing_says_that_it_has_ended(
    start: Start, cli: Callable[..., Ended], there: sync.JobQueue
) -> None:
    begun, may_end = threading.Event(), threading.Event()

    @there.job
    def quiet(context: JobContext) -> None:
        context.progress(1, 4)
        begun.set()
        assert may_end.wait(30)

    job_id, of = quiet.push().id, ("--queue", there.name, "--watch")
    with worker_in_thread(there):
        assert begun.wait(30)
        for_people, for_programs = start("job", job_id, *of), start("job", job_id, *of, "--json")
        until(for_people, "of")
        until(for_programs, "fraction")
        may_end.set()
        left = ended(for_people)
        assert (left.code, left.err) == (0, "")
        assert left.out == f"job {job_id} on {where(there)} has ended; how is not known, as no result was kept\n"
        left = ended(for_programs)
        assert (left.code, json.loads(one_line(left.out))) == (0, {"job_id": job_id, "outcome": None})
    never = cli("job", "never", *of)
    assert (never.code, never.out) == (1, "")


def test_a_user_who_may_not_listen_is_told_so_when_waiting(
    cli: Callable[..., Ended], there: sync.JobQueue, redis_store: RedisStore, monkeypatch: Any
) -> None:
    redis_store.admin.execute_command("ACL", "SETUSER", redis_store.user, "-subscribe")
    Path("shop.py").write_text(
        module_of(redis_store.queue_name, "@queue.job(keep_result=60)\ndef book() -> int: ...")
    )
    monkeypatch.setenv("REDISJOBS_URL", redis_store.url)
    for command in (["push", "shop:queue", "book", "{}", "--wait", "--id", "mine"], ["job", "mine", "--watch"]):
        refused = cli(*command, *(["--queue", redis_store.queue_name] if command[0] == "job" else []))
        assert (refused.code, refused.out) == (1, "")
        assert "subscribe" in one_line(refused.err)


def test_numbers_of_what_is_done_are_for_people() -> None:
    said = [amount(counted(done, total, "")) for done, total in ((1234567, 2500000), (3, 30), (0.5, 12345.678))]
    assert said == ["1,234,567 of 2,500,000", "3 of 30", "0.5 of 12,346"]
    assert amount(counted(2**53, None, "")) == "9,007,199,254,740,992"
    assert [amount(progress) for progress in (Progress(0.4), Progress(note="page"))] == ["40 %", ""]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["push", "job"])
def test_on_a_terminal_a_bar_shows_how_far_a_job_is_and_leaves_nothing(
    start: Start, there: sync.JobQueue, book: threading.Event, folder: Path, command: str
) -> None:
    ours, theirs = os.openpty()
    (folder / "shop.py").write_text(module_of(there.name, "@queue.job(keep_result=60)\ndef book() -> int: ..."))
    of = ["job", there.push({}, "book").id, "--queue", there.name, "--watch"]
    runs = start(*(["push", "shop:queue", "book", "{}", "--wait"] if command == "push" else of), stderr=theirs)
    shown = ""
    while "1 of 4" not in shown:
        shown += os.read(ours, 4096).decode()
    assert "pages" in shown

    book.set()

    out, _ = runs.communicate(timeout=40)
    assert (runs.returncode, out.split()[-1]) == (0, "4")
    os.close(theirs)
    os.close(ours)


@pytest.mark.slow
def test_a_ctrl_c_ends_the_wait_of_a_push_and_not_its_job(
    start: Start, there: sync.JobQueue, redis_url: str
) -> None:
    waits = start("push", "shop:queue", "add", '{"a": 4}', "--wait", "--id", "mine")
    with redis.Redis.from_url(redis_url) as admin:
        end = time.monotonic() + 20
        while not admin.hexists(f"redisjobs:{{{there.name}}}:waiters", "mine"):
            assert time.monotonic() < end
            time.sleep(0.01)
    waits.send_signal(signal.SIGINT)
    left = ended(waits)
    assert left.code == 130
    assert re.fullmatch(
        rf"redisjobs: interrupted; job mine goes on \(queue '{there.name}' at redis://\S+\)", one_line(left.err)
    )
    assert there.get("mine")


@pytest.mark.usefixtures("works")
def test_job_shows_how_a_job_has_ended_where_its_result_is_kept(
    cli: Callable[..., Ended], there: sync.JobQueue, queue_name: str
) -> None:
    def show(job_id: str) -> Ended:
        return cli("job", job_id, "-q", queue_name, "--json")

    mail = JobName("Mail", dict[str, Any])
    there.run({"to": "joe"}, mail, job_id="done", timeout=30)
    assert show("done").document == {"job_id": "done", "outcome": "completed", "result": {"to": "joe"}}
    page = cli("job", "done", "-q", queue_name)
    assert page.out.splitlines() == [
        *(f"queue       {there.name}", f"server      {there.driver.where}"),
        *("job id      done", "outcome     completed", 'result      {"to": "joe"}'),
    ]
    there.push({}, mail, job_id="gone", delay=60, keep_result=60)
    assert "outcome" not in show("gone").document
    there.cancel("gone")
    assert show("gone").document == {"job_id": "gone", "outcome": "cancelled"}
    with pytest.raises(JobFailed):
        there.run({"what": "no"}, "boom", job_id="dead", timeout=30)
    assert show("dead").document["reason"] == "failed"
    assert "outcome" not in show("dead").document
    there.control.delete("dead")
    assert show("dead").document == {
        "job_id": "dead",
        "outcome": "dead",
        "error": "ValueError: no",
        "error_type": "ValueError",
    }
    assert show("never").code == 1


@pytest.mark.slow
def test_the_command_line_has_every_option_of_a_push() -> None:
    commands: Any = typer.main.get_command(app.make())

    assert PushOptions.__annotations__.keys() <= {each.name for each in commands.commands["push"].params}


def test_push_takes_a_time_and_parameters_from_stdin(start: Start, there: sync.JobQueue) -> None:
    process = start("push", "shop:queue", "Mail", "-", "--at", "2099-01-31T08:00+01:00", "--json")
    out, _ = process.communicate('{"to": "joe"}', timeout=20)

    job = there.get(json.loads(out.removeprefix("imported\n"))["job_id"])

    assert job is not None
    assert str(job.due_at) == "2099-01-31 07:00:00+00:00"


@pytest.mark.slow
def test_url_moves_a_sync_queue_whole_so_that_its_handlers_push_there_too(start: Start) -> None:
    assert ended(start("push", "shop:plain", "parent", "{}")).code == 0

    ran = ended(start("worker", "shop:plain", "--until-idle"))

    assert ran.out.splitlines() == ["imported", "born"]


@pytest.fixture
def full(there: sync.JobQueue, cli: Callable[..., Ended]) -> None:
    """A job in each state but running, with ids `ready`, `delayed` and `dead`."""

    @there.job(retry=no_retry())
    async def boom(what: str) -> None:
        raise ValueError(what)

    there.push_many([boom.options(job_id="dead").prepare("\x1b[31m[bold]no")])
    anyio.run(functools.partial(Worker(there).run, until_idle=True))
    cli("push", "shop:queue", "rest", "{}", "--id", "ready")
    cli("push", "shop:queue", "rest", "{}", "--id", "delayed", "--delay", "60")


@pytest.mark.usefixtures("full")
def test_every_command_that_prints_data_prints_one_json_document(
    cli: Callable[..., Ended], queue_name: str
) -> None:
    def ask(*arguments: str) -> Any:
        answer = cli(*arguments, "-q", queue_name, "--json")
        assert (answer.code, answer.err) == (0, "")
        return answer.document

    assert ask("stats")["ready"] == {"high": 0, "normal": 1, "low": 0}
    for state in ("ready", "delayed", "dead"):
        assert [job["job_id"] for job in ask("jobs", "--state", state)] == [state]
    assert ask("jobs", "--state", "running") == []
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", ask("job", "delayed")["due_at"])
    assert ask("dead", "list")[0]["parameters"] == {"what": "\x1b[31m[bold]no"}
    assert "Traceback" in ask("dead", "show", "dead")["traceback"]
    kind = ask("dead", "groups")[0]
    assert (kind["count"], kind["error_type"], kind["names"]) == (1, "ValueError", ["boom"])
    assert ask("dead", "list", "--fingerprint", kind["fingerprint"], "--text", "[bold]")[0]["job_id"] == "dead"
    assert ask("dead", "list", "--reason", "expired") == ask("dead", "list", "--older-than", "60") == []
    assert [job["job_id"] for job in ask("jobs", "--state", "delayed", "--name", "rest")] == ["delayed"]
    assert ask("dead", "requeue", "dead") == {"requeued": ["dead"], "not_found": [], "failed": []}
    assert ask("cancel", "dead") == {"job_id": "dead", "result": "cancelled"}
    assert ask("dead", "requeue", "--all") == {"count": 0}


@pytest.mark.usefixtures("full")
def test_tables_keep_ids_whole_and_control_characters_out(cli: Callable[..., Ended], queue_name: str) -> None:
    listed = cli("dead", "list", "-q", queue_name)
    shown = cli("dead", "show", "dead", "-q", queue_name)
    counted = cli("stats", "-q", queue_name)
    grouped = cli("dead", "groups", "-q", queue_name)

    assert re.search(r"^dead +boom +failed +1 +\S+ \S+ +ValueError: \\x1b\[31m\[bold\]no *$", listed.out, re.M)
    assert re.search(r"^1 +[0-9a-f]{12} +failed +boom +\S+ \S+ +dead +ValueError: \\x1b", grouped.out, re.M)
    assert re.search(r"^reason +failed *$", shown.out, re.M)
    assert "ValueError: \\x1b[31m[bold]no" in shown.out.splitlines()[-1]
    assert re.search(r"^ready, normal +1 *$", counted.out, re.M)
    assert "\x1b" not in listed.out + shown.out + counted.out


def test_jobs_that_were_kept_are_listed_counted_and_shown(
    cli: Callable[..., Ended], there: sync.JobQueue, queue_name: str
) -> None:
    there.retention = Retention(completed=Keep(count=5))
    there.job(name="rest")(lambda: None)
    there.push_many([there.prepare({}, "rest", job_id="mine")])
    anyio.run(functools.partial(Worker(there).run, until_idle=True))

    (listed,) = cli("jobs", "--state", "completed", "-q", queue_name, "--json").document
    table = cli("jobs", "--state", "completed", "-q", queue_name)
    stats = cli("stats", "-q", queue_name)

    assert (listed["job_id"], listed["state"], listed["parameters"]) == ("mine", "completed", {})
    assert re.search(r"^job id +name +attempt +finished at +duration +worker +parameters *$", table.out, re.M)
    assert re.search(r"^mine +rest +1 +\S+ \S+Z +[\d.]+ s +\S+ +\{\} *$", table.out, re.M)
    assert re.search(r"^completed +1 *$", stats.out, re.M)
    assert cli("stats", "-q", queue_name, "--json").document["completed"] == 1
    for act, more in {"delete": "", "requeue": "; --ended runs completed and cancelled jobs again"}.items():
        refused = cli("dead", act, "mine", "unknown", "-q", queue_name)
        said = f"redisjobs: no dead letter on {where(there)}: mine (completed), unknown{more}"
        assert (refused.code, refused.out, one_line(refused.err)) == (1, "", said)
    assert there.control.counts().completed == 1
    assert re.search(r"^finished at +\d{4}-", cli("job", "mine", "-q", queue_name).out, re.M)


def test_a_kept_job_runs_again_by_an_option_of_dead_requeue(
    cli: Callable[..., Ended], there: sync.JobQueue
) -> None:
    keeps = sync.JobQueue(there.driver, there.name, retention=Retention(completed=Keep(count=5)))
    keeps.job(name="add")(lambda a: a)
    for job_id in ("one", "two"):
        keeps.push({"a": 1}, "add", job_id=job_id)
    anyio.run(functools.partial(Worker(keeps).run, until_idle=True))

    requeued = cli("dead", "requeue", "one", "--ended", "-q", there.name)
    edited = cli("dead", "requeue", "two", "--ended", "--parameters", '{"a": 2}', "-q", there.name)

    assert (requeued.code, requeued.out) == (0, f"requeued one on {where(there)}\n")
    assert (edited.code, edited.out) == (0, f"requeued two on {where(there)}\n")
    assert [(job.job_id, job.parameters) for job in there.control.jobs("ready")] == [
        ("one", '{"a":1}'),
        ("two", '{"a":2}'),
    ]


@pytest.mark.usefixtures("full")
def test_jobs_lists_every_state_unless_one_is_named(
    cli: Callable[..., Ended], there: sync.JobQueue, queue_name: str
) -> None:
    cli("push", "shop:queue", "rest", "{}", "--id", "second")
    there.control.pause("rest")

    table = cli("jobs", "-q", queue_name)
    listed = cli("jobs", "-q", queue_name, "--json").document
    first = cli("jobs", "-q", queue_name, "--limit", "1", "--json").document

    states = [("ready", "ready"), ("second", "ready"), ("delayed", "delayed"), ("dead", "dead")]
    assert [(job["job_id"], job["state"]) for job in listed] == states
    assert [job["why_waiting"] for job in listed] == ["name paused", "name paused", "name paused", None]
    assert [job["job_id"] for job in first] == ["ready", "delayed", "dead"]  # one of each
    assert re.search(r"^ready +rest +ready +1 +\S+ \S+Z +name paused *$", table.out, re.M)
    assert re.search(r"^dead +boom +dead +1 +\S+ \S+Z +[\d.]+ s +\S+ +ValueError", table.out, re.M)
    assert re.search(r"^why waiting name paused *$", cli("job", "second", "-q", queue_name).out, re.M)
    assert (
        cli("jobs", "-q", f"{queue_name}-2").out == f"no jobs on queue '{queue_name}-2' at {there.driver.where}\n"
    )


def test_a_pipe_gets_one_line_a_job_however_long_its_id(cli: Callable[..., Ended], queue_name: str) -> None:
    long = "x" * 300
    cli("push", "shop:queue", "rest", "{}", "--id", long)

    listed = cli("jobs", "--state", "ready", "-q", queue_name)

    assert [line.split()[0] for line in listed.out.splitlines() if "rest" in line] == [long]


@pytest.mark.usefixtures("full")
def test_dead_letters_are_requeued_and_deleted_several_at_once(
    cli: Callable[..., Ended], there: sync.JobQueue, queue_name: str
) -> None:
    some = cli("dead", "requeue", "dead", "unknown", "-q", queue_name)

    assert (some.code, some.out) == (1, f"requeued dead on {where(there)}\n")
    assert one_line(some.err) == f"redisjobs: no dead letter on {where(there)}: unknown"
    none = cli("dead", "delete", "dead", "ready", "-q", queue_name, "--json")
    assert (none.code, none.document["not_found"]) == (1, ["dead", "ready"])
    assert there.control.counts().ready[Priority.NORMAL] == 2


def test_a_dead_letter_whose_unique_key_another_job_holds_stays_unless_it_runs_without_the_key(
    cli: Callable[..., Ended], there: sync.JobQueue, queue_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    @there.job(retry=no_retry())
    async def fail() -> None:
        raise ValueError

    fail.options(job_id="dead", unique="key").push()
    anyio.run(functools.partial(Worker(there).run, until_idle=True))
    fail.options(job_id="newer", unique="key", delay=3600).push()

    refused = cli("dead", "requeue", "dead", "-q", queue_name)
    every = cli("dead", "requeue", "--all", "-q", queue_name)

    assert (refused.code, refused.out) == (1, "")
    assert "other jobs hold the unique keys of: dead (newer); see --without-key" in one_line(refused.err)
    assert (every.code, every.out) == (0, f"requeued 0 dead letters on {where(there)}\n")
    assert "1 dead letter not requeued: other jobs hold the unique keys" in caplog.text
    with pytest.raises(UniqueConflict, match="dead stays: the job newer holds its unique key now") as raised:
        there.control.requeue("dead")
    assert raised.value.job_ids == ("newer",)
    assert cli("dead", "requeue", "dead", "--without-key", "-q", queue_name).code == 0
    assert there.control.counts().dead == 0
    mistake = cli("dead", "requeue", "--all", "--without-key", "-q", queue_name)
    assert (mistake.code, "--without-key is for jobs that are named" in one_line(mistake.err)) == (2, True)


@pytest.mark.usefixtures("full")
def test_a_dead_letter_is_requeued_with_other_parameters_by_the_type_of_its_handler(
    cli: Callable[..., Ended], there: sync.JobQueue, queue_name: str
) -> None:
    def edit(*arguments: str) -> Ended:
        return cli("dead", "requeue", "dead", "--parameters", *arguments)

    for ended_so, said in (
        (
            edit('{"wat": "no"}', "--target", "shop:queue"),
            r"--parameters '{.*}': boom.what: missing$",
        ),
        (edit("{what}", "-q", queue_name), r"--parameters '{what}': Expecting"),
        (edit("null", "-q", queue_name), r"leave the option out to keep the parameters"),
        (edit("{}", "another", "-q", queue_name), r"--parameters are for one dead letter: name it"),
        (cli("dead", "requeue", "dead", "--target", "shop:queue"), r"--target is for --parameters"),
    ):
        assert ended_so.code == 2
        assert re.search(said, ended_so.err)

    assert edit('{"what": "yes"}', "--target", "shop:queue").out == f"imported\nrequeued dead on {where(there)}\n"

    job = there.get("dead")
    assert job is not None
    assert (job.state, job.parameters) == ("ready", '{"what":"yes"}')
    gone = edit('{"what": 5}', "-q", queue_name)
    assert (gone.code, one_line(gone.err)) == (1, f"redisjobs: no dead letter on {where(there)}: dead (ready)")


@pytest.mark.usefixtures("full")
def test_jobs_that_are_meant_are_requeued_deleted_and_cancelled_all_at_once(
    cli: Callable[..., Ended], there: sync.JobQueue, queue_name: str
) -> None:
    def ask(*arguments: str) -> int:
        answer = cli(*arguments, "-q", queue_name, "--json")
        assert (answer.code, answer.err) == (0, "")
        return int(answer.document["count"])

    assert ask("dead", "requeue", "--reason", "expired") == ask("dead", "delete", "--name", "rest") == 0
    assert ask("dead", "requeue", "--all", "--rate", "100/s") == 1
    assert ask("cancel", "--state", "ready", "--text", "[bold]") == 1
    assert ask("cancel", "--state", "delayed", "--older-than", "60") == 0
    said = cli("cancel", "--state", "delayed", "-q", queue_name)
    assert said.out == f"cancelled 1 delayed job on {where(there)}\n"
    said = cli("dead", "delete", "--all", "-q", queue_name)
    assert said.out == f"deleted 0 dead letters on {where(there)}\n"
    assert there.control.counts().ready[Priority.NORMAL] == 1


@pytest.mark.usefixtures("full")
def test_a_queue_and_a_name_are_paused_and_jobs_are_held(
    cli: Callable[..., Ended], there: sync.JobQueue, queue_name: str
) -> None:
    def said(*arguments: str) -> str:
        answer = cli(*arguments, "-q", queue_name)
        assert (answer.code, answer.err) == (0, "")
        return str(answer.out)

    assert said("pause") == f"{where(there)} is paused\n"
    assert said("pause", "--name", "rest") == f"'rest' on {where(there)} is paused\n"
    assert cli("pause", "-q", queue_name, "--json").document == {"queue": queue_name, "name": None, "paused": True}
    assert said("hold", "ready") == f"held: ready on {where(there)}\n"
    assert said("hold", "--state", "delayed") == f"held 1 delayed job on {where(there)}\n"
    assert cli("hold", "--state", "ready", "-q", queue_name, "--json").document == {"count": 1}
    table = said("stats")
    assert ", paused since 20" in table
    assert ", paused by name: rest" in table
    assert re.search(r"held +2", table)
    stats = cli("stats", "-q", queue_name, "--json").document
    assert (stats["paused_since"] is not None, list(stats["paused_names"]), stats["held"]) == (True, ["rest"], 2)
    assert "held        True" in said("job", "ready")

    assert said("unhold", "ready") == f"unheld: ready on {where(there)}\n"
    assert cli("unhold", "ready", "-q", queue_name).code == 1
    assert said("unhold", "--state", "ready", "--name", "rest").startswith("unheld ")
    assert said("unhold", "--state", "delayed") == f"unheld 1 delayed job on {where(there)}\n"
    assert said("resume", "--name", "rest") == f"'rest' on {where(there)} is not paused\n"
    assert said("resume") == f"{where(there)} is not paused\n"
    assert "paused" not in said("stats")
    assert not there.control.is_paused()


def test_the_list_of_schedules_says_which_no_living_scheduler_fires(
    cli: Callable[..., Ended], there: sync.JobQueue, queue_name: str
) -> None:
    def states() -> dict[str, str]:
        rows = cli("schedules", "list", "-q", queue_name, "--json").document
        return {row["name"]: row["state"] for row in rows}

    report = JobName("Report", dict[str, str])
    declared, by = there._define({}, Schedule.daily(), job=report, name="declared"), Declarer("s", "release")
    there.schedules.put("put", {}, Schedule.daily(), job=report)
    assert states() == {"put": "stopped"}
    assert "stopped: no scheduler runs" in cli("schedules", "list", "-q", queue_name).out
    there._calls.ask(PutSchedules([Put.whole(declared)], by))
    assert states() == {"declared": "active", "put": "active"}
    there._calls.ask(WithdrawSchedules(by))
    assert states() == {"declared": "stopped", "put": "stopped"}
    assert "stopped: no scheduler declares it" in cli("schedules", "show", "declared", "-q", queue_name).out


def test_a_pause_of_what_nothing_is_known_of_says_so(
    cli: Callable[..., Ended], there: sync.JobQueue, queue_name: str
) -> None:
    unknown = "; see that it is spelled right\n"

    typo = cli("pause", "-q", queue_name)
    assert (typo.code, typo.out) == (0, f"{where(there)} is paused\n")
    of_queue = f"redisjobs: nothing is known of {where(there)}: it has had no job, and has no worker"
    assert typo.err == of_queue + unknown

    @there.job
    def known() -> None: ...

    with worker_in_thread(there):
        while not any(worker.names for worker in there.control.workers()):
            time.sleep(0.01)
        assert cli("resume", "-q", queue_name).err == ""
        assert cli("pause", "-q", queue_name, "--name", "known").err == ""
        typo = cli("pause", "-q", queue_name, "--name", "knwon")
    assert (typo.code, typo.out) == (0, f"'knwon' on {where(there)} is paused\n")
    of_name = f"redisjobs: nothing is known of 'knwon' on {where(there)}: no worker has a handler for it, "
    assert typo.err == f"{of_name}and no job has it{unknown}"


def test_workers_are_listed_with_what_each_runs_and_since_when(
    cli: Callable[..., Ended], there: sync.JobQueue, queue_name: str
) -> None:
    assert cli("workers", "-q", queue_name).out == f"no workers on {where(there)}\n"

    @there.job
    def resize() -> None: ...

    @there.job
    def send() -> None: ...

    with worker_in_thread(there):
        while not any(worker.names for worker in there.control.workers()):
            time.sleep(0.01)
        table = cli("workers", "-q", queue_name)
        (document,) = cli("workers", "-q", queue_name, "--json").document
        stats = cli("stats", "-q", queue_name)
        (in_stats,) = cli("stats", "-q", queue_name, "--json").document["workers"]

    title, heads, _, row = table.out.splitlines()
    assert title == f"1 worker on {where(there)}"
    assert heads.split() == ["worker", "state", "since", "running", "slots", "version", "job", "names"]
    assert re.fullmatch(r"\S+:\d+:\S+ +alive +\d{4}-\S+ \S+Z +0 +\d+ +\S+ +resize, send *", row)
    assert title in stats.out
    assert row in stats.out
    assert document["names"] == ["resize", "send"]
    assert document["pid"] == str(os.getpid())
    assert (document["state"], in_stats["worker_id"]) == ("alive", document["worker_id"])


def test_workers_are_asked_to_be_quiet_to_go_on_and_to_stop(
    cli: Callable[..., Ended], there: sync.JobQueue, queue_name: str
) -> None:
    @there.job
    def resize() -> None: ...

    def state() -> str:
        return str(cli("workers", "--json", "-q", queue_name).document[0]["state"])

    with worker_in_thread(there):
        while not any(worker.names for worker in there.control.workers()):
            time.sleep(0.01)
        (worker,) = (worker.worker_id for worker in there.control.workers())

        asked = cli("workers", "quiet", worker, "-q", queue_name)
        assert (asked.code, asked.out) == (0, f"asked {worker} on {where(there)} to claim no more jobs\n")
        assert state() == "quiet"
        assert cli("workers", "-q", queue_name, "resume", worker).code == 0  # a place for options that is as good
        assert state() == "alive"
        some = cli("workers", "--json", "stop", worker, "never", "-q", queue_name)
        assert (some.code, some.err) == (1, f"redisjobs: no worker on {where(there)}: never\n")
        assert some.document == {"wish": "stop", "asked": [worker], "stopping": [], "not_found": ["never"]}
        while there.control.workers():
            time.sleep(0.01)

    late = cli("workers", "resume", worker, "-q", queue_name)
    assert (late.code, late.out, late.err) == (1, "", f"redisjobs: no worker on {where(there)}: {worker}\n")
    assert cli("workers", "stop", "-q", queue_name).code == 2


def test_queues_are_those_of_a_module_and_those_that_are_named_each_once(
    cli: Callable[..., Ended], there: sync.JobQueue, queue_name: str
) -> None:
    cli("push", "shop:queue", "rest", "{}")

    listed = cli("queues", "shop", "shop:queue", "-q", f"{queue_name}-other", "--json")

    documents = {each["queue"]: each for each in json.loads(listed.out.removeprefix("imported\n"))}
    assert list(documents) == [f"{queue_name}-sync", queue_name, f"{queue_name}-other"]
    assert (
        one_line(listed.err) == "redisjobs: not shown, as they are at memory://, inside one process: shop:memory"
    )
    server = there.driver.where
    assert documents[queue_name] == {
        "queue": queue_name,
        "server": server,
        "ready": 1,
        "running": 0,
        "delayed": 0,
        "suspended": 0,
        "dead": 0,
        "workers": 0,
        "paused": None,
    }
    table = cli("queues", "-q", queue_name)
    assert re.search(rf"^{queue_name} +{re.escape(server)} +1 +0 +0 +0 +0 +0 *$", table.out, re.M)


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize(
    "command",
    [
        ("stats",),
        ("workers",),
        ("jobs", "--state", "ready"),
        ("job", "ready"),
        ("dead", "show", "dead"),
        ("pause",),
        ("resume",),
        ("hold", "ready"),
        ("cancel", "ready"),
        ("limits", "list"),
        ("dead", "list"),
        ("dead", "groups"),
        ("dead", "requeue", "dead"),
        ("schedules", "list"),
    ],
)
def test_commands_take_a_queue_of_a_module_and_say_which_queue_and_server_they_mean(
    cli: Callable[..., Ended], there: sync.JobQueue, command: tuple[str, ...]
) -> None:
    done = cli(*command, "-q", "shop:queue")

    assert (done.code, done.err) == (0, "")
    assert there.name in done.out
    assert there.driver.where in done.out


def test_a_name_with_a_colon_that_begins_with_no_module_is_a_queue(cli: Callable[..., Ended]) -> None:
    for name in ("email:eu", "no_such_module:queue"):  # the first one is a module of Python's own
        assert "no ready jobs on queue '" + name in cli("jobs", "--state", "ready", "-q", name).out
    wrong = cli("jobs", "--state", "ready", "-q", "shop:line")
    assert wrong.code == 2
    assert "has no attribute 'line'" in one_line(wrong.err)
    assert "is at memory://" in one_line(cli("stats", "-q", "shop:memory", "--url", "memory://").err)


@pytest.mark.usefixtures("full")
def test_limits_are_set_listed_and_removed(
    cli: Callable[..., Ended], there: sync.JobQueue, queue_name: str
) -> None:
    def said(*arguments: str) -> str:
        answer = cli("limits", *arguments, "-q", queue_name)
        assert (answer.code, answer.err) == (0, "")
        return str(answer.out)

    assert said("list") == f"no limits on {where(there)}\n"
    assert said("set", "rest", "--max-concurrency", "3", "--rate", "50/s") == (
        f"'rest' on {where(there)}: max_concurrency=3 rate=50/s\n"
    )
    document = {"name": "other", "max_concurrency": None, "rate": "5/h", "burst": 2}
    assert json.loads(said("set", "other", "--rate", "5/h", "--burst", "2", "--json")) == document
    assert json.loads(said("list", "--json"))[0] == document | {"keys": []}
    title, heads, _, other, rest = said("list").splitlines()
    assert title == f"limits on {where(there)}"
    assert heads.split() == [
        *("name", "key", "max", "concurrency", "rate", "burst", "running", "waiting"),
        *heads.split()[-2:],
    ]
    assert (other.split(), rest.split()) == (
        ["other", "5/h", "2", "0", "0"],
        ["rest", "3", "50/s", "6", "0", "0"],
    )

    assert said("remove", "other") == f"'other' on {where(there)}: no limit\n"
    assert [info.name for info in there.control.limits()] == ["rest"]


@pytest.mark.usefixtures("full")
def test_requeue_all_takes_every_dead_letter(
    cli: Callable[..., Ended], there: sync.JobQueue, queue_name: str
) -> None:
    for count in ("1 dead letter", "0 dead letters"):
        said = cli("dead", "requeue", "--all", "-q", queue_name)

        assert (said.code, said.out) == (0, f"requeued {count} on {where(there)}\n")


# What was typed is wrong: exit 2, and one line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["worker", "shop"], r"'shop' is not MODULE:QUEUE"),
        (["worker", "shop:"], r"'shop:' is not MODULE:QUEUE"),
        (["worker", "nowhere:queue"], r"there is no module 'nowhere' in /.* or on sys\.path$"),
        (["worker", "shop.sub:queue"], r"there is no module 'shop.sub' .*'shop' is not a package"),
        (["worker", ".shop:queue"], r"'.shop' can't name a module: give its full name, as myapp.jobs$"),
        (
            ["worker", "shop:line"],
            r"shop \(/.*shop\.py\) has no attribute 'line'; its queues: memory, plain, queue, same",
        ),
        (["worker", "shop:shelf"], r"shop:shelf is a dict, not a JobQueue"),
        (["worker", "shop:queue.name"], r"shop:queue.name is a str, not a JobQueue"),
        (["worker", "shop:queue", "--url", "http://x"], r"'http://x': a queue is at memory://, redis://"),
        (["worker", "shop:queue", "shop:shelf=2"], r"shop:shelf is a dict, not a JobQueue"),
        (
            ["worker", "shop:queue", "shop:plain=often"],
            r"'shop:plain=often': 'often' is no number; give MODULE:QU",
        ),
        (["worker", "shop:queue="], r"'shop:queue=': '' is no number; give MODULE:QUEUE=WEIGHT, as shop:queue=3$"),
        (["worker", "shop:queue=0", "shop:plain"], r"weight 0\.0 of queue '\S+': give a number above 0"),
        (["worker", "shop:queue=nan", "shop:plain"], r"weight nan of queue '\S+': give a number above 0"),
        (
            ["worker", "shop:queue=3", "shop:plain", "shop:queue=2"],
            r"shop:queue and shop:queue are one queue, with the weights 3 and 2$",
        ),
        (
            ["worker", "shop:queue", "shop:same"],  # they are moved to one server
            r"shop:queue and shop:same are two JobQueue objects of one queue, '\S+': register all its handlers on",
        ),
        (["worker", "shop:queue", "--import", "nowhere"], r"there is no module 'nowhere' in /.* or on sys\.path"),
        (["dead", "requeue", "x", "--parameters", "{}", "--import", "work"], r"--import is for --target"),
        (["worker", "shop:queue=2", "shop:plain", "--strict"], r"strict=True: only the order counts then"),
        (
            ["push", "shop:queue", "Male", "{}"],
            r"no handler for 'Male'; registered: Mail, add, block, boom, pay, rest,",
        ),
        (["push", "shop:queue", "Mail", '{"to"'], r"redisjobs: Mail: is not JSON: EOF"),
        (["push", "shop:queue", "Mail", "none"], r"Mail: is not JSON: expected a value at line 1 column 2$"),
        (
            ["push", "shop:queue", "Mail", '{"to": 5}'],
            r"redisjobs: Mail\.to: should be a valid string \(got int\)$",
        ),
        (["push", "shop:queue", "Mail", '{"to": "joe", "copy": 2}'], r"redisjobs: Mail has no key 'copy'$"),
        (["push", "shop:queue", "boom", '{"what": "x", "y": 2}'], r"redisjobs: boom has no key 'y'$"),
        (["push", "shop:queue", "rest", "{}", "--at", "soon"], r"--at 'soon' is not an ISO 8601 time"),
        (["push", "shop:queue", "rest", "{}", "--at", "2099-01-01"], r"has no time zone"),
        (["push", "shop:queue", "rest", "{}", "--at", "2099-01-01T00Z", "--delay", "1"], r"--delay or --at, not"),
        (["push", "shop:queue", "rest", "{}", "--delay", "-1"], r"--delay -1: give seconds from 0 up$"),
        (["push", "shop:queue", "rest", "{}", "--delay", "nan"], r"--delay nan: give seconds from 0 up$"),
        (["push", "shop:queue", "rest", "{}", "--id", ""], r"--id '': give 1 to 500 characters"),
        (["push", "shop:queue", "rest", "{}", "--unique", "x" * 501], r"--unique 'x{59}: give 1 to 500 char"),
        (["push", "shop:queue", "rest", "{}", "--header", "trace"], r"--header 'trace' is not NAME=VALUE"),
        (
            ["push", "shop:queue", "rest", "{}", "--unique-for", "5"],
            r"--unique-for says .*--unique.*; give the key",
        ),
        (
            ["push", "shop:queue", "rest", "{}", "--unique-for", "0", "--unique", "a"],
            r"at least 1 ms, a --unique key",
        ),
        (
            ["push", "shop:queue", "rest", "{}", "--unique-until", "start"],
            r"--unique-until says how long a --unique key is held; give the key too$",
        ),
        (
            ["push", "shop:queue", "rest", "{}", "--on-conflict", "skip"],
            r"--on-conflict says .* the --unique key; give the key too$",
        ),
        (
            ["push", "shop:queue", "rest", "{}", "--unique", "a", "--unique-for", "5", "--unique-until", "end"],
            r"--unique-for holds the key for a time, .*; leave out --unique-until$",
        ),
        (["push", "shop:queue", "rest", "{}", "--unique-for", "-5"], r"--unique-for -5: give seconds from 0 up$"),
        (["push", "shop:queue", "rest", "{}", "--expires-in", "-1"], r"--expires-in -1: give seconds from 0 up$"),
        (
            ["push", "shop:queue", "rest", "{}", "--replicas", "501"],
            r"--replicas 501: no server has more than 500$",
        ),
        (["worker", "shop:queue", "--grace", "inf"], r"--grace inf: give seconds from 0 up$"),
        (["worker", "shop:queue", "--lease", "1e300"], r"--lease 1e\+300: give seconds from 0 up$"),
        (["push", "shop:memory", "rest", "{}", "--url", "memory://"], r"would end with this command; give --url"),
        (["queues"], r"name a module that has queues, as app or app:queue, or queues by --queue$"),
        (["stats", "--url", "redis://host/banana"], r"'banana' is no database of Redis; give a number"),
        (["stats", "-q", "a b"], r"'a b' can't name a queue"),
        (["stats", "5"], r"stats 5: the seconds between two looks need --watch"),
        (["stats", "--url", "nowhere"], r"'nowhere': a queue is at"),
        (["dead", "list", "--text", ""], r"--text '': give 1 to 1,000 characters"),
        (["dead", "list", "--older-than", "-1"], r"--older-than -1: give seconds from 0 up$"),
        (["dead", "requeue"], r"name the dead letters to requeue, or say --all"),
        (["dead", "delete"], r"name the dead letters to delete, or say --all"),
        (["dead", "delete", "x", "--name", "a"], r"name the dead letters to delete, or say --all"),
        (["dead", "requeue", "x", "--rate", "1/s"], r"--rate is for letters that are not named one by one"),
        (["dead", "requeue", "--all", "--rate", "fast"], r"--rate 'fast': give how many in a second"),
        (["cancel"], r"name one job, or say --state"),
        (["cancel", "x", "--state", "ready"], r"name one job, or say --state"),
        (["cancel", "x", "--name", "a"], r"name one job, or say --state"),
        (["hold"], r"name one job, or say --state"),
        (["unhold", "x", "--state", "ready"], r"name one job, or say --state"),
        (["hold", "x", "--name", "a"], r"name one job, or say --state"),
        (["pause", "--name", ""], r"--name '': give the name of a job"),
        (["resume", "--name", "a b"], r"--name 'a b': give the name of a job"),
        (["limits", "set", "a b", "--rate", "1/s"], r"NAME 'a b': give the name of a job"),
        (["limits", "remove", ""], r"NAME '': give the name of a job"),
        (["limits", "set", "a"], r"say --max-concurrency, --rate or both; `redisjobs limits remove` removes"),
        (["limits", "set", "a", "--rate", "fast"], r"--rate 'fast': give how many in a second"),
        (["limits", "set", "a", "--max-concurrency", "0"], r"--max-concurrency 0: give a whole number from 1 up"),
        (
            ["limits", "set", "a", "--burst", "3"],
            r"--burst 3: it says how many jobs of a --rate may start together; give that too$",
        ),
        (["dead", "requeue", "x", "--all"], r"name the dead letters to requeue, or say --all"),
        (["dead", "requeue", "--all", "--ended"], r"--ended is for jobs that are named: give their ids$"),
        (["demo", "nowhere"], r"/.*/nowhere is no directory"),
        (
            ["demo", "--url", "memory://"],
            r"is at memory://, a queue inside one process that no command can look into",
        ),
        (
            ["stats", "--url", "memory://"],
            r"is at memory://, a queue inside one process that no command can look into",
        ),
        (
            ["stats", "--url", "redis://:x@host:99999/0"],
            r"'redis://:\*\*\*@host:99999/0': Port out of range 0-65535$",
        ),
        (["stats", "-q", "sched:queue"], r"/sched.py has a name that is taken: give it another$"),
        (
            ["push", "shop:queue", "add", '{"a": "x"}'],
            r"^redisjobs: add\.a: should be a valid integer \(got str\)$",
        ),
    ],
)
def test_what_is_typed_wrong_is_told_in_one_line(
    cli: Callable[..., Ended], arguments: Sequence[str], said: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr("redisjobs.cli.worker.ForcedEnd", lambda grace, **_: None)  # signals stay pytest's

    told = cli(*arguments)

    assert told.code == 2
    assert re.search(said, one_line(told.err))
    assert told.out in ("", "imported\n")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["wrok"],
        ["worker"],
        ["worker", "shop:queue", "--concurrency", "0"],
        ["worker", "shop:queue", "--lease", "0.01"],
        ["worker", "shop:queue", "--log-level", "loud"],
        ["jobs", "--state", "asleep"],
        ["cancel", "--state", "dead"],
        ["hold", "--state", "running"],
        ["unhold", "--state", "dead"],
        ["jobs", "--state", "ready", "--limit", "501"],
        ["dead", "delete"],
        ["push", "shop:queue", "rest", "{}", "--priority", "urgent"],
    ],
)
def test_usage_errors_exit_with_2(cli: Callable[..., Ended], arguments: Sequence[str]) -> None:
    assert cli(*arguments).code == 2


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("lacks", "ModuleNotFoundError: No module named 'surely_not_there'"),
        ("unfinished", "SyntaxError"),
        ("leaves", "SystemExit: 0"),
        ("clash", "ValueError: 'http://x': a queue is at"),
    ],
)
def test_an_error_inside_the_users_module_comes_with_its_traceback_and_none_of_our_frames(
    cli: Callable[..., Ended], module: str, said: str
) -> None:
    told = cli("push", f"{module}:queue", "Mail", "{}")

    assert told.code == 2
    assert said in told.err
    assert f"{module}.py" in told.err
    assert "importlib" not in told.err
    assert "cli/target.py" not in told.err
    assert told.err.splitlines()[-1].startswith(f"redisjobs: importing '{module}' raised ")


def test_on_a_python_that_is_too_old_the_import_says_which_one_is_needed() -> None:
    code = "import sys; sys.version_info = (3, 10, 13); import redisjobs"

    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)

    assert told.returncode == 1
    assert "ImportError: redisjobs needs Python 3.11 or newer; this is Python" in told.stderr.splitlines()[-1]


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_worker_extra_one_line_says_what_to_install(missing: str) -> None:
    code = f"import sys; sys.modules['{missing}'] = None; from redisjobs.__main__ import main; main()"

    told = subprocess.run([sys.executable, "-c", code, "stats"], capture_output=True, text=True, timeout=20)

    assert told.returncode == 2
    assert one_line(told.stderr).endswith(f"needs {missing}; in a checkout of redisjobs: pip install '.[worker]'")


@pytest.mark.parametrize("typed", [["torture"], ["torture", "--minutes", "5"], ["torture", "--help"]])
def test_without_the_proof_one_line_says_what_to_install(typed: list[str]) -> None:
    code = "import sys; sys.modules['redisjobs_proof'] = None; from redisjobs.__main__ import main; main()"

    told = subprocess.run([sys.executable, "-c", code, *typed], capture_output=True, text=True, timeout=20)

    assert told.returncode == 2
    assert one_line(told.stderr).endswith("needs redisjobs-proof; in a checkout of redisjobs: pip install ./proof")


# What was typed makes sense, but fails: exit 1, and one line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["job", "unknown"], r"no job 'unknown' on queue '{queue}' at redis://\S+: it ended, or never was"),
        (["cancel", "unknown"], r"no job 'unknown' on queue '{queue}' at redis://\S+"),
        (["cancel", "dead"], r"job 'dead' on queue '{queue}' at redis://\S+ is a dead letter, and stays one"),
        (["hold", "unknown"], r"no job 'unknown' on queue '{queue}' at redis://\S+"),
        (["hold", "dead"], r"job 'dead' on queue '{queue}' at redis://\S+ is a dead letter"),
        (["unhold", "ready"], r"job 'ready' on queue '{queue}' at redis://\S+ is not held"),
        (["dead", "show", "unknown"], r"no dead letter 'unknown' on queue '{queue}' at redis://\S+"),
        (["dead", "show", "ready"], r"no dead letter 'ready' on queue '{queue}' at redis://\S+; it is ready"),
    ],
)
@pytest.mark.usefixtures("full")
def test_what_is_not_there_is_told_in_one_line(
    cli: Callable[..., Ended], queue_name: str, arguments: Sequence[str], said: str
) -> None:
    for flags in ([], ["--json"]):
        told = cli(*arguments, "-q", queue_name, *flags)

        assert (told.code, told.out) == (1, "")
        assert re.search(said.format(queue=queue_name), one_line(told.err))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "unknown"], r"no schedule 'unknown' on queue '{queue}' at redis://\S+; nothing was pushed$"),
        (["remove", "tick"], r"a release that is running declares it .*nothing was changed \(queue '{queue}' at"),
    ],
)
def test_an_error_about_a_schedule_names_queue_and_server(
    cli: Callable[..., Ended], there: sync.JobQueue, arguments: Sequence[str], said: str
) -> None:
    tick = there._define({}, Schedule.daily(hour=4), job=JobName("tick", dict[str, str]), name="tick")
    there._calls.ask(PutSchedules([Put.whole(tick)], Declarer("s", "release")))

    told = cli("schedules", *arguments, "-q", there.name)

    assert (told.code, told.out) == (1, "")
    assert re.search(said.format(queue=there.name), one_line(told.err))


def test_where_no_server_listens_at_the_usual_place_the_error_says_what_to_do(
    cli: Callable[..., Ended], monkeypatch: Any
) -> None:
    monkeypatch.setattr("redisjobs.cli.target._ANSWER", 0.1)
    monkeypatch.setattr("redisjobs.cli.target.DEFAULT_URL", "redis://127.0.0.1:1/0")
    monkeypatch.delenv("REDISJOBS_URL")

    told = cli("stats")

    do = "start a server, as `redisjobs dev --port 6379`, or name one by --url or REDISJOBS_URL"
    assert one_line(told.err).endswith(f"(queue 'default' at redis://127.0.0.1:1/0); {do}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["cancel", "--state", "dead"],
            "'--state': 'dead' is not one of 'running', 'ready', 'delayed', 'suspended'.",
        ),
        # The first by pydantic, which a later typer asks; the second by an earlier one's own check.
        (["worker", "-c", "x"], "'--concurrency' / '-c': (should be a valid integer |'x' is not a valid integer)"),
        (["jobs", "-n", "0"], "'--limit' / '-n': (should be greater than or equal to 1 |0 is not in the range)"),
    ],
)
def test_a_wrong_value_of_an_option_is_an_error_in_plain_words(
    cli: Callable[..., Ended], monkeypatch: Any, arguments: Sequence[str], said: str
) -> None:
    monkeypatch.setenv("COLUMNS", "200")

    told = cli(*arguments)

    assert told.code == 2
    assert re.search(f"Invalid value for {said}", told.err)


@pytest.mark.slow
def test_a_server_that_is_away_is_told_in_one_line(cli: Callable[..., Ended], monkeypatch: Any) -> None:
    monkeypatch.setattr("redisjobs.cli.target._ANSWER", 0.1)

    told = cli("stats", "--url", "redis://:secret@127.0.0.1:1/0")

    assert (told.code, told.out) == (1, "")
    assert "gave up after" in one_line(told.err)
    assert told.err.endswith("(queue 'default' at redis://127.0.0.1:1/0)\n")
    assert "secret" not in told.err
    told = cli("push", "shop:queue", "rest", "{}", "--url", "redis://joe:secret@127.0.0.1:1/0")
    assert re.search(r"\(queue '\S+' at redis://joe@127\.0\.0\.1:1/0\)$", one_line(told.err))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://joe:secret@host:1/0", "redis://joe:***@host:1/0"),
        ("redis://host:1/0", "redis://host:1/0"),
        ("redis://:s@cr:et@host:1/0?db=1", "redis://:***@host:1/0?db=1"),
        ("redis+cluster://joe:secret@h1:1,h2:2", "redis+cluster://joe:***@h1:1,h2:2"),
        ("rediss+cluster://h1:1,[::1]:2", "rediss+cluster://h1:1,[::1]:2"),
        (
            "redis+sentinel://:secret@s1,s2/jobs/0?sentinel_username=w&sentinel_password=secret",
            "redis+sentinel://:***@s1,s2/jobs/0?sentinel_username=w&sentinel_password=***",
        ),
        ("rediss://h/0?password=secret&ssl_password=secret#x", "rediss://h/0?password=***&ssl_password=***#x"),
        ("unix:///run/redis.sock?password=secret", "unix:///run/redis.sock?password=***"),
    ],
)
def test_a_password_is_never_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown


# How a worker ends


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("job", ["rest", "thread"])
def test_a_worker_asked_to_stop_releases_what_runs_and_exits_with_0(
    start: Start, there: sync.JobQueue, cli: Callable[..., Ended], number: signal.Signals, job: str
) -> None:
    cli("push", "shop:queue", job, "{}", "--id", "job")
    worker = start("worker", "shop:queue", "--grace", "0")
    until(worker, "resting")

    worker.send_signal(number)
    stopped = ended(worker, within=15)

    assert stopped.code == 0
    assert f"{number.name}: stopping" in stopped.err
    found = there.get("job")
    assert found is not None
    assert (found.state, found.deliveries) == ("ready", 0)


def test_a_signal_that_arrives_twice_counts_once_and_another_one_counts() -> None:
    signals, seen = [signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGINT], Interrupts()
    assert [seen.is_new(number) for number in signals] == [True, False, True, False]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("processes", [[], ["--processes", "1"]], ids=["worker", "supervisor"])
def test_the_first_signal_says_what_it_waits_for_and_one_that_comes_twice_counts_once(
    start: Start,
    there: sync.JobQueue,
    cli: Callable[..., Ended],
    processes: list[str],
    number: signal.Signals,
) -> None:
    cli("push", "shop:queue", "rest", "{}", "--id", "mine")
    worker = start("worker", "shop:queue", "--grace", "3600", *processes)
    until(worker, "resting")

    worker.send_signal(number)
    worker.send_signal(number)

    assert worker.stderr is not None
    line = next(line for line in worker.stderr if ": stopping" in line)
    name = "SIGTERM" if processes else number.name  # a supervisor passes it on
    again = "Ctrl-C" if name == "SIGINT" else "signal"
    waits = r"waiting for 1 job until \d\d:\d\d:\d\d UTC \(3600 s\)"
    assert re.search(rf"{name}: stopping; {waits}; a second {again} ends at once$", line)
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(1)  # it was one, so the job goes on
    worker.send_signal(number)
    stopped = ended(worker, within=20)
    assert stopped.code == 0
    name = "SIGINT" if processes else number.name
    assert f"{name}: stopping at once; 1 job cancelled and handed back" in stopped.err
    job = there.get("mine")
    assert job is not None
    assert job.state == "ready"


@pytest.mark.slow
@pytest.mark.parametrize("job", ["stubborn", "block"])
def test_a_handler_that_never_ends_can_not_keep_the_process_alive(
    start: Start, cli: Callable[..., Ended], job: str
) -> None:
    cli("push", "shop:queue", job, "{}")
    worker = start("worker", "shop:queue", "--grace", "0")
    until(worker, "resting")

    worker.send_signal(signal.SIGTERM)
    stopped = ended(worker, within=20)

    assert stopped.code == 1
    assert "a handler did not end, though it was cancelled" in stopped.err.splitlines()[-1]


@pytest.mark.slow
def test_a_stop_while_the_module_is_imported_is_a_stop_too(start: Start, folder: Path) -> None:
    (folder / "slow.py").write_text(
        "import time\nprint('importing', flush=True)\ntime.sleep(1)\nfrom shop import queue\n"
    )
    worker = start("worker", "slow:queue")
    until(worker, "importing")

    worker.send_signal(signal.SIGTERM)

    stopped = ended(worker, within=15)
    assert stopped.code == 0
    assert "runs queue" not in stopped.err


@pytest.mark.slow
def test_a_fatal_error_is_one_line_and_exits_with_1(start: Start, redis_url: str, queue_name: str) -> None:
    with redis.Redis.from_url(redis_url) as admin:
        admin.execute_command(
            "ACL", "SETUSER", queue_name, "on", ">pw", "~*", "&*", "+@all", "-evalsha", "-xgroup"
        )
        url = redis_url.replace("redis://", f"redis://{queue_name}:pw@")

        failed = ended(start("worker", "shop:queue", "--url", url))

        admin.execute_command("ACL", "DELUSER", queue_name)
    assert failed.code == 1
    assert "ACL forbids" in one_line(failed.err)


# A local server


@pytest.mark.slow
def test_dev_runs_a_server_until_it_is_told_to_end(start: Start) -> None:
    dev = start("dev")
    url = until(dev, "export REDISJOBS_URL=").strip().partition("=")[2]
    with redis.Redis.from_url(url) as client:
        assert client.ping()

        dev.send_signal(signal.SIGINT)

        assert ended(dev).code == 0
        with pytest.raises(redis.ConnectionError):
            client.ping()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_comes_as_an_object_is_destroyed_is_not_lost(number: signal.Signals) -> None:
    """What is raised in a destructor goes no further; it may be one of a library, as one of redis-py was."""

    class Destroyed:
        def __del__(self) -> None:
            signal.raise_signal(number)
            went_on.append(1)  # not here: it was interrupted

    went_on: list[int] = []
    before = signal.getsignal(number), sys.unraisablehook
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), ended_by_signals():  # noqa: PT012  (one of the two is interrupted)
        Destroyed()
        time.sleep(30)

    assert time.monotonic() - began < 20
    assert went_on == []
    assert (signal.getsignal(number), sys.unraisablehook) == before


@pytest.mark.slow
def test_dev_keeps_its_data_where_it_is_told(start: Start, folder: Path) -> None:
    for number in (1, 2):
        dev = start("dev", "--dir", "data")
        url = until(dev, "export REDISJOBS_URL=").strip().partition("=")[2]
        with redis.Redis.from_url(url) as client:
            assert client.incr("runs") == number
        dev.send_signal(signal.SIGTERM)
        assert ended(dev).code == 0


@pytest.mark.slow
def test_dev_says_so_when_its_server_ends_by_itself(start: Start) -> None:
    dev = start("dev")
    pid = re.search(r"process (\d+)", until(dev, "process "))
    assert pid is not None

    os.kill(int(pid[1]), signal.SIGKILL)

    stopped = ended(dev, within=20)
    assert stopped.code == 1
    assert "the server ended by itself" in one_line(stopped.err)


@pytest.mark.slow
def test_dev_starts_a_server_of_its_own_whatever_the_environment_names(start: Start, redis_url: str) -> None:
    dev = start("dev", REDIS_URL=redis_url, REDISJOBS_URL=redis_url)

    url = until(dev, "export REDISJOBS_URL=").strip().partition("=")[2]

    assert url != redis_url
    dev.send_signal(signal.SIGINT)
    assert ended(dev).code == 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--listen", "0.0.0.0:0"], "other machines could reach the page; give --auth"),
        (["--listen", "8080"], "is not HOST:PORT"),
        (["--auth", "ann"], "USER:PASSWORD"),
        (["--read-only", "--allow", "retry"], "give one of them"),
        (["--allow", "everything"], "the verbs are retry, edit"),
    ],
)
def test_the_page_is_not_served_where_others_could_reach_it(
    cli: Callable[..., Ended], arguments: Sequence[str], why: str
) -> None:
    done = cli("web", "shop:queue", *arguments)

    assert done.code == 2
    assert why in done.err


@pytest.mark.slow
def test_the_page_is_served_to_who_has_the_password_until_a_signal(start: Start, there: sync.JobQueue) -> None:
    process = start("web", "shop:queue", "--listen", "127.0.0.1:0", "--read-only", REDISJOBS_WEB_AUTH="ann:secret")
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    address = re.findall(r"http://\S+:\d+/", next(line for line in lines if "http://" in line))[0]

    stranger = httpx.get(address)
    viewer = httpx.get(address, auth=("ann", "secret"), follow_redirects=True)
    refused = httpx.post(
        f"{address}{there.name}/act/pause",
        auth=("ann", "secret"),
        headers={"sec-fetch-site": "same-origin"},
        data={"back": ""},
    )

    assert (stranger.status_code, stranger.text, "server" in stranger.headers) == (401, "Login required\n", False)
    assert (viewer.status_code, "This queue is new." in viewer.text, 'method="post"' in viewer.text) == (
        200,
        True,
        False,
    )
    assert (refused.status_code, there.control.is_paused()) == (403, False)
    process.send_signal(signal.SIGINT)
    assert (process.wait(10), process.stderr.read() if process.stderr else "") == (0, "")
