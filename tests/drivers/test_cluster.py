"""A cluster's nodes fail, and slots move, while everything of a queue is in flight."""

import itertools
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import anyio
import anyio.to_thread
import pytest
from redis.asyncio.cluster import RedisCluster
from store import eventually
from test_lua import without_comments
from traffic import Step, Traffic, longest_gap

import redisjobs.sync
from conftest import ENGINES, ENGINES_FOR_A_RELEASE
from redisjobs import JobContext, JobQueue, Worker
from redisjobs.drivers.redis import scripts
from redisjobs.drivers.redis.locator import slot_of
from redisjobs.errors import Unavailable
from redisjobs.local import server
from redisjobs_proof.torture.proxy import HOST, Proxy
from redisjobs_proof.torture.topology import (
    Cluster,
    ask,
    begin_move,
    end_move,
    is_in_step,
    move_at_once,
    replication,
    until,
)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture(scope="module", params=ENGINES_FOR_A_RELEASE)
def nodes(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster of each server at hand, for this module only."""
    with Cluster(server.inspect(ENGINES[request.param])) as nodes:
        yield nodes


@pytest.fixture
def whole(nodes: Cluster) -> Cluster:
    """The cluster, made whole again if an earlier test has left a fault."""
    make_whole(nodes)
    return nodes


def make_whole(cluster: Cluster) -> None:
    """Start the nodes that are down, and wait until each primary has a replica in step."""
    for each in cluster.servers:
        if each._process.poll() is not None:
            each.restart()
    for each in cluster.servers:
        ask(each, "CONFIG", "SET", "cluster-require-full-coverage", "yes")  # the default
    until(lambda: sum(replication(each)["role"] == "master" for each in cluster.servers) == 3, "three primaries")
    until(lambda: sum(is_in_step(each) for each in cluster.servers) == 3, "three replicas are in step")
    until(lambda: len({owner for owner, _ in owners(cluster)}) == 1, "the nodes agree")


def owners(cluster: Cluster) -> list[tuple[str, bool]]:
    """Return what each node says who owns the slots, and whether it takes commands."""
    return [
        (str(ask(each, "CLUSTER", "SLOTS")), b"cluster_state:ok" in ask(each, "CLUSTER", "INFO"))
        for each in cluster.servers
    ]


# The faults


class Faults:
    """Faults of the node that owns a queue's slot."""

    def __init__(self, cluster: Cluster, queue_name: str) -> None:
        self.cluster, self.slot = cluster, slot_of(queue_name)
        self.owner = cluster.owner(queue_name)
        self.queue_name = queue_name
        self.unsent = (0.0, 0.0)
        """When the owner stopped without a word to its replica, and when that had taken over."""

    def fail_over(self) -> None:
        """A replica takes over, and the primary lives."""
        ask(self.cluster.replicas_of(self.owner)[0], "CLUSTER", "FAILOVER")
        self.has_left()

    def kill(self) -> None:
        stopped = time.monotonic()
        self.owner.kill()
        self.has_left()
        self.unsent = stopped, time.monotonic()

    def freeze(self) -> None:
        """The primary stands still until a replica has taken over, and a second longer."""
        stopped = time.monotonic()
        os.kill(self.owner.pid, signal.SIGSTOP)
        try:
            self.has_left()
            self.unsent = stopped, time.monotonic()
            time.sleep(1)
        finally:
            os.kill(self.owner.pid, signal.SIGCONT)

    def move(self) -> None:
        """Another primary gets the slot, key by key."""
        self.end_move(self.begin_move())

    def move_at_once(self) -> None:
        """Another primary gets the slot in one step."""
        move_at_once(self.slot, self.owner, self.cluster.another_primary(self.owner))
        self.has_left()

    def fail_over_without_scripts(self) -> None:
        """A replica takes over that knows no script, and forgets those that it has got meanwhile."""
        self.fail_over()
        ask(self.cluster.owner(self.queue_name), "SCRIPT", "FLUSH")

    def begin_move(self) -> server.Server:
        """Let the slot be on its way, with all keys where they were; return the primary that gets it."""
        to = self.cluster.another_primary(self.owner)
        begin_move(self.slot, self.owner, to)
        return to

    def end_move(self, to: server.Server) -> None:
        """Move the keys, and give the slot away."""
        end_move(self.slot, self.owner, to)
        self.has_left()

    def has_left(self) -> None:
        """Wait until the nodes that answer agree that another one owns the slot."""
        others = [each for each in self.cluster.servers if each is not self.owner]
        until(
            lambda: all(_owner_by(each, self.slot) != self.owner.port for each in others),
            "another one owns the slot",
        )


def _owner_by(one: server.Server, slot: int) -> int:
    for begin, end, owner, *_ in ask(one, "CLUSTER", "SLOTS"):
        if begin <= slot <= end:
            return int(owner[1])
    raise LookupError(slot)


def clients_of(one: server.Server) -> int:
    """Return how many clients are connected to a server, besides the one that asks."""
    both = [ask(one, "CLIENT", "LIST", "TYPE", kind).decode().splitlines() for kind in ("NORMAL", "PUBSUB")]
    # A server that has moved keys by MIGRATE keeps its connection for 10 s.
    return len([line for lines in both for line in lines if "cmd=restore" not in line]) - 1


def is_read_by(one: server.Server, workers: int) -> bool:
    """Whether this number of workers wait for jobs at a server."""
    return f"blocked_clients:{workers}\r" in ask(one, "INFO", "clients").decode()


FAULTS: dict[str, tuple[Callable[[Faults], None], float]] = {
    "failover": (Faults.fail_over, 2),
    "kill": (Faults.kill, 6),
    "freeze": (Faults.freeze, 9),
    "move": (Faults.move, 2),
    "atomic move": (Faults.move_at_once, 2),
    "script flush": (Faults.fail_over_without_scripts, 2),
}
"""Each fault, and the seconds within which jobs run again."""


@pytest.mark.parametrize("fault", FAULTS)
async def test_everything_in_flight_stands_a_fault(whole: Cluster, queue_name: str, fault: str) -> None:
    strike, within = FAULTS[fault]
    if fault == "atomic move" and "migrateslots" not in str(ask(whole.servers[0], "CLUSTER", "HELP")).lower():
        pytest.skip("this server moves slots key by key only")
    traffic, faults = Traffic(whole.url, queue_name), Faults(whole, queue_name)
    seen = traffic.seen
    async with traffic.flowing():
        began = time.monotonic()
        await anyio.to_thread.run_sync(strike, faults)
        seen.unsent, struck = faults.unsent, time.monotonic()
        await eventually(lambda: seen.has_ticked(struck) and seen.runs_again(struck), within=within + 5)
        waited, watched = seen.waited, seen.watched
        await eventually(lambda: seen.waited > waited + 3 and seen.watched > watched, within=within + 5)
        ended = time.monotonic()
        if fault != "kill":
            await anyio.to_thread.run_sync(
                until, lambda: clients_of(faults.owner) == 0, "no client is at the old owner"
            )

    print(f"{fault}: fault {struck - began:.2f} s, {seen.told(began, ended)}")
    assert seen.wrong == []
    assert seen.gap(began, ended) < within


# Frozen, and cut off


async def test_idle_workers_leave_a_frozen_primary(whole: Cluster, queue_name: str) -> None:
    faults, ran = Faults(whole, queue_name), list[str]()
    queues = [JobQueue(whole.url, queue_name) for _ in range(3)]  # each finds the primary by itself
    async with anyio.create_task_group() as tasks:
        for queue in queues[1:]:

            @queue.register(Step)
            async def step(job: Step, context: JobContext) -> None:
                ran.append(context.job_id)

            tasks.start_soon(Worker(queue, schedules=False).run)
        job = await queues[0].push(Step())
        await eventually(lambda: ran)
        await anyio.to_thread.run_sync(
            until, lambda: is_read_by(faults.owner, 2), "both workers wait in blocking reads"
        )
        began = time.monotonic()
        os.kill(faults.owner.pid, signal.SIGSTOP)
        tasks.start_soon(anyio.to_thread.run_sync, faults.freeze)
        job = await queues[0].push(Step())
        await eventually(lambda: job.id in ran, within=15)
        gap = time.monotonic() - began
        tasks.cancel_scope.cancel()
    for queue in queues:
        await queue.aclose()
    print(f"idle workers, freeze: gap {gap:.2f} s")
    assert gap < 6


async def test_what_a_replaced_primary_answers_when_it_wakes_up_does_not_count(
    whole: Cluster, queue_name: str
) -> None:
    faults = Faults(whole, queue_name)
    jobs: dict[str, str] = {}
    async with JobQueue(whole.url, queue_name) as queue:
        with redisjobs.sync.JobQueue(whole.url, queue_name) as producer:

            async def push(name: str) -> None:
                if name == "async":
                    jobs[name] = (await queue.push(Step())).id
                else:
                    jobs[name] = (await anyio.to_thread.run_sync(producer.push, Step())).id

            for name in ("async", "sync"):
                await push(name)
            os.kill(faults.owner.pid, signal.SIGSTOP)
            try:
                async with anyio.create_task_group() as tasks:
                    await anyio.sleep(
                        0.3
                    )  # a replica takes over within the time-out of what is sent now, and 0.5 s later
                    for name in ("async", "sync"):
                        tasks.start_soon(push, name)
                    await anyio.to_thread.run_sync(faults.has_left)
                    os.kill(faults.owner.pid, signal.SIGCONT)
            finally:
                os.kill(faults.owner.pid, signal.SIGCONT)
        for name, job_id in jobs.items():
            assert await queue.get(job_id), f"the {name} push was lost"


def reached_through(proxies: Mapping[int, Proxy]) -> Any:
    """Return a client that reaches each node of a cluster, by its port, through a proxy."""
    first = next(iter(proxies.values()))
    return RedisCluster(host=HOST, port=first.port, address_remap=lambda at: (HOST, proxies[at[1]].port))


async def test_a_node_that_clients_cannot_reach_for_a_while(whole: Cluster, queue_name: str) -> None:
    with ExitStack() as stack:
        proxies = {each.port: stack.enter_context(Proxy(HOST, each.port)) for each in whole.servers}
        traffic = Traffic(reached_through(proxies), queue_name)
        seen, proxy = traffic.seen, proxies[whole.owner(queue_name).port]
        async with traffic.flowing():
            began = time.monotonic()
            proxy.black_hole(True)
            await anyio.sleep(2.5)  # longer than a call waits for an answer
            proxy.black_hole(False)
            proxy.drop_all()
            over = time.monotonic()
            await eventually(lambda: seen.runs_again(over), within=10)
            ended = time.monotonic()
    print(f"cut off for {over - began:.1f} s: {seen.told(began, ended)}")
    assert seen.wrong == []


# A slot that is on its way

DELETE_NOTHING = {"declare", "retain", "hold"}
"""Scripts that all their keys may be there for. If they are, these run whole: no key goes away while they run."""


def test_while_a_slot_moves_each_script_that_writes_is_refused_whole(whole: Cluster, queue_name: str) -> None:
    faults = Faults(whole, queue_name)
    prefix = f"redisjobs:{{{queue_name}}}:"
    written = [
        each for each in map(scripts.script, scripts.names()) if "no-writes" not in each.source.split("\n")[0]
    ]
    may_exist = {
        each.name: [key for key in each.keys if not key.endswith(":") and key != "control"] for each in written
    }
    for key in {key for keys in may_exist.values() for key in keys}:
        ask(faults.owner, "SET", prefix + key, "there")
    to = faults.begin_move()

    for script in written:
        missing = ["missing"] if script.name in DELETE_NOTHING else []
        keys = [prefix + key for key in (*script.keys, *missing)]
        with pytest.raises(Unavailable, match=r"TryAgain|Ask"):
            ask(faults.owner, "EVAL", script.source, str(len(keys)), *keys)
    faults.end_move(to)

    assert {
        name for name, keys in may_exist.items() if len(keys) == len(scripts.script(name).keys)
    } == DELETE_NOTHING
    for name in DELETE_NOTHING:
        assert not re.search(r"DEL|REM|UNLINK|EXPIRE|RENAME", without_comments(scripts.script(name).source))


async def test_a_move_that_lasts_longer_than_a_lease_costs_no_job(whole: Cluster, queue_name: str) -> None:
    lease = 1.0
    traffic, faults = Traffic(whole.url, queue_name, lease=lease), Faults(whole, queue_name)
    seen = traffic.seen
    async with traffic.flowing():
        began = time.monotonic()
        to = await anyio.to_thread.run_sync(faults.begin_move)
        await anyio.sleep(2 * lease)
        await anyio.to_thread.run_sync(faults.end_move, to)
        over = time.monotonic()
        await eventually(lambda: seen.runs_again(over), within=10)
        ended = time.monotonic()
    print(f"move of {over - began:.1f} s, lease {lease:g} s: {seen.told(began, ended)}")
    assert seen.wrong == []
    assert not seen.ran_twice


# Several nodes


def on_each_primary(cluster: Cluster, queue_name: str) -> list[str]:
    """Return names of queues, each on another node."""
    found: dict[int, str] = {}
    for number in itertools.count():
        found.setdefault(cluster.owner(name := f"{queue_name}-{number}").port, name)
        if len(found) == 3:
            return list(found.values())
    raise AssertionError


def counting(queue: JobQueue, starts: list[float]) -> JobQueue:
    @queue.register(Step)
    async def step(job: Step, context: JobContext) -> None:
        starts.append(time.monotonic())

    return queue


async def test_queues_of_one_worker_go_on_while_the_node_of_another_one_is_down(
    whole: Cluster, queue_name: str
) -> None:
    names = on_each_primary(whole, queue_name)
    starts: dict[str, list[float]] = {name: [] for name in names}
    errors: list[Exception] = []
    served = [counting(JobQueue(whole.url, name), starts[name]) for name in names]
    fed = [JobQueue(whole.url, name) for name in names]
    for each in whole.servers:  # else all slots are refused while one is without a primary
        ask(each, "CONFIG", "SET", "cluster-require-full-coverage", "no")

    async def produce(queue: JobQueue) -> None:
        while True:
            try:
                await queue.push(Step())
            except Exception as error:
                errors.append(error)
            await anyio.sleep(0.02)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Worker(served, schedules=False).run)
        for queue in fed:
            tasks.start_soon(produce, queue)
        await eventually(lambda: all(len(times) > 20 for times in starts.values()))
        hearts = [thread for thread in threading.enumerate() if thread.name == "redisjobs heartbeat"]
        began = time.monotonic()
        await anyio.to_thread.run_sync(Faults(whole, names[0]).kill)
        over = time.monotonic()
        await eventually(lambda: all(times[-1] > over + 0.5 for times in starts.values()), within=10)
        ended = time.monotonic()
        tasks.cancel_scope.cancel()
    for queue in (*served, *fed):
        await queue.aclose()
    gaps = [longest_gap(times, began, ended) for times in starts.values()]
    print("three queues, one node killed: gaps", *(f"{gap:.2f}" for gap in gaps))
    assert (errors, len(hearts)) == ([], 3)
    assert max(gaps[1:]) < 1
