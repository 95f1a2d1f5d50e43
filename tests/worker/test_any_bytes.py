"""Entries with any bytes, and handlers that write all that a handler can: each job ends, and no worker does."""

from collections import Counter

import pytest
from databases import ON_POSTGRES_TOO
from each_setting import store as store
from results import drain
from store import Store
from tenacity import stop_after_attempt, wait_none

from redisjobs import JobContext, JobQueue, Retry, State
from redisjobs.drivers.memory.state import encoded
from redisjobs.model.queries import Find
from redisjobs.model.retry import RetryPolicy

pytestmark = [pytest.mark.anyio, ON_POSTGRES_TOO, pytest.mark.slow]

BYTES = (
    b"\xff\xfe",
    b"a\x00b",
    b"\xed\xa0\x80",
    b"\xc3",
    b"\xc2\x80",
    b"\xf4\x8f\x80\xff",
    b"%20 \r\n\x1b[31m",
    b"",
)
"""No UTF-8, a NUL, a lone surrogate, half a character, an invisible one, a private one, control, and nothing."""

STAY = ("limit_key", "headers", "trace", "parent", "depth", "child_of", "nonce", "unique", "no such field")
"""Fields that stay as they are until the job is gone, and fields that its runs or its end may change."""

GO = ("history", "error", "waits", "reason", "worker", "fingerprint", "traceback", "deliveries", "steps")


async def test_entries_of_any_bytes_end_whatever_their_handlers_write_and_keep_their_bytes(
    queue: JobQueue, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL", "redisjobs.worker")  # pytest-xdist can't send a traceback that is no text
    came = Counter[str]()

    @queue.job(keep_result=60)
    async def leaf() -> str:
        came["leaf"] += 1
        return "a leaf"

    async def write_all(context: JobContext) -> str:
        context.emit(b"\xff\x00")
        context.progress(0.5, "half")
        context.push(leaf.prepare())
        await context.step("one", lambda: "saved")
        await context.checkpoint([1])
        assert await context.run_all([leaf.prepare(), leaf.prepare()]) == ["a leaf"] * 2
        await context.sleep(0)
        await context.wait_for("signal", timeout=0, default=None)
        context.emit("more")
        context.push(leaf.prepare())
        return context.job_id.encode("utf-8", "replace").decode()

    again = RetryPolicy(wait=wait_none(), stop=stop_after_attempt(3))

    @queue.job(retry=again, keep_result=60)
    async def returns(context: JobContext) -> str:
        result = await write_all(context)
        came["returned"] += 1
        return result

    @queue.job(retry=again)
    async def raises(context: JobContext) -> None:
        await write_all(context)
        came["raised"] += 1
        raise Retry(reason=f"job {context.job_id}")

    given: list[dict[str, bytes]] = [{"id": b"%d " % number + each} for number, each in enumerate(BYTES)]
    given += [{field: each, "started_at": b"1"} for field in (*STAY, *GO) for each in BYTES]
    jobs = {"returns": list[str](), "raises": list[str]()}
    for name, put in jobs.items():
        for number, fields in enumerate(given):
            own = fields.get("id", b"%d" % number)
            put.append(store.put({**fields, "id": name.encode() + own, "name": name, "parameters": "{}"}))

    await drain(queue)

    assert came == {"returned": len(given), "raised": 3 * len(given), "leaf": 6 * len(given)}
    assert [await queue.driver.read(Find(job)) for job in jobs["returns"]] == [None] * len(given)
    for job, fields in zip(jobs["raises"], given, strict=True):
        row = await queue.driver.read(Find(job))
        assert row is not None
        assert row.state is State.DEAD
        assert row.fields[b"id"] == encoded(job)
        for field in fields.keys() & STAY:
            assert row.fields.get(encoded(field), b"") == fields[field], field
