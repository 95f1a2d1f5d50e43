"""The torture's faults do what they say they did, and what watches over its workers sees every end of one."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import redis
from faulty_system import system as system
from store import eventually

from redisjobs.drivers.redis import long_calls, scripts
from redisjobs.drivers.redis.commands import Command, run_steps_sync
from redisjobs.drivers.redis.pushes import PushCommands
from redisjobs.drivers.redis.sync_connection import SyncConnection
from redisjobs.drivers.redis.target import Target
from redisjobs.drivers.redis.worker_commands import WorkerCommands
from redisjobs.errors import Unavailable
from redisjobs.events import Events, ProcessEnded, recording
from redisjobs.events.recording import Recording
from redisjobs.local.server import Server
from redisjobs.model.changes import Ending
from redisjobs.model.job import Priority, State
from redisjobs.model.queries import Count
from redisjobs.model.transitions import After
from redisjobs.sync import JobQueue
from redisjobs_proof.torture import data_loss
from redisjobs_proof.torture.checks import lines
from redisjobs_proof.torture.checks.checker import check
from redisjobs_proof.torture.fleet.final import final_state
from redisjobs_proof.torture.fleet.fleet import GRACE, Fleet
from redisjobs_proof.torture.fleet.hosts import Host, Kind
from redisjobs_proof.torture.fleet.jobs import KEPT, Parent, Pusher, Reporting, Step, Work
from redisjobs_proof.torture.fleet.producer import Producer, _seconds_of
from redisjobs_proof.torture.fleet.redis_store import RedisStore, on_redis
from redisjobs_proof.torture.fleet.release import Release
from redisjobs_proof.torture.fleet.settable import settable
from redisjobs_proof.torture.fleet.store import through
from redisjobs_proof.torture.nemesis import FAULTS, heal
from redisjobs_proof.torture.nemesis.entries import PutHostile, PutOddIds
from redisjobs_proof.torture.nemesis.fault import Fault, System
from redisjobs_proof.torture.nemesis.network import CutBeat, CutPush, CutSettlement, LateBytes, LateClaim, SlowBeat
from redisjobs_proof.torture.nemesis.owners import OwnerFault
from redisjobs_proof.torture.nemesis.records import DeleteRecord, ForgetWorkers, LoseRecord, RemoveConsumer
from redisjobs_proof.torture.nemesis.servers import KillListeners, SetClockAhead, SetClockBack
from redisjobs_proof.torture.nemesis.stops import HoldJobs, ManyLines, PauseName, PauseQueue


def test_late_bytes_are_tried_for_ids_of_both_kinds_and_with_unique_keys_and_add_nothing(system: System) -> None:
    fault = LateBytes()

    fault.begin(system)

    assert fault.happened
    assert fault.held > 1000
    assert fault.detail == f"{fault.held} bytes of {len(fault.jobs)} pushes"
    own = [job for job in fault.jobs if job.startswith("late-")]
    assert len(own) == len(fault.jobs) // 2
    assert "".join(on_redis(system.store).keys()).count(":unique:") == 3
    assert {note["added"] for note in system.notes if note["what"] == "pushed"} == {True}
    for job in fault.jobs:
        system.store.queue.cancel(job)
    system.over = True
    system.tend()
    assert system.late == []
    assert system.store.counts().totals["pushed"] == len(fault.jobs)
    assert system.store.queue.control.jobs(State.READY) == []


# Workers that the store no longer knows, and clocks. `worker` is one that has joined; its process only sleeps.


@pytest.fixture
def worker(system: System, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    host = Host(Kind(), process)
    monkeypatch.setattr(Fleet, "some_pid", lambda self, *, supervised: None if supervised else process.pid)
    monkeypatch.setattr(Fleet, "host_of", lambda self, pid: host)
    name = f"host:{process.pid}:0"
    run(system, commands(system).join(name, 2000, "run"))
    yield name
    process.kill()
    process.wait()


def commands(system: System) -> WorkerCommands:
    return WorkerCommands(system.store.queue.name)


def run(system: System, command: Command[Any]) -> Any:
    return on_redis(system.store)._connection.run(command)


def worker_ids(system: System) -> list[str]:
    return [
        raw.decode()
        for raw in on_redis(system.store).run("ZRANGE", f"{on_redis(system.store).prefix}workers", 0, -1)
    ]


def test_a_worker_whose_record_is_deleted_is_none_any_more(system: System, worker: str) -> None:
    fault = DeleteRecord()
    fault.prepare(system)

    fault.begin(system)

    assert fault.happened
    assert fault.facts["pids"] == [int(worker.split(":")[1])]
    assert run(system, commands(system).beat(worker, {})) is None  # it is fenced


def test_what_a_worker_had_whose_consumer_is_removed_is_found_and_handed_back(system: System, worker: str) -> None:
    job = system.push(Work(1))
    assert [lease.job_id for lease in run(system, commands(system).read(worker, slice(1, 2), 1))] == [job]
    fault = RemoveConsumer()

    fault.begin(system)
    pending = f"{on_redis(system.store).prefix}ready:normal", "workers", "-", "+", 9
    assert on_redis(system.store).run("XPENDING", *pending) == []
    fault.keep(system)

    assert fault.facts["pids"] == [int(worker.split(":")[1])]
    assert [name for _, name, *_ in on_redis(system.store).run("XPENDING", *pending)] == [b"released"]
    run(system, commands(system).beat(worker, {}))  # it is a worker as before


def test_workers_that_are_forgotten_are_there_again_with_their_next_beat(system: System, worker: str) -> None:
    for seed in range(6):  # in one way, and in the other
        fault = ForgetWorkers()
        system.rng.seed(seed)

        fault.begin(system)

        assert (fault.happened, fault.pids) == (True, [])
        assert worker_ids(system) == []
        run(system, commands(system).beat(worker, {}))
        assert worker_ids(system) == [worker]


def test_what_a_worker_had_that_is_unknown_is_found_and_handed_back(system: System, worker: str) -> None:
    job = system.push(Work(1))
    assert [lease.job_id for lease in run(system, commands(system).read(worker, slice(1, 2), 1))] == [job]
    fault = LoseRecord()

    fault.begin(system)
    assert system.store.fenced() == worker_ids(system) == []
    fault.keep(system)

    assert system.fleet.victims == {int(worker.split(":")[1])}
    assert system.store.fenced() == [worker]
    run(system, commands(system).join("heir", 2000, "run"))
    reclaiming = commands(system).reclaim("heir", (), others=False, thorough=False, names_server=False)
    assert run_steps_sync(reclaiming, on_redis(system.store)._connection.run_all).jobs == 1


def test_who_is_fenced_is_written_down_once(system: System, worker: str) -> None:
    system.look_for_fenced()
    assert system.notes == []

    run(system, commands(system).release(worker, refund=False, watch=True))
    system.look_for_fenced()
    system.look_for_fenced()

    assert [(note["what"], note["worker"], note["db"]) for note in system.notes] == [("fenced", worker, 0)]


def test_a_record_that_no_one_would_ever_take_away_is_left_behind(system: System, worker: str) -> None:
    assert final_state(system.store).left == []  # it lives, or was killed just now

    on_redis(system.store).run("DEL", f"{on_redis(system.store).prefix}workers")

    assert final_state(system.store).left == [
        f"the key {on_redis(system.store).prefix}worker:{worker}",
        f"the doctor finds Worker records in no list of workers: 1 ({worker}).",
    ]


@pytest.mark.parametrize(("seconds", "left"), [(-10, False), (-40, True)])
def test_a_fenced_worker_is_not_watched_for_ever(system: System, worker: str, seconds: float, left: bool) -> None:
    run(system, commands(system).release(worker, refund=False, watch=True))

    on_redis(system.store).run(
        "HSET",
        f"{on_redis(system.store).prefix}worker:{worker}",
        "watched_until",
        int((time.time() + seconds) * 1000),
    )

    told = f"{worker}, fenced, whose consumer need not be watched any more"
    assert final_state(system.store).left == ([told] if left else [])


@pytest.fixture
def clock(tmp_path: Path) -> Iterator[None]:
    with settable(tmp_path / "scripts"):
        yield


def told(system: System) -> float:
    """How far the server's clock is ahead, as its scripts hear it."""
    answer = run(system, PushCommands(system.store.queue.name).push([], repeated=False, sent_ms=None))
    return float(round(answer.server_ms / 1000 - time.time()))


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("seconds", [40, -40.5, 0])
def test_all_scripts_of_this_process_hear_the_clock_that_was_set(system: System, seconds: float) -> None:
    system.store.set_clock(seconds)

    assert told(system) == pytest.approx(seconds, abs=2)
    assert all(text.count("torture:clock") == 1 for text in map(source, ("beat", "settle", "claim", "reclaim")))


