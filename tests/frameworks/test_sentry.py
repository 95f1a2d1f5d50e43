"""The recipe for Sentry reports each failure once, with its job; the transport is replaced."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sentry_sdk")

EXAMPLE = Path(__file__).parents[2] / "examples/sentry"

# A process of its own: Sentry patches what it finds.
PROGRAM = """
import asyncio, json, logging
import sentry_sdk
from sentry_sdk.transport import Transport
import sentry_app
from redisjobs import Retry, Worker, exponential_jitter

sent = []

class Kept(Transport):
    def capture_envelope(self, envelope):
        sent.extend(item.payload.json for item in envelope.items if item.type in ("event", "transaction"))

queue = sentry_app.queue
queue._connect("memory://")
logging.basicConfig()

@queue.job(timeout=0.01)
async def slow() -> None:
    await asyncio.sleep(60)

@queue.job
def sync_one() -> None:
    sentry_sdk.set_tag("set", "in the thread")
    raise LookupError("in a thread")

@queue.job
async def again() -> None:
    raise Retry(delay=60)

async def main() -> None:
    with sentry_sdk.start_transaction(name="a request") as request:
        await sentry_app.charge.push(7)
        trace = request.trace_id
    for job in (slow, sync_one, again):
        await job.push()
    await Worker(queue).run(until_idle=True)
    print(json.dumps([trace, sent]))

sentry_sdk.init(dsn="https://key@host/1", transport=Kept(), traces_sample_rate=1.0)
queue.retry = exponential_jitter(max_attempts=1)
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def reported() -> tuple[str, list[dict[str, Any]]]:
    """The id of a trace, and what was sent to Sentry."""
    command = [sys.executable, "-c", PROGRAM]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(EXAMPLE), str(EXAMPLE.parents[1])])}
    done = subprocess.run(command, env=env, cwd=EXAMPLE, text=True, capture_output=True, timeout=50)
    assert done.returncode == 0, done.stderr
    trace, sent = json.loads(done.stdout.splitlines()[-1])
    return trace, sent


@pytest.mark.slow
def test_each_failure_is_reported_once_with_its_job(reported: tuple[str, list[dict[str, Any]]]) -> None:
    errors = {event["exception"]["values"][-1]["type"]: event for event in reported[1] if "exception" in event}

    assert sorted(event["exception"]["values"][-1]["type"] for event in reported[1] if "exception" in event) == [
        "Fail",
        "JobTimeout",
        "LookupError",
    ]
    assert errors["Fail"]["contexts"]["job"]["name"] == "charge"
    assert errors["Fail"]["tags"]["queue"] == "orders"
    assert errors["LookupError"]["tags"]["set"] == "in the thread"
    assert "set" not in errors["Fail"].get("tags", {})


@pytest.mark.slow
def test_a_job_goes_on_with_the_trace_of_its_push(reported: tuple[str, list[dict[str, Any]]]) -> None:
    trace, sent = reported
    traces = {event["transaction"]: event["contexts"]["trace"]["trace_id"] for event in sent if "spans" in event}

    assert traces["charge"] == traces["a request"] == trace
    assert traces["sync_one"] != trace
