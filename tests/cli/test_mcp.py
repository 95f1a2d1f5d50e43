"""`redisjobs mcp`: a client of the protocol starts the command and asks it about a queue on a real server."""

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from store import RedisStore

import redisjobs
from redisjobs import JobContext, JobName, JobQueue, Worker, no_retry
from redisjobs.cli import mcp as command
from redisjobs.cli.errors import Mistake

protocol = pytest.importorskip("mcp", reason="needs the extra `mcp`, which `dev` brings")

pytestmark = pytest.mark.anyio

READS = {"overview", "jobs", "job", "why", "failures", "workers", "limits", "schedules", "doctor"}
SHOP = """
import os, redisjobs
print("a word of the module, which is no message of the protocol")
queue = redisjobs.JobQueue("redis://127.0.0.1:1/0", name=os.environ["QUEUE"])
"""


@pytest.fixture
async def queue(redis_store: RedisStore) -> AsyncIterator[JobQueue]:
    """A queue with one dead letter, which has a secret, and one ready job."""
    async with JobQueue(redis_store.driver, redis_store.queue_name) as queue:

        @queue.job(retry=no_retry())
        async def pay(card: str, amount: int, context: JobContext) -> None:
            await context.step("check", lambda: {"card": card})
            raise ValueError(f"card {card} was refused")

        await queue.push({"card": "4111-1111", "amount": 3}, JobName("pay", dict[str, Any]), job_id="payment-1")
        await Worker(queue).run(until_idle=True)
        await queue.push({"n": 2**70}, JobName("later", dict[str, int]), job_id="big")
        yield queue


@asynccontextmanager
async def session(folder: Path, store: RedisStore, *options: str) -> AsyncIterator[Any]:
    """A client's session with the command in a process of its own."""
    (folder / "shop.py").write_text(SHOP)
    environment = {
        "REDISJOBS_URL": store.url,
        "QUEUE": store.queue_name,
        "PYTHONPATH": str(Path(redisjobs.__file__).parents[1]),
        "PATH": os.environ["PATH"],
    }
    arguments = ["-m", "redisjobs", "mcp", "--queue", "shop:queue", *options]
    started = protocol.StdioServerParameters(
        command=sys.executable, args=arguments, env=environment, cwd=str(folder)
    )
    async with protocol.Client(started) as client:
        yield client


async def ask(client: Any, tool: str, **arguments: Any) -> Any:
    answer = await client.call_tool(tool, arguments)
    assert not answer.is_error, answer
    found = answer.structured_content
    return found["result"] if set(found) == {"result"} else found


@pytest.mark.slow
async def test_a_client_sees_the_queue_and_can_change_nothing(
    tmp_path: Path, queue: JobQueue, redis_store: RedisStore
) -> None:
    async with session(tmp_path, redis_store, "--redact", "card") as client:
        tools = (await client.list_tools()).tools
        assert {tool.name for tool in tools} == READS
        assert all(tool.annotations.read_only_hint and tool.description for tool in tools)

        overview = await ask(client, "overview")
        assert (overview["queue"], overview["dead"], overview["ready"]["normal"]) == (queue.name, 1, 1)
        (cause,) = await ask(client, "failures")
        assert (cause["count"], cause["error_type"]) == (1, "ValueError")
        listed = await ask(client, "jobs", state="dead", fingerprint=cause["fingerprint"])
        assert [job["job_id"] for job in listed["jobs"]] == ["payment-1"]
        letter = await ask(client, "job", job_id="payment-1")
        assert letter["parameters"] == {"card": "•••", "amount": 3}
        assert "•••" in letter["error"]
        assert [(step["key"], step["value"]) for step in letter["steps"]] == [("check", {"card": "•••"})]
        why = await ask(client, "why", job_id="payment-1")
        assert why["cause"] == "dead"
        assert "•••" in json.dumps(why, ensure_ascii=False)
        assert "4111" not in json.dumps([letter, listed, cause, why])
        assert (await ask(client, "why", job_id="big"))["cause"] == "no worker"
        assert (await ask(client, "jobs", state="ready", name="other"))["jobs"] == []
        levels = {each["check"]: each["level"] for each in await ask(client, "doctor")}
        assert (levels["data"], levels["workers"]) == ("ok", "error")
        assert await ask(client, "workers") == await ask(client, "limits") == await ask(client, "schedules") == []

        missing = await client.call_tool("job", {"job_id": "none"})
        assert missing.is_error
        assert "no job 'none'" in missing.content[0].text
        text = (await client.call_tool("job", {"job_id": "big"})).content[0].text
        assert str(2**70) in text, "integers of any size stay exact"


@pytest.mark.slow
async def test_a_server_that_is_away_is_an_answer_and_not_the_end(tmp_path: Path, redis_store: RedisStore) -> None:
    async with session(tmp_path, redis_store, "--url", "redis://127.0.0.1:1/0") as client:
        for _ in range(2):
            answer = await client.call_tool("overview", {})
            assert answer.is_error
            assert "gave up after" in answer.content[0].text


def test_without_the_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp.server", None)

    with pytest.raises(Mistake, match=r"\[mcp\]"):
        command.need_libraries()


@pytest.mark.slow
async def test_a_job_whose_id_is_no_text_is_listed_with_the_others(
    tmp_path: Path, queue: JobQueue, redis_store: RedisStore
) -> None:
    redis_store.put({"id": b"\xff%", "name": "later", "parameters": b"\xfe", "error": b"\xff"})
    async with session(tmp_path, redis_store) as client:
        jobs = (await ask(client, "jobs", state="ready"))["jobs"]
        by_id = {job["job_id"]: job for job in jobs}
        assert len(jobs) == 2, jobs
        (odd,) = by_id.keys() - {"big"}
        assert (await ask(client, "job", job_id=odd))["job_id"] == odd
