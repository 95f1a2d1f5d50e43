"""Steps of a job: called once over retries, restarts and killed workers, in every kind of handler."""

from pathlib import Path
from typing import Any

import pytest
from each_setting import store as store
from flows import saved
from results import drain
from step_handlers import Bench
from store import Store

from redisjobs import State, no_retry
from redisjobs.model.steps import Steps

pytestmark = pytest.mark.anyio


async def test_a_step_is_called_once_although_the_job_is_tried_again(bench: Bench) -> None:
    await bench.push(["step", "charge"], ["fail", 2], ["step", "mail"])
    await drain(bench.queue)

    assert (bench.calls("charge"), bench.calls("fail"), bench.calls("mail")) == (1, 3, 1)
    assert bench.told == ["'charge 1'", "None", "'mail 1'"]
    assert (await bench.queue.control.counts()).totals["retried"] == 2


async def test_a_result_comes_back_as_the_annotation_of_its_function_says(bench: Bench) -> None:
    await bench.push(["step", "p", "point"], ["step", "t", "moment"], ["step", "m", "model"], ["fail", 1])
    await drain(bench.queue)

    at = "datetime.datetime(2026, 1, 1, 0, 0, tzinfo={})"
    utc = at.format("datetime.timezone.utc"), at.format("TzInfo(UTC)"), at.format("TzInfo(0)")
    point, moment, model, _ = bench.told
    assert point == "Point(x=1, y=2)"
    assert moment in utc
    assert model in [f"Model(name='m 1', at={each})" for each in utc]
    assert [bench.calls(each) for each in "ptm"] == [1, 1, 1]


async def test_a_saved_result_that_does_not_fit_the_annotation_any_more_is_an_error(bench: Bench) -> None:
    job_id = await bench.push(["step", "charge"], ["fail", 9])
    await drain(bench.queue)
    requeued = await bench.queue.control.requeue(
        job_id, parameters={"acts": [["step", "charge", "point"]], "folder": ""}
    )
    assert requeued
    await drain(bench.queue)

    info = await bench.queue.get(job_id)
    assert info is not None
    assert (info.state, info.error_type) == (State.DEAD, "redisjobs.errors.DecodeError")
    assert info.error == (
        "DecodeError: step 'charge': its saved result does not fit what its function returns now: point: Point: "
        "should be an object (got str); requeue the job from this step, or give the step another name"
    )


@pytest.mark.parametrize(("what", "why"), [("lock", "object"), ("number", "should be a valid integer")])
async def test_a_result_that_cannot_be_kept_is_a_dead_letter_that_says_so(
    bench: Bench, what: str, why: str
) -> None:
    job_id = await bench.push(["step", "charge", what])
    await drain(bench.queue)

    info = await bench.queue.get(job_id)
    assert info is not None
    assert (info.state, info.reason, info.attempt, bench.calls("charge")) == (State.DEAD, "failed", 1, 1)
    assert "step 'charge' has run, and is not saved" in info.error
    assert why in info.error
    assert (await saved(bench.queue, job_id)).saved == {}


async def test_the_same_name_in_a_loop_counts_its_occurrences(bench: Bench) -> None:
    job_id = await bench.push(*[["step", "page"]] * 3, ["fail", 9])
    await drain(bench.queue)

    steps = await saved(bench.queue, job_id)
    assert [(key, each.value) for key, each in steps.saved.items()] == [
        ("page", b'"page 1"'),
        ("page#2", b'"page 2"'),
        ("page#3", b'"page 3"'),
    ]
    assert bench.calls("page") == 3


async def test_a_step_that_raised_and_is_tried_again_in_the_same_run_keeps_its_key(
    store: Store, kind: str, tmp_path: Path
) -> None:
    bench = Bench(store, kind, tmp_path, retry=no_retry())
    async with bench.queue:
        job_id = await bench.push(
            ["try", "step", "charge", "first_fails"], ["step", "charge", "first_fails"], ["fail", 9]
        )
        await drain(bench.queue)

        assert (await saved(bench.queue, job_id)).saved.keys() == {"charge"}
        assert bench.calls("charge") == 2