def source(name: str) -> str:
    return scripts.script(name).source


def test_once_the_torture_is_over_scripts_ask_the_server_again(tmp_path: Path) -> None:
    before = source("beat")

    with settable(tmp_path / "scripts"):
        release = Release(tmp_path / "release")
        assert source("beat") != before
        assert release.shas("beat") == [scripts.script("beat").sha]

    assert source("beat") == before


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(("kind", "ahead"), [(SetClockAhead, True), (SetClockBack, False)])
def test_a_clock_is_set_by_more_than_a_lease_as_a_worker_is_killed_and_then_set_back(
    system: System, worker: str, kind: type[SetClockAhead], ahead: bool
) -> None:
    fault = kind()

    fault.begin(system)

    assert (told(system) > 0) is ahead
    assert abs(told(system)) >= 2
    assert system.fleet.victims == set(fault.pids) == {int(worker.split(":")[1])}
    assert fault.facts["lost"] == [worker]
    fault.end(system)
    assert told(system) == pytest.approx(0, abs=1)
    steps = [note["seconds"] for note in system.notes if note["what"] == "clock"]
    assert (len(steps), steps[-1], abs(steps[0]) > system.lease) == (2, 0, True)
    assert all(note["asked"] <= note["at"] for note in system.notes if note["what"] == "clock")
    assert final_state(system.store).left == []


