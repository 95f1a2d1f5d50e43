"""The torture of a queue on Postgres: its faults do what they say, and it finds what a server may not do."""

import json
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from commands import Commands, report_of
from databases import POSTGRES_ENGINES
from store import eventually
from test_torture import Book, again, book, frozen, pushed, settled, started, tortures

from redisjobs.cli.errors import Mistake
from redisjobs.drivers.postgres import working
from redisjobs.drivers.postgres.calls import Call
from redisjobs.errors import DriverError
from redisjobs.model.changes import Ending, JobStatus
from redisjobs.model.job import State
from redisjobs.sync import JobQueue
from redisjobs_proof.torture import report
from redisjobs_proof.torture.command import Drivers, Topologies, _check
from redisjobs_proof.torture.fleet import postgres_place
from redisjobs_proof.torture.fleet.final import final_state
from redisjobs_proof.torture.fleet.fleet import Fleet
from redisjobs_proof.torture.fleet.jobs import KEPT, Limited, Work
from redisjobs_proof.torture.fleet.migrating import migrate
from redisjobs_proof.torture.fleet.place import Place
from redisjobs_proof.torture.fleet.postgres_store import PostgresStore
from redisjobs_proof.torture.nemesis import POSTGRES_FAULTS
from redisjobs_proof.torture.nemesis.backends import (
    CrashServer,
    FillConnections,
    KillBackends,
    KillEars,
    on_postgres,
)
from redisjobs_proof.torture.nemesis.fault import System
from redisjobs_proof.torture.nemesis.keys import HoldKeys
from redisjobs_proof.torture.nemesis.schema import AddColumn, Maintain, PutRows
from redisjobs_proof.torture.nemesis.sessions import (
    HoldSnapshot,
    IdleAtFence,
    LeaveTransactionOpen,
    LockInDisorder,
    RaiseIsolation,
)
from redisjobs_proof.torture.topology.session import Session

__all__ = ["book", "tortures"]  # fixtures

needs_server = pytest.mark.skipif(not POSTGRES_ENGINES, reason="there is no PostgreSQL")


# What a crash loses


def crash(since: float, until: float) -> dict[str, Any]:
    """A crash in which Postgres may have lost claims, and ends of jobs without a result."""
    times = {"at": until, "began": since, "ended": until, "lingers": 0.0, "reaches": 0.0, "lossy": [since, until]}
    who: dict[str, Any] = {"hits": "", "recovery": "", "pids": [], "jobs": [], "workers": [], "db": None}
    return {"what": "fault", "name": "server killed", "keeps_jobs": True, **times, **who}


def test_a_job_whose_end_did_not_reach_the_disk_may_run_and_end_once_more(book: Book) -> None:
    again = [started("job-d", 2, 104.6), settled("job-d", 2, 104.7)]
    book.lines += [*pushed("job-d", 102), started("job-d", 1, 102.7), settled("job-d", 1, 102.8), *again]
    book.final.totals |= {"pushed": 4, "completed": 3}
    assert not book.verdict().passed

    book.lines.append(crash(102.75, 103.5))
    verdict = book.verdict()

    assert verdict.twice == []
    said = report.text(verdict, "", 1, 1)
    assert "by crashes" in said
    assert " of 1 claimed or ended just before" in said


def test_a_job_with_a_result_ends_once_even_if_the_server_crashes(book: Book) -> None:
    again = [started("job-d", 2, 104.6), settled("job-d", 2, 104.7)]
    book.lines += [*pushed("job-d", 102), started("job-d", 1, 102.3), settled("job-d", 1, 102.8), *again]
    book.final.totals |= {"pushed": 4, "completed": 3}
    for line in book.lines:
        if line.get("job") == "job-d" and line["what"] == "push":
            line["kept"] = True
    book.lines.append(crash(102.75, 103.5))

    assert book.verdict().twice == ["job-d: settlements of w1 and of w2 were accepted"]


