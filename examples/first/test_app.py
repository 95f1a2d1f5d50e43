# test_app.py: what the program pushes, and what a worker does with it
import asyncio

import app
import pytest

from redisjobs import JobQueue
from redisjobs.testing import Jobs


@pytest.fixture
def redisjobs_queues() -> list[JobQueue]:
    return [app.queue]


def test_the_program_pushes_a_job_that_prints_the_sum(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(app.main())
    jobs.assert_pushed(app.add, a=2, b=3)

    assert jobs.drain().completed == 1
    assert "2 + 3 = 5" in capsys.readouterr().out
