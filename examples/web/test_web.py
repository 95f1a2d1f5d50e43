"""The web application, by a client and a worker of the tests; and on a real server."""

import asyncio

import pytest
import signups
from fastapi.testclient import TestClient
from signups import SendEmail
from web_app import alone, web

from redisjobs import JobQueue, Worker
from redisjobs.testing import Jobs, JobsServer


@pytest.fixture
def redisjobs_queues() -> list[JobQueue]:
    return [signups.queue]


def test_a_signup_sends_an_email(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    with TestClient(web) as client:
        assert client.post("/signup?email=joe@email.com").status_code == 202
        jobs.assert_pushed(SendEmail, to="joe@email.com", subject="Welcome")
        jobs.drain()

    assert capsys.readouterr().out == "to joe@email.com: Welcome\n"


def test_a_signup_survives_a_lost_reply(jobs: Jobs) -> None:
    jobs.lose_reply()
    with TestClient(web) as client:
        client.post("/signup?email=joe@email.com")

    jobs.assert_pushed(SendEmail, times=1)
    assert jobs.drain().completed == 1


def test_the_application_can_run_its_jobs_itself(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    with TestClient(alone) as client:
        client.post("/signup?email=joe@email.com")
        assert client.get("/readyz").json()["jobs"]

    jobs.drain()  # what the application's worker has left, if anything
    assert capsys.readouterr().out == "to joe@email.com: Welcome\n"


def test_a_signup_sends_an_email_by_a_real_server(
    jobs_server: JobsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with TestClient(web) as client:
        client.post("/signup?email=joe@email.com")

    async def work() -> None:
        async with signups.queue:
            await Worker(signups.queue).run(until_idle=True)

    asyncio.run(work())
    assert capsys.readouterr().out == "to joe@email.com: Welcome\n"