def test_a_clock_that_a_fault_has_set_is_right_again_once_all_are_over(system: System) -> None:
    system.store.set_clock(5)

    heal(system)

    assert on_redis(system.store).keys() == []


# Replies that are cut, or late


def test_a_reply_is_cut_at_any_byte_and_more_often_at_one_of_the_first() -> None:
    rng = random.Random(7)

    cuts = [CutSettlement().some_bytes(rng) for _ in range(2000)]

    assert set(range(20)) <= set(cuts)
    assert 1000 < max(cuts) < 4000
    assert sum(cut < 100 for cut in cuts) > len(cuts) / 2
    assert {CutBeat().some_bytes(rng) for _ in range(100)} == {0, 1, 2, 3}


def test_the_reply_to_a_beat_comes_late_and_the_others_in_time(system: System, worker: str) -> None:
    assert system.workers is not None
    fault = SlowBeat()
    connection = SyncConnection(commands(system), Target(through(system.store.url, system.workers.port)), 0.5)
    fault.begin(system)
    run_steps_sync(long_calls.read(commands(system), Count()), connection.run_all)
    assert not fault.happened

    with pytest.raises(Unavailable):
        connection.run(commands(system).beat(worker, {}))

    assert fault.happened
    connection.run(commands(system).beat(worker, {}))  # the next one, on a new connection
    fault.end(system)
    connection.close()
    assert system.workers.lags == 1


def test_a_beat_that_comes_late_is_answered_all_the_same(system: System, worker: str) -> None:
    assert system.workers is not None
    connection = SyncConnection(commands(system), Target(through(system.store.url, system.workers.port)), 5)
    system.workers.delay_reply(0.3, str(commands(system).beat(worker, {}).wire[1]).encode())
    began = time.monotonic()

    assert connection.run(commands(system).beat(worker, {})) == (0, None)

    assert time.monotonic() - began >= 0.3
    connection.close()


