"""What has been saved survives: a worker that is killed, fenced or stopped, and a server that is away."""

import os
import signal
import sys
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from each_setting import store as store
from fleet import Fleet
from results import drain
from step_handlers import Bench
from store import RedisStore, Store, eventually, inherit

from redisjobs import JobQueue, State, Worker, no_retry
from redisjobs.model.steps import GetSteps
from redisjobs.model.transitions import Ack
from redisjobs_proof.torture.proxy import Proxy

pytestmark = pytest.mark.anyio

WORKER = """
import asyncio, os, sys
from pathlib import Path
sys.path.insert(0, os.environ["TESTS"])
from step_handlers import handled
from redisjobs import JobQueue, Worker

queue = handled(JobQueue(os.environ["REDISJOBS_URL"], os.environ["QUEUE"]), sys.argv[1])
if __name__ == "__main__":
    asyncio.run(Worker(queue, lease=0.6).run(handle_signals=True))
"""


async def keys(queue: JobQueue, job_id: str) -> list[str]:
    """The keys of all saved steps."""
    (steps,) = await queue.driver.read(GetSteps([job_id]))
    assert steps is not None
    return [*steps.saved]


async def test_a_worker_that_is_stopped_between_steps_hands_the_job_back_and_the_next_run_finds_them(
    bench: Bench,
) -> None:
    job_id = await bench.push(["step", "charge"], ["await file", "go"], ["step", "mail"])
    with anyio.fail_after(40):
        async with anyio.create_task_group() as tasks:
            worker = Worker(bench.queue)
            tasks.start_soon(worker.run)
            await eventually(lambda: bench.calls("go"), within=20)
            worker.stop_now()
    assert await keys(bench.queue, job_id) == ["charge"]
    info = await bench.queue.get(job_id)
    assert info is not None
    assert (info.state, info.attempt, info.deliveries) == (State.READY, 1, 0)

    bench.go("go")
    await drain(bench.queue)
    assert (bench.calls("charge"), bench.calls("mail")) == (1, 1)
    assert bench.told == ["'charge 1'", "None", "'mail 1'"]


async def test_a_zombie_saves_nothing_and_its_handler_is_given_up(bench: Bench, store: Store) -> None:
    job_id = await bench.push(
        ["step", "charge"], ["await file", "go"], ["try", "step", "mail"], ["sleep for", 3600.0]
    )
    with anyio.fail_after(40):
        async with anyio.create_task_group() as tasks:
            worker = Worker(bench.queue)
            tasks.start_soon(worker.run)
            await eventually(lambda: bench.calls("go"), within=20)
            heir = store.consumer("heir", lease=1000)
            store.age(600)
            leases = await inherit(heir)
            assert [lease.job_id for lease in leases] == [job_id]
            bench.go("go")
            current = worker._current
            assert current is not None
            await eventually(lambda: not len(current.sources[0].leases), within=20)
            assert await keys(bench.queue, job_id) == ["charge"]
            answer = await heir.exchange([(leases[0], Ack(stepped=True))], None)
            assert [*map(str, answer.replies)] == ["OK"]
            worker.stop_now()
    await heir.aclose()
    assert bench.calls("mail") <= 1
    assert await bench.queue.get(job_id) is None
    assert not (bench.folder / "told").exists()


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_step_whose_worker_is_killed_after_it_is_not_called_again(
    redis_store: RedisStore, fleet: Fleet, kind: str, tmp_path: Path
) -> None:
    fleet.env["TESTS"] = str(Path(__file__).parents[1])
    (tmp_path / "steps_worker.py").write_text(WORKER)
    bench = Bench(redis_store, kind, tmp_path)
    async with bench.queue:
        job_id = await bench.push(
            ["step", "charge"], ["sleep for", 0.0], ["step", "page"], ["await file", "go"], ["step", "mail"]
        )
        for killed in range(2):
            process = fleet.start([sys.executable, "steps_worker.py", kind])
            await eventually(lambda killed=killed: bench.calls("go") > killed, within=60)  # type: ignore[misc]
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        assert await keys(bench.queue, job_id) == ["charge", "sleep", "page"]
        bench.go("go")
        await drain(bench.queue, lease=0.6)

    assert [bench.calls(each) for each in ("charge", "page", "mail")] == [1, 1, 1]
    assert bench.told == ["'charge 1'", "None", "'page 1'", "None", "'mail 1'"]


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_save_waits_while_the_server_is_away_and_goes_through(
    redis_store: RedisStore, proxy: Proxy, kind: str, tmp_path: Path
) -> None:
    bench = Bench(redis_store, kind, tmp_path)
    job_id = await bench.push(["await file", "go"], ["step", "charge"], ["checkpoint", 5], ["saved"])
    away = Bench(redis_store, kind, tmp_path)
    url = redis_store.url.replace(f":{proxy.target[1]}/", f":{proxy.port}/")
    away.queue._connect(url)
    with anyio.fail_after(60):
        async with away.queue, anyio.create_task_group() as tasks:
            worker = Worker(away.queue, lease=30)
            tasks.start_soon(worker.run)
            await eventually(lambda: bench.calls("go"), within=20)
            proxy.refuse(True)
            proxy.drop_all()
            bench.go("go")
            await eventually(lambda: bench.calls("charge"), within=20)
            await eventually(lambda: not worker.health.ready, within=20)
            assert not (tmp_path / "told").exists()
            proxy.refuse(False)
            await eventually(lambda: (tmp_path / "told").exists(), within=30)
            worker.stop()
    async with bench.queue:
        assert await bench.queue.get(job_id) is None
    assert bench.told == ["None", "'charge 1'", "None", "5"]
    assert bench.calls("charge") == 1


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_run_whose_time_is_over_waits_for_no_save(
    redis_store: RedisStore, proxy: Proxy, kind: str, tmp_path: Path
) -> None:
    """Nor does its thread: it hears that the run is over."""
    bench = Bench(redis_store, kind, tmp_path)
    job_id = await bench.push(["await file", "go"], ["try", "step", "charge"])
    away = Bench(redis_store, kind, tmp_path, timeout=2, retry=no_retry())
    away.queue._connect(redis_store.url.replace(f":{proxy.target[1]}/", f":{proxy.port}/"))
    with anyio.fail_after(60):
        async with away.queue, anyio.create_task_group() as tasks:
            worker = Worker(away.queue, lease=60)
            tasks.start_soon(worker.run)
            await eventually(lambda: bench.calls("go"), within=20)
            proxy.refuse(True)
            proxy.drop_all()
            bench.go("go")
            if kind == "thread":
                await eventually(lambda: (tmp_path / "told").exists(), within=20)
                assert "this run is over" in bench.told[1]
            await eventually(lambda: worker._current and worker._current.sources[0].leases.unsettled, within=20)
            proxy.refuse(False)
            async with bench.queue:
                await eventually_dead(bench.queue, job_id)
                # It was asked for before the time was over, and the function has returned: it is kept.
                assert await keys(bench.queue, job_id) == ["charge"]
            worker.stop()


async def eventually_dead(queue: JobQueue, job_id: str) -> None:
    with anyio.fail_after(20):
        while (info := await queue.get(job_id)) is None or info.state is not State.DEAD:
            await anyio.lowlevel.checkpoint()
        assert info.error_type.endswith("JobTimeout")
