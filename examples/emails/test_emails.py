# test_emails.py: the handler, its retries, and a worker that dies
import emails
import pytest
from jobs import SendEmail

from redisjobs import Fail, JobQueue
from redisjobs.testing import AsyncJobs, Jobs


@pytest.fixture
def redisjobs_queues() -> list[JobQueue]:
    return [emails.queue]


def test_a_wrong_address_is_not_tried_again(jobs: Jobs) -> None:
    outcome = jobs.run(SendEmail(to="joe", subject="Welcome"))

    assert outcome.kind == "dead"
    assert isinstance(outcome.error, Fail)


def test_a_late_attempt_is_sent_too(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    assert jobs.run(SendEmail(to="joe@email.com", subject="Welcome"), attempt=3).kind == "completed"

    assert capsys.readouterr().out == "to joe@email.com: Welcome (attempt 3)\n"


@pytest.mark.anyio
async def test_an_email_whose_worker_died_is_sent_again(
    ajobs: AsyncJobs, capsys: pytest.CaptureFixture[str]
) -> None:
    await emails.queue.push(SendEmail(to="joe@email.com", subject="Welcome"))
    ajobs.crash(SendEmail)
    assert (await ajobs.drain()).crashed == 1

    await ajobs.travel(seconds=15)  # the lease of the dead worker

    assert (await ajobs.drain()).completed == 1
    assert capsys.readouterr().out.count("to joe@email.com") == 2