async def test_a_job_with_1_mb_of_results_gets_a_clear_error(bench: Bench) -> None:
    job_id = await bench.push(
        ["step", "one", "large"], ["try", "step", "two", "large"], ["try", "checkpoint of", "large"]
    )
    await drain(bench.queue)

    _, step, checkpoint = bench.told
    assert step == (
        "UnwritableResult: step 'two' has run, and is not saved: its result has 600,002 bytes of JSON and the job "
        "has saved 600,005 bytes, of 1,048,576 at most: keep large data elsewhere, return where it is"
    )
    assert checkpoint == (
        "StepsFull: the checkpoint has 600,002 bytes of JSON, and the job's steps have 600,005, of 1,048,576 at "
        "most; the one before stays"
    )
    assert bench.calls("two") == 1
    assert await bench.queue.get(job_id) is None


@pytest.mark.parametrize("sizes", [["larger"], ["large", "large"]])
async def test_a_step_whose_result_is_too_large_is_not_called_again(bench: Bench, sizes: list[str]) -> None:
    job_id = await bench.push(*(["step", size + str(at), size] for at, size in enumerate(sizes)))
    await drain(bench.queue)

    info = await bench.queue.get(job_id)
    assert info is not None
    last = f"{sizes[-1]}{len(sizes) - 1}"
    assert (info.state, info.attempt, bench.calls(last)) == (State.DEAD, 1, 1)
    assert info.error.startswith(f"step '{last}' has run, and is not saved: its result has ")
    assert info.error.endswith("keep large data elsewhere, return where it is")


async def test_a_long_loop_goes_on_at_its_checkpoint(bench: Bench) -> None:
    job_id = await bench.push(
        ["saved"], ["checkpoint", [1, "two"]], ["saved"], ["checkpoint", None], ["checkpoint", 7], ["fail", 1]
    )
    await drain(bench.queue)

    assert bench.told == ["7", "None", "[1, 'two']", "None", "None", "None"]
    assert (await saved(bench.queue, job_id)) == Steps()


async def test_a_value_that_is_no_plain_json_is_no_checkpoint(bench: Bench) -> None:
    await bench.push(["checkpoint", 1], ["try", "checkpoint of", "tuple"], ["saved"])
    await drain(bench.queue)

    assert bench.told[1].startswith("EncodeError: the checkpoint: ")
    assert bench.told[2] == "1"


@pytest.mark.parametrize("name", ["", "a b", "a#2", "x" * 201])
async def test_a_wrong_name_of_a_step_is_refused_at_the_call(bench: Bench, name: str) -> None:
    await bench.push(["try", "step", name], ["try", "wait for", name])
    await drain(bench.queue)

    step, signal = bench.told
    assert step.startswith("ValueError: ")
    assert "can't name a step" in step
    assert "can't name a signal" in signal


async def test_what_a_call_returned_in_place_of_a_function_is_refused(bench: Bench) -> None:
    await bench.push(["try", "step of a call", "charge"], ["step", "charge"])
    await drain(bench.queue)

    refused, charged = bench.told
    assert refused.startswith(
        "TypeError: a step takes a function and its arguments, as step('charge', charge_card, 7), "
        "and not <coroutine "
    )
    assert charged == "'charge 1'"


async def test_the_version_is_that_of_the_handler_that_saved_the_first_step(
    store: Store, kind: str, tmp_path: Path
) -> None:
    acts: list[list[Any]] = [["version"], ["step", "charge"], ["version"], ["fail", 1]]
    async with Bench(store, kind, tmp_path, version=3).queue:
        old = Bench(store, kind, tmp_path, version=3)
        job_id = await old.push(*acts, ["fail", 9])
        await drain(old.queue)
        new = Bench(store, kind, tmp_path, version=4)
        await new.queue.control.requeue(job_id, parameters={"acts": acts, "folder": str(tmp_path)})
        await drain(new.queue)
        assert new.told == ["3", "'charge 1'", "3", "None"]

        await new.push(["version"])
        await drain(new.queue)
        assert new.told == ["4"]


async def test_a_plain_job_reads_no_steps_and_leaves_none(bench: Bench, store: Store) -> None:
    await bench.push(["step", "charge"])
    await bench.push(["call", "plain"])
    await drain(bench.queue)

    assert bench.calls("plain") == 1
    counts = await bench.queue.control.counts()
    assert (counts.totals["completed"], counts.totals["dead"]) == (2, 0)
