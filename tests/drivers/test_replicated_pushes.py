"""Pushes that wait for replicas: the server is full, refuses to wait, or has none. See also test_sentinels."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import pytest
from redis import exceptions as redis_errors
from store import RedisStore, documented_rule

from redisjobs import DriverError
from redisjobs.drivers.redis.commands import Command, Commands
from redisjobs.errors import QueueFull, Unavailable
from redisjobs.local import server
from redisjobs.model.job import Priority
from redisjobs.sync import JobQueue
from redisjobs_proof.torture.topology import ask, is_in_step, until


@dataclass
class Carry:
    job_name: ClassVar[str] = "Carry"
    text: str = ""


@pytest.fixture
def pair() -> Iterator[tuple[server.Server, server.Server]]:
    """A primary and its replica."""
    with (
        server.start(options=["--repl-diskless-sync-delay", "0", "--shutdown-timeout", "0"]) as primary,
        server.start(options=["--replicaof", f"{server.HOST} {primary.port}"]) as replica,
    ):
        until(lambda: is_in_step(replica), "the replica is in step")
        yield primary, replica
        replica.kill()  # it may take seconds to stop in order


def test_a_push_that_fills_the_server_up_is_no_refused_one(
    pair: tuple[server.Server, server.Server], queue_name: str
) -> None:
    primary, _ = pair
    with JobQueue(primary.url, queue_name) as queue:
        queue.push(Carry(), replicas=1)
        used = int(ask(primary, "INFO", "memory").decode().split("used_memory:")[1].split()[0])
        ask(primary, "CONFIG", "SET", "maxmemory", str(used + 200_000))
        pushed = list[str]()
        with pytest.raises(QueueFull) as caught:
            pushed.extend(queue.push(Carry("x" * 5_000), replicas=1).id for _ in range(1000))
        ask(primary, "CONFIG", "SET", "maxmemory", "0")
        (refused,) = caught.value.jobs
        assert pushed
        assert queue.get(refused.job_id) is None
        assert queue.control.counts().ready[Priority.NORMAL] == 1 + len(pushed)


def test_a_push_that_adds_nothing_waits_for_what_another_connection_has_written(
    pair: tuple[server.Server, server.Server], queue_name: str
) -> None:
    primary, replica = pair
    with JobQueue(primary.url, queue_name) as queue, JobQueue(primary.url, queue_name, deadline=0.5) as other:
        queue.push(Carry(), replicas=1)  # of a replica that is in step, the first answer may come a second later
        other.push(Carry(), replicas=1)
        os.kill(replica.pid, signal.SIGSTOP)
        try:
            assert queue.push(Carry(), job_id="mine").added
            with pytest.raises(Unavailable):
                other.push(Carry(), job_id="mine", replicas=1)
        finally:
            os.kill(replica.pid, signal.SIGCONT)
        assert not queue.push(Carry(), job_id="mine", replicas=1).added


def test_where_wait_is_refused_the_error_says_that_the_push_is_done(redis_store: RedisStore) -> None:
    store, rule = redis_store, documented_rule("producer", redis_store.queue_name)
    store.admin.execute_command("ACL", "SETUSER", store.user, "reset", "on", ">p", *rule)
    url = f"redis://{store.user}:p@{store.url.rpartition('@')[2]}"
    with JobQueue(url, store.queue_name, deadline=0.3) as queue:
        with pytest.raises(DriverError, match=r"the push is done, .* \+wait") as caught:
            queue.push(Carry(), replicas=1)
        assert store.admin.hkeys(f"{store.prefix}jobs") == [caught.value.jobs[0].job_id.encode()]
        store.admin.execute_command("ACL", "SETUSER", store.user, "+wait")
        with pytest.raises(Unavailable, match=r"may or may not be on the queue"):
            queue.push_many(caught.value.jobs)
    assert store.admin.hlen(f"{store.prefix}jobs") == 1


def test_without_replicas_jobs_are_on_the_queue_when_the_push_fails(redis_store: RedisStore) -> None:
    """Also those of the call that need no replica. The first round trip, which adds nothing, waits for none."""
    redis_store.admin.execute_command("ACL", "SETUSER", redis_store.user, "+wait")
    with JobQueue(redis_store.url, redis_store.queue_name, deadline=0.3) as queue:
        jobs = [queue.prepare(Carry(), replicas=1), queue.prepare(Carry())]
        with pytest.raises(Unavailable) as caught:
            queue.push_many(jobs)
        assert [*caught.value.jobs] == jobs
        assert queue.control.counts().ready[Priority.NORMAL] == 2
    with JobQueue("memory://", redis_store.queue_name) as queue:
        assert queue.push(Carry(), replicas=500).added


def test_a_wait_is_asked_for_again_after_a_script_that_was_missing() -> None:
    push: Command[bytes] = Command(["EVALSHA"])
    wait = Command(["WAIT", "1", "1000"], int, looks_back=True)
    steps = Commands("q").healing([push, wait], [redis_errors.NoScriptError(), 1])
    assert next(steps) == [push.wire, wait.wire]
    with pytest.raises(StopIteration) as ended:
        steps.send([b"OK", 0])
    assert ended.value.value == [b"OK", 0]