def test_a_job_that_a_crash_lost_is_lost(book: Book) -> None:
    book.lines += [*pushed("job-d", 103), crash(102.8, 103.5)]
    book.final.totals["pushed"] = 4

    assert book.verdict().lost == ["job-d"]


@pytest.mark.parametrize("uneven", [True, False])
def test_workers_that_are_not_cut_off_may_fence_others_while_that_fault_lasts(uneven: bool) -> None:
    fault = {"hits": "all", "pids": [], "uneven": uneven, "reaches": 1.0, "name": "connections used up"}
    outage = {**frozen(1, 100.5, 105), "silent": [], "recovery": "workers", **fault}

    causes = again(started("a", 1, 100), started("a", 2, 103.5, 2), outage)

    assert causes == ("connections used up" if uneven else "none")


# The server and its databases


@pytest.fixture(scope="module")
def there() -> Iterator[Place]:
    with postgres_place.place("") as there:
        yield there


@pytest.fixture
def system(there: Place, tmp_path: Path) -> Iterator[System]:
    """What faults can act on: a server with two databases; no workers."""
    fleet = Fleet(there.workers_urls(), there.queue, tmp_path, 2.0, random.Random(7))
    with System(fleet, there.stores, 2.0, there.workers, there.producers, there.own) as system:
        yield system
        system.over = True
        system.tend()
    for store in there.stores:
        store.connect()
        store.remove()


def joined(store: PostgresStore, worker: str) -> None:
    call(store, working.join(worker, 60_000, "run"))


def call(store: PostgresStore, asked: Call[Any]) -> Any:
    store.connect()
    return store._calls.run(asked)


def first(system: System) -> PostgresStore:
    return on_postgres(system.store)


@pytest.mark.slow
@needs_server
class TestStore:
    """The torture's look into a database."""

    def test_the_fleet_connects_as_a_role_that_is_no_superuser(self, there: Place) -> None:
        session = Session(there.stores[0].url)
        rows = session.run("select current_user::text, usesuper from pg_user where usename = current_user")
        session.close()

        assert rows == [("torture", False)]

    def test_a_row_is_put_once_by_its_id_and_a_dead_letter_is_found_by_its_mark(self, system: System) -> None:
        store = first(system)

        assert store.put({"id": "a", "name": "Work", "parameters": "{", "mark": "m"})
        assert not store.put({"id": "a", "name": "Work", "parameters": "{"})
        joined(store, "w")
        leases = call(store, working.read(working.Floors(), "w", 9))
        store.run("update redisjobs.jobs set place = 'dead', worker = null, kind = 'failed' where id = 'a'")
        store.run("""update redisjobs.jobs set extra = extra || '{"reason": "failed", "failed_at": "2000"}'""")

        assert [lease.job_id for lease in leases] == ["a"]
        (letter,) = store.letters().values()
        assert (letter.job, letter.reason, letter.mark, letter.failed_at) == ("a", "failed", "m", 2.0)
        assert store.located().keys() == {"a"}

    def test_what_is_left_over_is_found(self, system: System) -> None:
        store, queue = first(system), system.store.queue.name
        assert final_state(store).left == []

        store.run("insert into redisjobs.uniques values (%s, 'key', 'gone', null)", queue)
        store.run("insert into redisjobs.shares values (%s, 1, 'Limited', '1', 'gone')", queue)
        store.run("insert into redisjobs.waiters values (%s, 'gone', 'process', 0)", queue)
        store.queue.push(Work(1), job_id="waits")

        left = "\n".join(final_state(store).left)
        assert "unique key" not in left  # tidying has deleted it
        for what in (
            "share of a limit, of gone",
            "waits for gone",
            "waits in the locator, at ready",
        ):
            assert what in left

    def test_the_clock_of_all_functions_is_set_and_no_other(self, system: System) -> None:
        store = first(system)
        store.queue.push(Work(1), job_id="later", delay=30)
        joined(store, "w")
        assert call(store, working.read(working.Floors(), "w", 9)) is None

        store.set_clock(40)
        leases = call(store, working.exchange(working.Floors(), "w", None, [], 9, 3, idle=False, now=0)).leases
        store.set_clock(0)

        assert [lease.job_id for lease in leases] == ["later"]
        assert abs(store.time().timestamp() - time.time()) < 5

    def test_two_releases_have_functions_of_their_own_beside_each_other(self, system: System) -> None:
        count = "select count(*) from pg_proc where proname ~ '^exchange_' and prokind = 'f'"
        ((before,),) = first(system).run(count)

        release = system.fleet.release
        system.fleet.migrate(system.store.url, changed := release.changed())
        release.take_functions(changed)
        system.fleet.migrate(system.store.url)
        migrate(system.store.url)

        assert first(system).run(count) == [(before + 1,)]
        unset = "select count(*) from pg_proc where proname ~ '^_(now|clock)_' and prosrc !~ 'redisjobs_torture'"
        assert first(system).run(unset) == [(0,)]


