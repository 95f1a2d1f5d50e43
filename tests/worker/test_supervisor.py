"""`redisjobs worker --processes N`: children that die, that grow, that won't end; and the probes."""

import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import anyio
import pytest
from fleet import Fleet, has_ended
from store import RedisStore, eventually, free_port
from two_queues import another

from redisjobs import JobQueue, Reply
from redisjobs.events import ProcessEnded
from redisjobs.model.job import State
from redisjobs.worker.child import LastLine
from redisjobs.worker.supervisor import Supervisor
from redisjobs_proof.torture.fleet.hosts import children
from redisjobs_proof.torture.proxy import Proxy

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


def ask(port: int, what: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{what}", timeout=5) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


async def test_the_jobs_of_a_dead_child_run_elsewhere_at_once_and_it_is_replaced(fleet: Fleet) -> None:
    supervisor = fleet.command("--processes", "2", "--lease", "60", "--concurrency", "4")
    fleet.push(*(f"job-{n}" for n in range(8)), seconds=5)
    await eventually(lambda: len(fleet.recording("start")) == 8, within=20)
    victim = int(fleet.queue.control.jobs(State.RUNNING)[0].worker.split(":")[1])

    os.kill(victim, signal.SIGKILL)

    await eventually(lambda: len(fleet.recording("end")) == 8, within=30)
    assert sorted(fleet.labels("start").values()) == [1] * 4 + [2] * 4
    assert {int(deliveries) for *_, deliveries in fleet.recording("start")} == {1, 2}
    assert len(children(supervisor.pid)) == 2
    assert victim not in children(supervisor.pid)


TWO = """
import os
from app import JobQueue, Work, queue, work

other = JobQueue(os.environ["REDISJOBS_URL"], os.environ["QUEUE"] + "-b")
other.register(Work)(work)
"""


@pytest.fixture
def pair(redis_store: RedisStore) -> Iterator[tuple[RedisStore, RedisStore]]:
    """Two queues on one server."""
    for second in another(redis_store):
        assert isinstance(second, RedisStore)
        yield redis_store, second


@pytest.fixture
def fleet_of_two(tmp_path: Path, pair: tuple[RedisStore, RedisStore]) -> Iterator[Fleet]:
    """Processes on both, as a user who may use both; `two:queue` and `two:other`."""
    fleet = Fleet(tmp_path, f"redis://{pair[0].url.rpartition('@')[2]}", pair[0].queue_name)
    (tmp_path / "two.py").write_text(TWO)
    yield fleet
    fleet.end()


async def test_what_a_dead_child_held_of_each_of_its_queues_runs_elsewhere_at_once(
    fleet_of_two: Fleet, pair: tuple[RedisStore, RedisStore]
) -> None:
    fleet, names = fleet_of_two, {store.queue_name for store in pair}
    options = ("--processes", "2", "--lease", "60", "--concurrency", "4")
    supervisor = fleet.command(*options, targets=("two:queue", "two:other=2"))
    for number in range(4):
        for store in pair:
            label = f"{store.queue_name}-{number}"
            store.put({"name": "Work", "parameters": f'{{"label": "{label}", "seconds": 5}}'})
    await eventually(lambda: len(fleet.recording("start")) == 8, within=20)
    victim = children(supervisor.pid)[0]

    os.kill(victim, signal.SIGKILL)

    await eventually(lambda: len(fleet.recording("end")) == 8, within=30)
    assert sorted(fleet.labels("start").values()) == [1] * 4 + [2] * 4
    supervisor.terminate()
    assert supervisor.wait(40) == 0
    log = (fleet.folder / "log").read_text()
    released = dict(re.findall(r"queue '(\S+)': released (\d+) jobs of it", log))
    assert released.keys() == names
    assert sum(map(int, released.values())) == 4
    assert log.count(f"worker process {victim} was killed by SIGKILL") == 1


async def test_a_job_that_kills_its_process_each_time_is_a_dead_letter_and_the_others_run(fleet: Fleet) -> None:
    fleet.command("--processes", "3", "--lease", "60")
    fleet.push("killer", *(f"job-{n}" for n in range(20)), seconds=0.1)

    await eventually(lambda: fleet.queue.control.counts().dead == 1, within=30)
    await eventually(lambda: fleet.queue.control.counts().totals.get("completed") == 20, within=20)
    assert fleet.labels("start")["killer"] == 3
    assert fleet.queue.control.jobs(State.DEAD)[0].reason == "worker lost"


@pytest.mark.parametrize(
    ("options", "label"), [(("--max-jobs", "5"), "job"), (("--max-rss", "150MB"), "hog")], ids=["jobs", "memory"]
)
async def test_a_child_with_its_share_done_ends_its_jobs_and_is_replaced(
    fleet: Fleet, redis_store: RedisStore, options: tuple[str, str], label: str
) -> None:
    fleet.command("--processes", "1", "--concurrency", "2", "--lease", "2", *options)

    fleet.push(*(f"{label}-{n}" for n in range(12)), seconds=0.3)

    await eventually(lambda: len(fleet.recording("end")) == 12, within=40)
    workers = [worker for _, worker, *_ in fleet.recording("start")]
    assert len(set(workers)) >= 2
    assert set(fleet.labels("start").values()) == {1}
    if label == "job":
        assert max(workers.count(worker) for worker in workers) <= 5
    await eventually(lambda: fleet.queue.control.counts().totals.get("completed") == 12)


async def test_a_stop_lets_running_jobs_finish_and_forgets_the_workers(
    fleet: Fleet, redis_store: RedisStore
) -> None:
    supervisor = fleet.command("--processes", "2", "--concurrency", "2")
    fleet.push("a", "b", "c", seconds=1)
    await eventually(lambda: len(fleet.recording("start")) == 3, within=20)

    supervisor.terminate()

    assert supervisor.wait(20) == 0
    assert fleet.labels("end") == {"a": 1, "b": 1, "c": 1}
    assert not any(map(re.compile("worker:").match, redis_store.keys()))


async def test_a_process_that_an_operator_stops_is_not_replaced_and_with_the_last_one_the_supervisor_ends(
    fleet: Fleet,
) -> None:
    supervisor = fleet.command("--processes", "2", "--concurrency", "2")
    await eventually(lambda: len(fleet.queue.control.workers()) == 2, within=20)
    first, second = fleet.queue.control.workers()
    fleet.push("a", "b", "c", "d", seconds=1)
    await eventually(lambda: len(fleet.recording("start")) == 4, within=20)

    assert fleet.queue.control.stop_worker(first) is Reply.OK
    await eventually(
        lambda: [each.worker_id for each in fleet.queue.control.workers()] == [second.worker_id], within=20
    )
    fleet.push("e")
    await eventually(lambda: "e" in fleet.labels("end"), within=20)
    assert fleet.queue.control.stop_worker(second) is Reply.OK

    assert supervisor.wait(20) == 0
    assert fleet.labels("end") == dict.fromkeys("abcde", 1)
    assert (fleet.folder / "log").read_text().count("started worker process") == 2


async def test_a_process_whose_handler_never_ends_is_ended_by_force_after_an_operators_stop(fleet: Fleet) -> None:
    """As after a signal."""
    worker = fleet.command("--grace", "0.5", "--lease", "2")
    fleet.push("stubborn", seconds=60)
    await eventually(lambda: len(fleet.recording("start")) == 1, within=20)
    (running,) = fleet.queue.control.workers()

    fleet.queue.control.stop_worker(running)

    assert worker.wait(30) == 1
    assert "the process ends by force: a handler did not end" in (fleet.folder / "log").read_text()


@pytest.mark.parametrize(("grace", "before"), [("0", 0), ("25", 0), ("0", 7)])
async def test_idle_children_of_a_silent_store_live_on_and_end_by_themselves_when_stopped(
    tmp_path: Path, redis_store: RedisStore, grace: str, before: float
) -> None:
    host, port = redis_store.url.rpartition("@")[2].split("/")[0].split(":")
    with Proxy(host, int(port)) as proxy:
        fleet = Fleet(tmp_path, redis_store.url.replace(f":{port}/", f":{proxy.port}/"), redis_store.queue_name)
        try:
            probes = free_port()
            options = ("--lease", "1", "--grace", grace, "--health", f"127.0.0.1:{probes}")
            supervisor = fleet.command("--processes", "2", *options)
            await eventually(lambda: ask(probes, "/readyz")[1].startswith("2 of 2"), within=20)
            there = children(supervisor.pid)
            proxy.black_hole(True)
            silent_until = time.monotonic() + before
            while time.monotonic() < silent_until:
                assert ask(probes, "/livez")[0] == 200
                await anyio.sleep(0.2)

            supervisor.terminate()

            assert supervisor.wait(20) == 0
        finally:
            fleet.end()
    log = (tmp_path / "log").read_text()
    assert log.count("started worker process") == len(there)
    assert "killed" not in log
    assert "by force" not in log


@pytest.mark.parametrize("label", ["blocker", "stubborn"])
async def test_a_child_that_ignores_the_grace_is_killed_and_its_job_handed_over(fleet: Fleet, label: str) -> None:
    supervisor = fleet.command("--processes", "1", "--lease", "60", "--grace", "0.5")
    fleet.push(label, seconds=60)
    await eventually(lambda: fleet.labels("start") == {label: 1}, within=20)

    supervisor.terminate()

    assert supervisor.wait(20) == 1
    (job,) = fleet.queue.control.jobs(State.READY)
    assert job.worker == ""


async def test_children_end_when_their_supervisor_was_killed(fleet: Fleet) -> None:
    supervisor = fleet.command("--processes", "2", "--grace", "0")
    await eventually(lambda: len(children(supervisor.pid)) == 2, within=20)
    fleet.push("a", seconds=60)
    await eventually(lambda: fleet.labels("start") == {"a": 1}, within=20)
    orphans = children(supervisor.pid)

    supervisor.kill()

    await eventually(lambda: all(map(has_ended, orphans)), within=20)
    assert [job.attempt for job in fleet.queue.control.jobs(State.READY)] == [1]


async def test_a_child_that_was_started_wrongly_is_not_started_again(fleet: Fleet) -> None:
    code = fleet.python(
        "import runpy; sys.argv[1:] = ['worker', 'nowhere:queue', '-p', '2']\n"
        "runpy.run_module('redisjobs', run_name='__main__')"
    ).wait(20)

    assert code == 2
    assert "no module" in (fleet.folder / "log").read_text()


async def test_a_job_that_exits_as_a_mistake_would_is_one_death_like_any_other(fleet: Fleet) -> None:
    supervisor = fleet.command("--processes", "2", "--max-deliveries", "2")
    fleet.push("mistake", *(f"job-{n}" for n in range(10)), seconds=0.2)

    await eventually(lambda: fleet.queue.control.counts().dead == 1, within=30)
    await eventually(lambda: fleet.queue.control.counts().totals.get("completed") == 10, within=20)
    assert supervisor.poll() is None


async def test_a_drain_goes_on_when_a_job_stops_its_worker(fleet: Fleet) -> None:
    fleet.push("terminates", *(f"job-{n}" for n in range(30)), seconds=0.1)

    assert fleet.command("--processes", "1", "--until-idle", "--concurrency", "2").wait(50) == 0

    assert len(fleet.labels("end")) == 31


async def test_a_worker_that_one_of_its_jobs_stops_is_started_again(fleet: Fleet) -> None:
    fleet.push("stops", *(f"job-{n}" for n in range(30)), seconds=0.1)

    supervisor = fleet.command("--processes", "1", "--concurrency", "2")
    await eventually(lambda: len(fleet.labels("end")) == 31, within=50)
    supervisor.terminate()

    assert supervisor.wait(30) == 0
    assert "stopped, though its supervisor did not ask for it" in (fleet.folder / "log").read_text()


@pytest.mark.parametrize("how", ["exits-0", "signals-0", "signals-3", "quits-0", "quits-3"])
async def test_a_drain_goes_on_when_a_job_makes_its_worker_exit_with_whatever_code(
    fleet: Fleet, redis_store: RedisStore, how: str
) -> None:
    fleet.push(how, *(f"job-{n}" for n in range(30)), seconds=0.1)

    assert fleet.command("--processes", "1", "--until-idle", "--concurrency", "2").wait(50) == 0

    assert len(fleet.labels("end")) == 30
    assert fleet.queue.control.counts().totals["completed"] == 30


@pytest.mark.parametrize("left", ["thread", "executor", "stubborn"])
async def test_a_worker_that_a_handler_made_exit_ends_though_others_still_run(fleet: Fleet, left: str) -> None:
    worker = fleet.command("--concurrency", "2")
    fleet.push(left, "signals-0", seconds=60)

    assert worker.wait(30) == 1

    assert "the worker had to end" in (fleet.folder / "log").read_text()


async def test_a_worker_that_the_store_refuses_ends_though_a_handler_does_not(
    fleet: Fleet, redis_store: RedisStore
) -> None:
    worker = fleet.command("--concurrency", "2", "--lease", "1")
    fleet.push("stubborn", seconds=60)
    await eventually(lambda: fleet.labels("start") == {"stubborn": 1}, within=20)

    redis_store.admin.acl_setuser(redis_store.user, categories=["-@all"])

    assert worker.wait(30) == 1


async def test_a_drain_does_not_wait_for_the_threads_that_handlers_left(fleet: Fleet) -> None:
    fleet.push("executor", seconds=60)

    assert fleet.command("--processes", "1", "--until-idle").wait(30) == 0
    assert fleet.labels("start") == fleet.labels("end") == {"executor": 1}


async def test_a_drain_goes_on_beyond_one_childs_share(fleet: Fleet) -> None:
    fleet.push(*(f"job-{n}" for n in range(20)))

    assert fleet.command("--processes", "2", "--until-idle", "--max-jobs", "4").wait(50) == 0

    assert len(fleet.labels("end")) == 20


async def test_a_service_manager_that_stops_all_processes_at_once_leaves_them_their_grace(fleet: Fleet) -> None:
    supervisor = fleet.command("--processes", "1", "--grace", "20")
    fleet.push("a", seconds=2)
    await eventually(lambda: fleet.labels("start") == {"a": 1}, within=20)

    for pid in [*children(supervisor.pid), supervisor.pid]:
        os.kill(pid, signal.SIGTERM)

    assert supervisor.wait(20) == 0
    assert fleet.labels("end") == {"a": 1}


async def test_a_second_stop_does_not_wait_for_the_grace(fleet: Fleet) -> None:
    supervisor = fleet.command("--processes", "1", "--grace", "50")
    fleet.push("a", seconds=50)
    await eventually(lambda: fleet.labels("start") == {"a": 1}, within=20)

    supervisor.terminate()
    await eventually(lambda: "SIGTERM: stopping" in (fleet.folder / "log").read_text(), within=10)
    supervisor.send_signal(signal.SIGINT)  # the same one may be one that arrives twice

    assert supervisor.wait(20) == 0
    assert [job.attempt for job in fleet.queue.control.jobs(State.READY)] == [1]


async def test_a_drain_ends_when_every_child_has_nothing_left(fleet: Fleet) -> None:
    fleet.push(*(f"job-{n}" for n in range(30)))

    assert fleet.command("--processes", "2", "--until-idle").wait(30) == 0

    assert len(fleet.labels("end")) == 30


def test_a_queue_in_memory_can_not_be_shared_by_processes(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from redisjobs import JobQueue\nqueue = JobQueue('memory://')\n")
    command = [sys.executable, "-m", "redisjobs", "worker", "mine:queue", "--processes", "2"]
    env = dict(os.environ, PYTHONPATH=str(Path(__file__).parents[2]))
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=20)

    assert done.returncode == 2
    assert "other processes can't share" in done.stderr


@pytest.mark.parametrize("processes", [(), ("--processes", "2")], ids=["worker", "supervisor"])
async def test_probes_tell_a_worker_that_works_from_one_that_is_stopping(
    fleet: Fleet, processes: tuple[str, ...]
) -> None:
    port = free_port()
    worker = fleet.command(*processes, "--health", f"127.0.0.1:{port}", "--lease", "2", "--grace", "30")
    await eventually(lambda: ask(port, "/readyz")[0] == 200, within=20)
    assert ask(port, "/livez")[0] == 200
    assert ask(port, "/")[0] == 404
    fleet.push("a", seconds=6)
    await eventually(lambda: fleet.labels("start") == {"a": 1}, within=20)

    worker.terminate()

    await eventually(lambda: ask(port, "/readyz")[0] == 503, within=20)
    assert ask(port, "/livez")[0] == 200


async def test_a_worker_whose_loop_is_blocked_for_three_leases_is_not_live_but_keeps_its_job(fleet: Fleet) -> None:
    port = free_port()
    fleet.command("--health", f"127.0.0.1:{port}", "--lease", "1")
    other = fleet.command("--lease", "1")
    fleet.push("blocker", seconds=6)
    await eventually(lambda: fleet.labels("start") == {"blocker": 1}, within=20)

    await eventually(lambda: ask(port, "/livez")[0] == 503 or fleet.labels("end") != {}, within=20)

    if (fleet.labels("end")) == {}:  # else it was the other that got the job
        assert "blocked" in ask(port, "/livez")[1]
    await eventually(lambda: fleet.labels("end") == {"blocker": 1}, within=20)
    await eventually(lambda: ask(port, "/livez")[0] == 200, within=5)
    assert fleet.labels("start") == {"blocker": 1}
    assert (fleet.folder / "log").read_text().count("the event loop is blocked for") == 1
    assert other.poll() is None


async def test_a_supervisor_says_why_a_process_takes_no_jobs(fleet: Fleet, redis_store: RedisStore) -> None:
    port = free_port()
    redis_store.admin.set(redis_store.stream(), "junk")
    fleet.command("--processes", "1", "--lease", "1", "--health", f"127.0.0.1:{port}")

    await eventually(lambda: "the store refuses: WRONGTYPE " in ask(port, "/readyz")[1], within=20)

    assert ask(port, "/readyz")[0] == 503
    assert ask(port, "/livez")[0] == 200
    redis_store.admin.delete(redis_store.stream())
    await eventually(lambda: ask(port, "/readyz") == (200, "1 of 1 processes are ready\n"), within=20)


async def test_a_supervisor_says_of_which_queue_a_process_that_is_ready_takes_no_jobs(
    fleet_of_two: Fleet, pair: tuple[RedisStore, RedisStore]
) -> None:
    port, (_, spoiled) = free_port(), pair
    spoiled.admin.set(spoiled.stream(), "junk")
    options = ("--processes", "1", "--lease", "1", "--health", f"127.0.0.1:{port}")
    fleet_of_two.command(*options, targets=("two:queue", "two:other"))

    refused = f"; queue '{spoiled.queue_name}': the store refuses: WRONGTYPE "
    await eventually(lambda: refused in ask(port, "/readyz")[1], within=20)
    assert ask(port, "/readyz")[1].startswith("1 of 1 processes are ready; process ")
    assert ask(port, "/readyz")[0] == 200

    spoiled.admin.delete(spoiled.stream())
    await eventually(lambda: ask(port, "/readyz") == (200, "1 of 1 processes are ready\n"), within=20)


# With children that only do what the test wants: `started` has a line for each, and `end` is a last word


@pytest.fixture
def started(tmp_path: Path) -> Path:
    return tmp_path / "started"


def supervised(started: Path, then: str, *queues: str) -> Supervisor:
    """A supervisor of one child, which notes its start, says who it is, and does `then`."""
    code = f"""
import os, signal, socket, sys, time
with open({str(started)!r}, "a") as file: file.write(f"{{time.monotonic()}}\\n")
number = len(open({str(started)!r}).readlines())
line = socket.socket(fileno=int(sys.argv[-1]))
line.sendall(b"host:1:id live ready well\\n")
def end(how):
    line.sendall(f"host:1:id {{how}}\\n".encode())
    sys.exit()
{then}
"""
    of = [JobQueue("memory://", name) for name in queues or ["q"]]
    return Supervisor(of, [sys.executable, "-c", code], 1, lease=1, grace=1)


def test_a_dead_child_is_released_in_each_queue_as_who_it_was_there(
    started: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Who was taken for dead in one queue goes on there under another id."""
    then = f"""
if number > 1: end('{LastLine.DRAINED}')
line.sendall(b"host:1:id}}host:1:other live ready well\\n")
os._exit(1)
"""
    supervisor, told = supervised(started, then, "a", "b"), list[ProcessEnded]()
    for queue in supervisor.queues:
        queue.events.subscribe(ProcessEnded, told.append)
    caplog.set_level(logging.INFO, "redisjobs")

    assert supervisor.run() == 0

    assert [(event.queue, event.worker, event.how) for event in told][:2] == [
        ("a", "host:1:id", "ended with code 1"),
        ("b", "host:1:other", "ended with code 1"),
    ]
    assert {tuple(event.queues) for event in told} == {("a", "b")}
    assert caplog.text.count("ended with code 1") == 1
    for name in "ab":
        assert caplog.text.count(f"queue '{name}': released 0 jobs of it") == 1


def gaps(started: Path) -> list[float]:
    starts = [float(line) for line in started.read_text().splitlines()]
    return [later - at for at, later in pairwise(starts)]


def test_a_child_that_had_its_share_is_replaced_at_once_however_often(started: Path) -> None:
    began = time.monotonic()

    assert supervised(started, f"end('{LastLine.SHARE}' if number < 8 else '{LastLine.DRAINED}')").run() == 0

    assert len(started.read_text().splitlines()) == 8
    assert time.monotonic() - began < 10  # with pauses it would be 15 s at least


def test_a_child_that_gets_no_threads_is_replaced_ever_more_slowly(started: Path) -> None:
    assert supervised(started, f"end('{LastLine.HINDERED}' if number < 4 else '{LastLine.DRAINED}')").run() == 0

    assert gaps(started)[1] > 0.25
    assert gaps(started)[2] > 0.5


def test_a_child_that_gets_no_threads_after_a_while_is_replaced_at_once(
    started: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redisjobs.worker.supervisor._HEALTHY", 0.5)
    monkeypatch.setattr("redisjobs.worker.supervisor._FIRST_PAUSE", 60)
    monkeypatch.setattr("redisjobs.worker.supervisor._LONGEST_PAUSE", 60)
    then = f"time.sleep(0.5); end('{LastLine.HINDERED}' if number < 4 else '{LastLine.DRAINED}')"

    assert supervised(started, then).run() == 0

    assert max(gaps(started)) < 30


@pytest.mark.parametrize("code", [0, 3])
def test_a_code_alone_does_not_tell_that_a_child_ended_in_order(
    started: Path, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever runs in it may exit with any code."""
    caplog.set_level(logging.INFO, "redisjobs")
    assert supervised(started, f"end('{LastLine.DRAINED}') if number > 3 else os._exit({code})").run() == 0

    assert gaps(started)[1] > 0.25
    assert gaps(started)[2] > 0.5
    assert caplog.text.count(f"ended with code {code}") == 3
    assert caplog.text.count("released 0 jobs of it") == 3


@pytest.mark.parametrize(
    ("how", "warned"),
    [(LastLine.STOPPED, True), (LastLine.HINDERED, True), (LastLine.SHARE, False), (LastLine.DRAINED, False)],
)
def test_a_child_that_ends_in_order_though_no_one_asked_is_warned_of_unless_it_has_done_what_it_was_to(
    started: Path, caplog: pytest.LogCaptureFixture, how: LastLine, warned: bool
) -> None:
    assert supervised(started, f"end('{how}' if number < 2 else '{LastLine.DRAINED}')").run() == 0

    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [text.split(" ", 3)[3] for text in warnings] == (
        ["stopped, though its supervisor did not ask for it"] if warned else []
    )


@pytest.mark.parametrize(
    ("then", "code", "how"),
    [
        (f"end('{LastLine.STOPPED}')", 0, "ended"),
        (f"end('{LastLine.SHARE}')", 0, "ended"),
        ("os._exit(3)", 1, "ended with code 3"),
    ],
)
def test_a_child_that_an_operator_asked_to_stop_is_not_replaced_however_it_ends(
    started: Path, caplog: pytest.LogCaptureFixture, then: str, code: int, how: str
) -> None:
    caplog.set_level(logging.INFO, "redisjobs")
    assert supervised(started, f"line.sendall(b'host:1:id leaves\\n'); {then}").run() == code

    assert len(started.read_text().splitlines()) == 1
    assert f"{how}; an operator asked it to stop, and no other takes its place" in caplog.text


def test_a_stop_during_which_a_child_exits_unasked_has_not_gone_well(started: Path) -> None:
    then = (
        f"signal.signal(signal.SIGTERM, lambda *_: os._exit(0)); print('armed', file=open({str(started)!r}, 'a'))"
    )
    supervisor = supervised(started, f"{then}; time.sleep(60)")

    def stop() -> None:
        while not (started.exists() and started.read_text().endswith("armed\n")):
            time.sleep(0.01)
        supervisor.stop()

    thread = threading.Thread(target=stop)
    thread.start()
    assert supervisor.run() == 1
    thread.join()


class Away(logging.Handler):
    """A log that can't be written."""

    def emit(self, record: logging.LogRecord) -> None:
        raise OSError(f"the log server is away: {record.getMessage()}")


def test_a_log_that_raises_does_not_end_a_supervisor(started: Path) -> None:
    log = logging.getLogger("redisjobs.supervisor")
    log.addHandler(handler := Away())
    log.setLevel(logging.INFO)
    try:
        assert supervised(started, f"os._exit(1) if number < 3 else end('{LastLine.DRAINED}')").run() == 0
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)

    assert len(gaps(started)) == 2


@pytest.mark.parametrize("refused", [{1}, {2}, {2, 4}], ids=["listening", "waiting", "twice"])
def test_a_child_that_no_thread_can_attend_is_killed_and_another_started(
    started: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, refused: set[int]
) -> None:
    asked: list[int] = []
    start = threading.Thread.start
    here = threading.get_ident()

    def no_thread(thread: threading.Thread) -> None:
        if threading.get_ident() == here:
            asked.append(1)
            if len(asked) in refused:
                raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    began = time.monotonic()

    assert supervised(started, f"time.sleep(3); end('{LastLine.DRAINED}')").run() == 0

    assert time.monotonic() - began < 3 + 3  # those that were not attended to are gone, not waited for
    assert caplog.text.count("could not start a worker process, retrying: can't start new thread") == len(refused)
    assert "was killed" not in caplog.text


def test_jobs_that_no_thread_can_release_are_left_to_their_leases(
    started: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start = threading.Thread.start

    def no_thread(thread: threading.Thread) -> None:
        if "release" in thread.name:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", no_thread)

    assert supervised(started, f"os._exit(1) if number < 2 else end('{LastLine.DRAINED}')").run() == 0

    assert "run once their leases are over: can't start new thread" in caplog.text


def test_a_child_that_crashes_once_all_is_settled_had_its_share_all_the_same(
    started: Path, caplog: pytest.LogCaptureFixture
) -> None:
    then = f"line.sendall(b'host:1:id {LastLine.SHARE}\\n'); os.abort()"
    began = time.monotonic()

    assert supervised(started, f"if number > 5: end('{LastLine.DRAINED}')\n{then}").run() == 0

    assert time.monotonic() - began < 10  # with pauses it would be 15 s at least
    assert caplog.text.count("was killed by SIGABRT") == 5
    assert "handed" not in caplog.text


def test_recycling_between_two_deaths_makes_them_the_first_of_a_row_each(started: Path) -> None:
    then = (
        f"end('{LastLine.SHARE}' if number < 5 else '{LastLine.DRAINED}') if number in (2, 4, 6) else os._exit(1)"
    )
    assert supervised(started, then).run() == 0

    assert max(gaps(started)) < 0.25 + 1.5


def test_a_child_that_dies_again_and_again_waits_longer_each_time(started: Path) -> None:
    assert supervised(started, f"sys.exit(1) if number < 5 else end('{LastLine.DRAINED}')").run() == 0

    assert gaps(started)[1] > 0.25
    assert gaps(started)[2] > 0.5
    assert gaps(started)[3] > 1


def test_a_stop_that_the_system_gives_to_another_thread_is_heard(started: Path) -> None:
    """A signal interrupts the wait of the thread that gets it, and any thread may."""
    supervisor = supervised(started, "signal.pause()")
    before = signal.signal(signal.SIGTERM, lambda *_: supervisor.stop())

    def interrupt() -> None:
        while not started.exists():
            time.sleep(0.01)
        time.sleep(0.3)
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    try:
        thread = threading.Thread(target=interrupt)
        thread.start()
        assert supervisor.run() == 0
        thread.join()
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_a_worker_that_needs_more_memory_to_begin_with_says_so_and_is_started_ever_more_slowly(
    fleet: Fleet,
) -> None:
    supervisor = fleet.command("--processes", "1", "--lease", "1", "--max-rss", "10MB")
    log = fleet.folder / "log"
    await eventually(lambda: log.read_text().count("started worker process") == 4, within=30)

    supervisor.terminate()

    assert supervisor.wait(20) == 0
    assert "no job was run yet, and max_rss is 10 MB: give it more" in log.read_text()
    assert "Traceback" not in log.read_text()
    starts = [line.split()[0] for line in log.read_text().splitlines() if "started worker process" in line]
    assert datetime.fromisoformat(starts[3]) - datetime.fromisoformat(starts[2]) > timedelta(seconds=0.5)
