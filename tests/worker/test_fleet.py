"""Producers and workers in processes of their own, over a real server, and what kills them."""

import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from fleet import Fleet
from store import RedisStore, eventually

from redisjobs.local import server
from redisjobs.model.job import State
from redisjobs_proof.torture.proxy import Proxy

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_three_ways_to_push_and_two_workers_run_every_job_once(
    fleet: Fleet, redis_store: RedisStore
) -> None:
    sync_code = """
import os
from app import Work
from redisjobs.sync import JobQueue
with JobQueue(os.environ["REDISJOBS_URL"], os.environ["QUEUE"]) as queue:
    for n in range(20): queue.push(Work(f"sync-{n}"))
"""
    async_code = """
from app import *
async def main():
    async with queue:
        for n in range(20): await queue.push(Work(f"async-{n}"), delay=0.1 if n % 2 else None)
asyncio.run(main())
"""
    workers = [fleet.worker(name) for name in ("one", "two")]
    await fleet.at_work("one", "two")
    producers = [fleet.python(sync_code), fleet.python(async_code)]
    for n in range(20):
        push_with_redis_cli(redis_store, f"hand-{n}")

    assert [producer.wait(20) for producer in producers] == [0, 0]
    await eventually(lambda: sum(fleet.labels("end").values()) >= 60, within=20)
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
    assert [worker.wait(20) for worker in workers] == [0, 0]

    expected = {f"{way}-{n}" for way in ("sync", "async", "hand") for n in range(20)}
    assert fleet.labels("start") == dict.fromkeys(expected, 1)
    assert {worker for _, worker, *_ in fleet.recording("end")} == {"one", "two"}
    assert redis_store.admin.xlen(redis_store.stream()) == 0
    assert redis_store.pending() == []
    assert redis_store.located() == {}