@pytest.mark.parametrize("in_time", [True, False])
def test_a_claim_that_comes_late_takes_a_job_of_which_no_one_is_told(
    system: System, worker: str, monkeypatch: pytest.MonkeyPatch, in_time: bool
) -> None:
    assert system.workers is not None
    monkeypatch.setattr(LateClaim, "WHILES", (0.1,) if in_time else (-9.0,))
    fault = LateClaim()
    connection = SyncConnection(commands(system), Target(through(system.store.url, system.workers.port)), 5)
    fault.begin(system)
    with pytest.raises(Unavailable):
        connection.run(commands(system).wait(worker, 1, 1))
    system.push(Work(0.001), system.store)
    assert fault.happened

    fault.end(system)
    while system.late:
        system.tend()

    pending = on_redis(system.store).run(
        "XPENDING", f"{on_redis(system.store).prefix}ready:normal", "workers", "-", "+", 9
    )
    assert [name.decode() for _, name, *_ in pending] == ([worker] if in_time else [])
    connection.close()


def test_a_claim_that_was_not_held_is_no_fault_and_none_is_held_afterwards(system: System, worker: str) -> None:
    assert system.workers is not None
    fault = LateClaim()
    fault.begin(system)
    fault.keep(system)  # work to claim

    fault.end(system)
    system.tend()

    connection = SyncConnection(commands(system), Target(through(system.store.url, system.workers.port)), 5)
    assert len(connection.run(commands(system).wait(worker, 9, 1))[0]) == 1
    connection.close()
    assert (fault.happened, system.late) == (False, [])


def test_it_is_written_down_of_a_fault_how_soon_what_it_takes_is_handed_on() -> None:
    facts = {kind.name: kind().facts for kind in FAULTS}

    assert {name for name in facts if facts[name]["releases_at_once"]} == {
        *("child killed", "consumer removed", "group destroyed", "record deleted", "record lost")
    }
    graces = {name: facts[name]["grace"] for name in facts if facts[name]["grace"]}
    assert graces == dict.fromkeys(("worker stopped", "upgrade in place", "worker asked to stop"), GRACE)


def test_what_would_harm_a_users_server_is_not_done_to_it_and_all_else_is(system: System) -> None:
    assert system.own is None

    spared = {kind.name for kind in FAULTS if not kind.possible(system)}

    one = {"frozen in turn"}  # here is but one database
    assert spared - one == {
        *("server killed", "clients killed", "listeners killed", "scripts flushed", "memory full"),
        "requests limited",
        *(kind.name for kind in FAULTS if issubclass(kind, OwnerFault)),
    }


def test_late_bytes_of_which_none_was_held_are_no_fault() -> None:
    assert not LateBytes().happened


@pytest.mark.parametrize("comes", [True, False])
def test_a_cut_is_a_fault_only_if_a_reply_was_cut_and_cuts_none_after_its_end(system: System, comes: bool) -> None:
    fault = CutPush()
    assert system.producers is not None
    system.producers.cut_after_reply_bytes(10**6)  # what another has left to be cut
    fault.begin(system)
    with JobQueue(through(system.store.url, system.producers.port), system.store.queue.name, deadline=5) as queue:
        if comes:
            for _ in range(20):
                queue.push(Work(0.001))

        fault.end(system)

        cuts = system.producers.cuts
        queue.push_many([Work(0.001)] * 20)
    assert fault.happened is comes
    assert system.producers.cuts == cuts


def test_what_is_hostile_has_each_number_of_an_entry(system: System) -> None:
    fault = PutHostile()

    fault.begin(system)

    entries = on_redis(system.store).run("XRANGE", on_redis(system.store).streams[0], "-", "+")
    for stream in on_redis(system.store).streams[1:]:
        entries += on_redis(system.store).run("XRANGE", stream, "-", "+")
    names = {name for _, flat in entries for name in flat[::2]}
    assert {b"attempt", b"started_at", b"queued_at", b"expires_at", b"unknown_since"} <= names