@pytest.mark.slow
@needs_server
class TestFaults:
    """The faults that only Postgres has."""

    def test_all_have_names_of_their_own_and_facts_that_can_be_recorded(self) -> None:
        facts = {kind.name: json.dumps(kind().facts) for kind in POSTGRES_FAULTS}

        assert len(facts) == len(POSTGRES_FAULTS)

    @pytest.mark.parametrize("kind", [KillBackends, KillEars])
    def test_sessions_are_ended_but_not_those_of_the_torture(
        self, system: System, kind: type[KillBackends | KillEars]
    ) -> None:
        other, own = Session(system.store.url), Session(on_postgres(system.store).admin)
        other.run("set application_name = 'another'")
        other.run("listen a_channel")
        system.rng.seed(1)  # KillBackends draws pg_terminate_backend

        kind().begin(system)

        with pytest.raises(DriverError):
            other.run("select 1")
        assert own.run("select 1") == [(1,)]
        for session in (own, other):
            session.close()

    def test_a_killed_server_has_all_jobs_when_it_is_back(self, system: System) -> None:
        job = system.push(Work(1), system.store)
        fault = CrashServer()

        fault.begin(system)
        fault.end(system)

        first(system).connect()
        assert system.store.queue.get(job) is not None
        assert fault.lossy[0] < time.time() < fault.lossy[1] + 30

    def test_while_all_connections_are_taken_only_the_torture_gets_in(self, system: System) -> None:
        fault = FillConnections()

        fault.begin(system)

        assert fault.happened
        with pytest.raises(DriverError), JobQueue(system.store.url, "q", deadline=0.5) as queue:
            queue.control.counts()
        assert first(system).run("select 1") == [(1,)]
        fault.end(system)
        with JobQueue(system.store.url, "q", deadline=5) as queue:
            assert queue.control.counts().running == 0

    def test_a_fence_whose_session_was_ended_for_being_idle_has_not_happened(self, system: System) -> None:
        for store in system.stores:
            for worker in ("w1", "w2"):
                joined(on_postgres(store), worker)
        fault = IdleAtFence()

        fault.begin(system)

        assert fault.happened
        ended = "select count(*) from pg_stat_activity where state = 'idle in transaction'"
        anyio.run(eventually, lambda: first(system).run(ended) == [(0,)])
        for store in system.stores:
            assert store.fenced() == []
            assert call(on_postgres(store), working.read(working.Floors(), "w1", 9)) is None

    def test_a_snapshot_is_held_until_all_faults_are_over(self, system: System) -> None:
        held = "select count(*) from pg_stat_activity where backend_xmin is not null and state ~ 'in transaction'"
        HoldSnapshot().begin(system)
        system.tend()
        assert first(system).run(held) == [(1,)]

        system.over = True
        system.tend()

        anyio.run(eventually, lambda: first(system).run(held) == [(0,)])

    def test_jobs_of_a_transaction_that_is_left_open_count_as_pushed_once_it_commits(self, system: System) -> None:
        rolled_back, seed = True, 0
        while rolled_back:
            system.notes.clear()
            seed += 1
            system.rng.seed(seed)
            fault = LeaveTransactionOpen()
            fault.begin(system)
            assert {note["what"] for note in system.notes} == {"push"}
            system.over = True
            system.tend()
            rolled_back = "rollback" in fault.detail
            assert ("pushed" in {note["what"] for note in system.notes}) is not rolled_back
        added = {note["job"] for note in system.notes if note["what"] == "pushed" and note["added"]}
        found = {
            job for store in system.stores for (job,) in on_postgres(store).run("select id from redisjobs.jobs")
        }
        assert added
        assert added <= found

    def test_isolation_is_raised_for_all_and_then_reset(self, system: System) -> None:
        job = system.push(Work(1), system.store)
        fault = RaiseIsolation()
        default = "select count(*) from pg_db_role_setting where setconfig::text ~ 'serializable'"

        fault.begin(system)
        assert first(system).run(default) == [(1,)]
        fault.store.connect()
        with JobQueue(fault.store.url, fault.store.queue.name, deadline=5) as queue:
            queue.push(Work(1))
        fault.end(system)

        assert first(system).run(default) == [(0,)]
        assert system.store.queue.get(job) is not None

    def test_locks_in_disorder_are_given_back(self, system: System) -> None:
        system.push(Work(1), system.store)
        fault = LockInDisorder()
        fault.begin(system)
        fault.end(system)

        assert fault.detail == "1 rounds, 0 deadlocks"
        assert first(system).run("select count(*) from pg_locks where locktype = 'advisory'") == [(0,)]

    def test_a_column_is_added_and_jobs_are_pushed_and_claimed_as_before(self, system: System) -> None:
        store = first(system)
        joined(store, "w")
        fault = AddColumn()

        while not fault.happened or fault.store is not store:
            fault = AddColumn()
            fault.begin(system)

        job = system.push(Work(1), store, keep_result=KEPT)
        assert [lease.job_id for lease in call(store, working.read(working.Floors(), "w", 9))] == [job]

    def test_maintenance_leaves_no_invalid_index(self, system: System) -> None:
        fault = Maintain()
        fault.begin(system)
        while fault.left:
            fault.keep(system)
        fault.end(system)

        assert fault.store.run("select count(*) from pg_index where not indisvalid") == [(0,)]
        assert system.push(Limited(1, 0.1), fault.store)

    def test_rows_that_no_push_has_added_are_there_for_workers_and_for_operators(self, system: System) -> None:
        fault = PutRows()

        fault.begin(system)

        found = [info.job_id for store in system.stores for info in store.queue.control.jobs(State.READY)]
        assert len(fault.jobs) >= 6
        assert {*fault.jobs} == {*found}

    def test_keys_are_held_until_the_fault_ends_and_a_push_of_another_job_beside_them_is_answered(
        self, system: System
    ) -> None:
        fault = HoldKeys()

        fault.begin(system)
        fault.keep(system)
        with pytest.raises(DriverError), JobQueue(fault.store.url, fault.store.queue.name, deadline=0.5) as queue:
            queue.push(Work(1), unique=fault.left[0])
        fault.end(system)

        anyio.run(eventually, lambda: not fault.side.thread.is_alive())
        assert fault.side.found == []
        assert fault.store.queue.push(Work(1), unique=fault.left[1]).added  # the first push may have come late