def push_with_redis_cli(store: RedisStore, label: str) -> None:
    """Push with redis-cli, or with the same words over a bare connection if it is not installed."""
    words = ["XADD", f"{store.prefix}inbox", "*", "name", "Work", "parameters", f'{{"label": "{label}"}}']
    if shutil.which("redis-cli"):
        done = subprocess.run(
            ["redis-cli", "-u", store.url, "--no-auth-warning", *words], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "-" in done.stdout, done.stdout
    else:
        store.admin.execute_command(*words)


async def test_the_jobs_of_a_killed_worker_run_again_elsewhere(fleet: Fleet, redis_store: RedisStore) -> None:
    victim = fleet.worker("victim", lease=1)
    fleet.push("a", "b", "c", seconds=1)
    await eventually(lambda: len(fleet.labels("start")) == 3, within=20)

    victim.kill()
    fleet.worker("heir", lease=1)

    await eventually(lambda: fleet.labels("end").keys() == {"a", "b", "c"}, within=20)
    await eventually(lambda: redis_store.located() == {})
    heirs = [line for line in fleet.recording("start") if line[1] == "heir"]
    assert sorted(label for label, *_ in heirs) == ["a", "b", "c"]
    assert {(attempt, deliveries) for _, _, attempt, deliveries in heirs} == {("1", "2")}


async def test_a_job_that_kills_its_workers_is_a_dead_letter_after_three_deliveries(fleet: Fleet) -> None:
    fleet.push("killer")
    for number in range(1, 4):
        worker = fleet.worker(f"w{number}", lease=0.4)
        assert worker.wait(20) == -signal.SIGKILL
    fleet.worker("survivor", lease=0.4)
    fleet.push("good")

    await eventually(lambda: fleet.queue.control.jobs(State.DEAD), within=20)
    (dead,) = fleet.queue.control.jobs(State.DEAD)
    await eventually(lambda: fleet.labels("end") == {"good": 1}, within=20)

    assert fleet.labels("start")["killer"] == 3
    assert (dead.reason, dead.deliveries) == ("worker lost", 3)


async def test_a_stopped_process_hands_its_jobs_over_at_once_and_exits_0(fleet: Fleet) -> None:
    leaver = fleet.worker("leaver", grace=0)
    fleet.push("a", "b", seconds=600)
    await eventually(lambda: len(fleet.labels("start")) == 2, within=20)
    fleet.worker("stayer")
    await fleet.at_work("stayer")

    leaver.send_signal(signal.SIGTERM)

    await eventually(lambda: len(fleet.recording("start")) == 4)  # the lease lasts 15 s
    assert leaver.wait(10) == 0
    assert [line[1:] for line in fleet.recording("start")[2:]] == [["stayer", "1", "1"]] * 2


async def test_a_frozen_worker_that_wakes_after_its_lease_settles_nothing(
    fleet: Fleet, redis_store: RedisStore
) -> None:
    frozen = fleet.worker("frozen", lease=0.6)
    fleet.push("a", seconds=1.5)
    await eventually(lambda: fleet.labels("start") == {"a": 1}, within=20)
    frozen.send_signal(signal.SIGSTOP)
    fleet.worker("other", lease=0.6)
    await eventually(lambda: len(fleet.recording("start")) == 2, within=20)

    frozen.send_signal(signal.SIGCONT)

    await eventually(lambda: ["a", "other", "1", "2"] in fleet.recording("end"), within=20)
    await eventually(lambda: redis_store.located() == {})
    assert fleet.queue.control.counts().totals["completed"] == 1
    await eventually(lambda: b"lease was lost" in (fleet.folder / "log").read_bytes())


async def test_a_frozen_worker_that_wakes_settles_nothing_of_its_successor_of_the_same_name(
    fleet: Fleet, redis_store: RedisStore
) -> None:
    frozen = fleet.worker("web-0", lease=0.6)
    fleet.push("a", seconds=1.5)
    await eventually(lambda: fleet.labels("start") == {"a": 1}, within=20)
    frozen.send_signal(signal.SIGSTOP)
    fleet.worker("web-0", lease=0.6)
    await eventually(lambda: len(fleet.recording("start")) == 2, within=20)

    frozen.send_signal(signal.SIGCONT)

    await eventually(lambda: ["a", "web-0", "1", "2"] in fleet.recording("end"), within=20)
    await eventually(lambda: redis_store.located() == {})
    assert fleet.queue.control.counts().totals["completed"] == 1
    await eventually(lambda: b"lease was lost" in (fleet.folder / "log").read_bytes())


async def test_a_worker_survives_a_restart_of_its_server(tmp_path: Path, queue_name: str) -> None:
    with server.start() as own:
        fleet = Fleet(tmp_path, own.url, queue_name)
        try:
            fleet.worker("w", lease=2)
            fleet.push("before", "during", seconds=0.5)
            await eventually(lambda: len(fleet.labels("start")) == 2, within=20)

            own.kill()
            own.restart()
            fleet.push("after")

            await eventually(lambda: fleet.labels("end").keys() == {"before", "during", "after"}, within=20)
            await eventually(lambda: fleet.queue.control.counts().totals.get("completed") == 3)
        finally:
            fleet.end()


async def test_a_worker_whose_every_connection_is_killed_works_on(fleet: Fleet, redis_store: RedisStore) -> None:
    fleet.worker("w", lease=2)
    fleet.push("before", seconds=1)
    await eventually(lambda: fleet.labels("start") == {"before": 1}, within=20)

    def listeners() -> int:
        return int(redis_store.admin.pubsub_numsub(f"{redis_store.prefix}control:0")[0][1])

    await eventually(listeners)
    for _ in range(3):
        redis_store.admin.execute_command("CLIENT", "KILL", "USER", redis_store.user)
    fleet.push("after")

    await eventually(lambda: fleet.labels("end").keys() == {"before", "after"}, within=20)
    await eventually(listeners)
    assert fleet.processes[0].poll() is None
    assert fleet.labels("start") == {"before": 1, "after": 1}


@pytest.mark.parametrize("reply_bytes", [0, 1, 20, 150])
async def test_a_claim_whose_reply_is_lost_loses_no_job(
    tmp_path: Path, redis_store: RedisStore, redis_url: str, reply_bytes: int
) -> None:
    host, port = redis_url.rpartition("/")[0].removeprefix("redis://").rpartition("@")[2].split(":")
    with Proxy(host, int(port)) as proxy:
        url = redis_store.url.replace(f"@{host}:{port}", f"@127.0.0.1:{proxy.port}")
        fleet = Fleet(tmp_path, url, redis_store.queue_name)
        try:
            fleet.worker("w")
            await fleet.at_work("w")
            proxy.cut_after_reply_bytes(reply_bytes, b"XREADGROUP")
            for label in "ab":
                redis_store.put({"name": "Work", "parameters": f'{{"label": "{label}"}}'})

            await eventually(lambda: fleet.labels("end").keys() == {"a", "b"}, within=20)
            await eventually(lambda: redis_store.located() == {} and redis_store.pending() == [])
            assert fleet.labels("start") == {"a": 1, "b": 1}
        finally:
            fleet.end()
