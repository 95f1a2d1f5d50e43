"""The commands that explain: `why` for a job, `doctor` for a queue."""

import json
from typing import Any

import pytest
import redis
from commands import cli_result

from redisjobs import JobName, sync
from redisjobs.cli.errors import Failure, Mistake

WORK = JobName("work", dict[str, Any])


def test_why_says_a_sentence_what_to_do_and_the_facts(there: sync.JobQueue) -> None:
    there.push({}, WORK, job_id="mine", unique="joe")

    said, for_programs = cli_result(there, "why", "mine"), cli_result(there, "why", "--unique", "joe", "--json")

    assert said.exit_code == 0
    first, second, _, *facts = said.stdout.splitlines()
    assert first == f"No worker of queue '{there.name}' is alive."
    assert second == "Start one, as `redisjobs worker MODULE:QUEUE`."
    assert "unique key  joe" in facts
    document = json.loads(for_programs.stdout)
    assert (document["cause"], document["job"]["job_id"]) == ("no worker", "mine")
    assert document["facts"]["unique_key"] == "joe"


def test_job_says_why_it_waits_in_the_same_words(there: sync.JobQueue) -> None:
    there.push({}, WORK, job_id="mine", delay=60)
    why = there.control.why("mine")
    page = cli_result(there, "job", "mine").stdout
    assert f"why         {why.sentence} {why.advice}" in page.replace("due in 59 s", "due in 60 s")


def test_why_of_a_job_that_left_no_trace_has_the_exit_code_1(there: sync.JobQueue) -> None:
    done = cli_result(there, "why", "never")
    assert done.exit_code == 1
    assert done.stdout.startswith("It is not on queue ")


@pytest.mark.parametrize("arguments", [(), ("a", "--unique", "k")])
def test_why_takes_an_id_or_a_unique_key(there: sync.JobQueue, arguments: tuple[str, ...]) -> None:
    done = cli_result(there, "why", *arguments)
    assert isinstance(done.exception, Mistake)


def test_doctor_lists_findings_repairs_and_fails_while_there_is_an_error(
    there: sync.JobQueue, redis_url: str
) -> None:
    there.push({}, WORK, job_id="mine")
    with redis.Redis.from_url(redis_url) as admin:
        admin.set(f"redisjobs:{{{there.name}}}:unique:left", "gone")

    broken, repaired = cli_result(there, "doctor"), cli_result(there, "doctor", "--repair", "--json")

    assert isinstance(broken.exception, Failure)
    assert "has errors: unique, workers" in str(broken.exception)
    assert "error    unique          Unique keys of jobs that are gone" in broken.stdout
    assert f"`redisjobs doctor --repair --queue {there.name}` frees them." in broken.stdout
    found = {each["check"]: each for each in json.loads(repaired.stdout)["findings"]}
    assert found["unique"]["repaired"] == "freed"
    assert "has errors: workers" in str(repaired.exception)
    there.cancel("mine")
    last = cli_result(there, "doctor")
    assert last.exit_code == 0
    assert "warning  workers         No worker is alive." in last.stdout