# How clients reach a server


@pytest.mark.slow
@needs_server
@pytest.mark.parametrize(
    "topology",
    [
        "unix-socket",
        pytest.param(
            "pgbouncer",
            marks=pytest.mark.skipif(not shutil.which("pgbouncer"), reason="apt-get install pgbouncer"),
        ),
    ],
)
def test_workers_and_producers_come_by_the_topology_that_is_asked_for(topology: str) -> None:
    with postgres_place.place("", topology=topology) as there:
        with JobQueue(there.producers_urls()[0], there.queue) as queue:
            queue.push(Work(1), job_id="a")

        assert there.stores[0].queue.get("a") is not None
        assert ("/?host=" in there.workers_urls()[0].replace("torture_0", "")) is (topology == "unix-socket")


@pytest.mark.slow
@needs_server
def test_what_does_not_reach_a_standby_is_lost_when_it_is_promoted_and_another_one_follows_it() -> None:
    with postgres_place.place("", topology="standby") as there:
        store, pair = there.stores[0], there.pair
        assert pair is not None
        store.queue.push(Work(1), job_id="a")
        pair.lag()
        store.queue.push(Work(1), job_id="b")

        pair.fail_over()

        store.connect()
        assert (store.queue.get("a") is not None, store.queue.get("b")) == (True, None)
        pair.add_standby()
        with JobQueue(there.workers_urls()[0], there.queue) as queue:
            assert queue.push(Work(1), job_id="b").added