def test_odd_ids_come_with_each_handler_that_sends_them_back_and_no_two_are_equal(system: System) -> None:
    fault = PutOddIds()

    fault.begin(system)

    ids = {note["job"].encode("utf-8", "surrogateescape") for note in system.notes if note["pushed"]}
    entries = on_redis(system.store).run("XRANGE", f"{on_redis(system.store).prefix}inbox", "-", "+")
    put = [dict(zip(flat[::2], flat[1::2], strict=True)) for _, flat in entries]
    good = [fields for fields in put if b"id" in fields]
    assert {fields[b"id"] for fields in good} == ids
    assert len(ids) == len(good)
    assert {b"Parent", b"Saving", b"Sleeper", b"Family", b"Emitting"} <= {fields[b"name"] for fields in good}


# What producers record


@pytest.fixture
def producer(tmp_path: Path) -> Producer:
    return Producer(Recording(tmp_path), 0)


@pytest.mark.parametrize(("again", "added"), [(False, [True, False]), (True, [True, None])])
def test_it_is_written_down_whether_a_push_added_a_job(
    system: System, tmp_path: Path, producer: Producer, again: bool, added: list[bool | None]
) -> None:
    """A push that has failed before may find its own job."""
    queue = system.store.queue
    fresh, there = queue.prepare(Work(1), delay=5), queue.prepare(Work(1), job_id="there")
    queue.push(Work(1), job_id="there")

    producer.push([fresh, there], lambda: queue.push_many([fresh, there]), again=again)

    told = [line for line in recording.read(tmp_path) if line["what"] == "pushed"]
    assert [line["added"] for line in told] == added
    assert [line["delay"] for line in told] == [5, 0]


def test_how_long_a_prepared_job_is_delayed_is_read_of_it() -> None:
    assert [_seconds_of(due) for due in (None, After(2500), After(50.5))] == [0, 2.5, 0.0505]


@pytest.mark.slow
def test_what_a_handler_pushes_is_judged_as_what_any_producer_does(module_server: Server, tmp_path: Path) -> None:
    store = RedisStore(module_server.url, f"q-{random.randrange(10**9)}")
    fleet = Fleet(
        [store.url], store.queue.name, tmp_path, 2.0, random.Random(7), kinds=[Kind(("--no-schedules",))]
    )
    with fleet, System(fleet, [store], 2.0) as system:
        fleet.start()
        system.push(Pusher(), store)
        anyio.run(eventually, lambda: store.drained, 30)
        fleet.dismiss()
    mine = Recording(tmp_path)
    for note in system.notes:
        mine.write(note)
    lines = list(recording.read(tmp_path))

    verdict = check(lines, [final_state(store)])

    assert verdict.passed, verdict
    assert (verdict.acknowledged, verdict.done) == (2, 2)
    (job,) = (line["job"] for line in lines if line["what"] == "start" and line["name"] == "Work")
    assert check([line for line in lines if line.get("job") != job], [final_state(store)]).wrong
    store.remove()
    store.close()


@pytest.mark.slow
def test_what_handlers_return_and_push_as_they_end_is_judged(module_server: Server, tmp_path: Path) -> None:
    store = RedisStore(module_server.url, f"q-{random.randrange(10**9)}")
    fleet = Fleet(
        [store.url], store.queue.name, tmp_path, 2.0, random.Random(7), kinds=[Kind(("--no-schedules",))]
    )
    with fleet, System(fleet, [store], 2.0) as system:
        fleet.start()
        asked = [system.push(job, store, keep_result=KEPT) for job in (Parent(until=2), Work(0.01))]
        system.push(Step(3, "key"), store, unique="key")
        watched = system.push(Reporting(3), store)
        assert {progress.note for progress in store.queue.watch(watched)} <= {watched}
        anyio.run(eventually, lambda: store.drained, 30)
        fleet.dismiss()
    mine = Recording(tmp_path)
    for note in system.notes:
        mine.write(note | {"kept": note.get("job") in asked})
    told = list(lines.read(tmp_path))
    final = final_state(store, [line["job"] for line in told if line.get("kept")])

    verdict = check(told, [final])

    assert verdict.passed, verdict
    # In its first run a parent pushes three, in the second one.
    assert (verdict.follow_ups, verdict.done) == (1 + 3, 4 + 1 + 3)
    assert {status.ending for status in final.statuses.values()} == {Ending.COMPLETED, Ending.NOT_FOUND}
    for job in asked:
        store.run("DEL", f"{store.prefix}outcome:{job}")
    assert len(check(told, [final_state(store, asked)]).wrong) == 2
    (child,) = (line["job"] for line in told if line["what"] == "follow-up" and line["attempt"] == 2)
    without = [line for line in told if line.get("job") != child or line["what"] == "follow-up"]
    assert check(without, [final]).lost == [child]
    store.remove()
    store.close()


def test_only_those_who_listen_lose_their_connections(system: System) -> None:
    fault = KillListeners()
    with redis.Redis.from_url(system.store.url) as client, client.pubsub() as listener:
        before = on_redis(system.store).run("CLIENT", "ID")
        listener.subscribe("a channel")
        assert listener.get_message(timeout=5) is not None

        fault.begin(system)

        assert client.client_list(_type="pubsub") == []
        assert on_redis(system.store).run("CLIENT", "ID") == before
    assert fault.detail == "1 connections"


def test_who_waits_for_a_job_that_has_gone_is_left_behind(module_server: Server) -> None:
    store = RedisStore(module_server.url, f"q-{random.randrange(10**9)}")
    store.run("HSET", f"{store.prefix}waiters", "gone", "a-process")

    assert "1 jobs in waiters" in final_state(store).left
    store.remove()
    store.close()


# Workers that end


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(["redis://127.0.0.1:1/0"], "q", tmp_path, 2.0, random.Random(7))


def tell_end(fleet: Fleet, pid: int, how: str) -> None:
    """What a supervisor tells of a process that ended in no order."""
    events = Events()
    Recording(fleet.directory).listen(events, db=0)
    in_order = how.startswith("stopped")
    events.publish(ProcessEnded("q", "w", ended=pid, in_order=in_order, expected=False, how=how))


@pytest.mark.parametrize(
    "how",
    [
        "ended with code 0",
        "stopped, though its supervisor did not ask for it",
        "was killed by SIGTERM",
        "ended with code 1",
        "was killed by SIGSEGV",
        "was killed by SIGABRT",
        "was killed by SIGKILL",
        "was killed by signal 64",
        "ignored the grace and was killed",
    ],
)
def test_any_end_of_a_supervised_worker_that_no_fault_made_is_complained_of(fleet: Fleet, how: str) -> None:
    tell_end(fleet, 7, how)

    assert fleet.complaints() == [f"worker process 7 {how}"]


@pytest.mark.parametrize(
    ("by", "how"),
    [("fault", "was killed by SIGKILL"), ("poison", "was killed by SIGKILL"), ("poison", "ended with code 1")],
)
def test_a_worker_that_a_fault_or_poison_ended_is_not_complained_of(fleet: Fleet, by: str, how: str) -> None:
    tell_end(fleet, 7, how)
    if by == "fault":
        fleet.victims.add(7)
    else:
        Recording(fleet.directory).write({"what": "start", "pid": 7, "name": "Poison", "at": 1})

    assert fleet.complaints() == []


@pytest.mark.parametrize("asked", [True, False])
def test_a_supervisor_that_was_asked_to_end_as_poison_ended_its_worker_may_fail(fleet: Fleet, asked: bool) -> None:
    supervisor = subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])
    fleet.hosts = [Host(Kind(processes=2), supervisor)]
    Recording(fleet.directory).write({"what": "start", "pid": 7, "name": "Poison", "at": 1})
    Recording(fleet.directory).write(
        {"what": "ProcessEnded", "pid": supervisor.pid, "at": 2, "ended": 7, "how": "ended with code 1"}
        | {"expected": asked, "in_order": False}
    )
    supervisor.wait()

    fleet.tend()

    assert fleet.complaints() == ([] if asked else [f"worker process {supervisor.pid} ended with code 1"])