def test_a_result_of_another_job_is_never_excused_by_what_was_lost(book: Book) -> None:
    book.final.statuses["a"] = JobStatus(Ending.COMPLETED, value=b'{"job": "b"}')
    for line in book.lines:
        if line.get("job") == "a" and line["what"] == "push":
            line["kept"] = True
    book.lines.append({**crash(100, 110), "keeps_jobs": False})

    verdict = book.verdict()

    assert verdict.wrong == ["mixed up: the result of a (Work) is {'job': 'b'}"]


@pytest.mark.parametrize("excused", [True, False])
def test_a_settlement_by_a_non_owner_is_excused_only_where_the_other_run_began_in_what_was_lost(
    book: Book, excused: bool
) -> None:
    runs = [started("job-d", 1, 102.1), started("job-d", 2, 104.6, 2), settled("job-d", 1, 104.7)]
    book.lines += [*pushed("job-d", 102), *runs]
    book.lines.append({**crash(104.5 if excused else 104.65, 105), "keeps_jobs": False})

    assert bool(book.verdict().stolen) is not excused


# The command


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ("", Drivers.POSTGRES, "", Topologies.CLUSTER),
            "--driver postgres has no topology 'cluster'; it has: one",
        ),
        (("", Drivers.REDIS, "", Topologies.STANDBY), "--driver redis has no topology 'standby'"),
        (("postgresql://h/db", Drivers.POSTGRES, "", Topologies.STANDBY), "--topology starts servers of its own"),
        (("", Drivers.REDIS, "postgres", Topologies.ONE), "--server is a program to start for --driver postgres"),
        (("", Drivers.POSTGRES, "mysql", Topologies.ONE), "there is no server 'mysql'; there are: postgres"),
        (("postgresql://h/db?sslmod=a", Drivers.POSTGRES, "", Topologies.ONE), "sslmod"),
    ],
)
def test_options_that_can_not_be_together_are_refused(options: Any, says: str) -> None:
    with pytest.raises(Mistake, match=says):
        _check(*options)


@pytest.mark.slow
@pytest.mark.timeout(170)
@needs_server
def test_faults_of_postgres_lose_nothing(tortures: Commands, tmp_path: Path) -> None:
    kinds = [
        "worker killed",
        "server killed",
        "backends terminated",
        "deadlocks",
        "two releases",
        "idle at a fence",
    ]
    named = [word for kind in kinds for word in ("--fault", kind)]

    file = tmp_path / "report.json"
    torture = tortures.start("--driver", "postgres", "--minutes", 0.05, "--seed", 7, "--json", file, *named)
    told = report_of(torture, file, 160)

    assert told["faults"].keys() == {*kinds}
    assert tortures.left() == {}