def test_a_worker_that_was_asked_to_end_before_it_could_listen_is_not_complained_of(fleet: Fleet) -> None:
    supervisor = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    ended = {"what": "ProcessEnded", "pid": supervisor.pid, "at": 1.0, "in_order": False}
    by_it = ended | {"expected": True, "how": "was killed by SIGTERM"}
    others = [
        by_it | {"ended": 8, "pid": supervisor.pid + 1},  # whose supervisor was not asked
        by_it | {"ended": 9, "expected": False},
        by_it | {"ended": 10, "how": "was killed by SIGSEGV"},
    ]

    fleet.stop(Host(Kind(), supervisor))
    supervisor.wait()

    for line in (by_it | {"ended": 7}, *others):
        Recording(fleet.directory).write(line)
    assert fleet.complaints() == [f"worker process {line['ended']} {line['how']}" for line in others]


def test_an_unsupervised_worker_that_ends_in_order_though_no_one_asked_it_is_complained_of(fleet: Fleet) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    fleet.hosts = [Host(Kind(), process)]
    process.wait()

    fleet.tend()

    assert fleet.unasked == [f"worker {process.pid} ended by itself with code 0"]


@pytest.mark.parametrize(
    ("end", "complaint"),
    [
        (signal.SIGKILL, "worker process {pid} was killed by SIGKILL"),
        (signal.SIGSEGV, "worker {pid} ended by itself with code -11"),
    ],
)
def test_an_unsupervised_worker_that_something_else_killed_is_complained_of(
    fleet: Fleet, end: signal.Signals, complaint: str
) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    fleet.hosts = [Host(Kind(), process)]
    process.send_signal(end)
    process.wait()

    fleet.tend()

    assert [*fleet.unasked, *fleet.complaints()] == [complaint.format(pid=process.pid)]
    fleet.victims.add(process.pid)
    assert fleet.complaints() == []


@pytest.mark.parametrize("kind", [PauseQueue, PauseName, HoldJobs])
@pytest.mark.parametrize("how", ["ends", "is undone"])
def test_what_was_stopped_may_start_once_the_fault_is_over(system: System, kind: type[Fault], how: str) -> None:
    fault, queue = kind(), system.store.queue

    fault.begin(system)

    assert fault.happened
    info = queue.control.pauses()
    assert (info.since is not None, [*info.names], info.held) == {
        PauseQueue: (True, [], 0),
        PauseName: (False, ["Work"], 0),
        HoldJobs: (False, [], 6),
    }[kind]
    if how == "ends":
        fault.end(system)
        stops = [note for note in system.notes if note["what"] == "stopped"]
        assert len(stops) == (6 if kind is HoldJobs else 1)
        assert all(stop["since"] < stop["until"] for stop in stops)
    else:
        heal(system)
    info = queue.control.pauses()
    assert (info.since, [*info.names], info.held) == (None, [], 0)


def test_many_lines_wait_until_all_faults_are_over_and_are_cancelled_then(system: System) -> None:
    fault = ManyLines()

    fault.begin(system)
    fault.keep(system)
    fault.end(system)
    system.tend()
    assert fault.happened
    assert system.store.counts().ready[Priority.NORMAL] == len(fault.jobs) == 120
    heal(system)
    system.tend()

    assert system.late == []
    assert system.store.counts().ready[Priority.NORMAL] == 0
    cancelled = {
        note["job"] for note in system.notes if note["what"] == "cancelled" and note["reply"] == "CANCELLED"
    }
    assert cancelled == set(fault.jobs)


# A server that loses its data


@pytest.mark.slow
def test_workers_go_on_after_their_server_has_lost_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_loss, "_TIMES", 1)

    assert data_loss.lose_data(tmp_path / "data-loss", seed=7) == []


def test_a_job_that_was_started_twice_after_the_loss_is_found(system: System, tmp_path: Path) -> None:
    recording = Recording(tmp_path)
    for job in ("twice", "once", "twice"):
        lease = {"pid": 1, "worker": "w", "attempt": 1, "deliveries": 1}
        recording.write({"what": "start", "at": 1.0, "job": job, "db": 0, "name": "Work", **lease})

    wrong = data_loss._judge(tmp_path, system, ["twice", "once", "never"])
    assert wrong == ["twice was started 2 times", "never was started 0 times"]
