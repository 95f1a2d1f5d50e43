# test_shop.py: what the program pushes, and what a worker does with it
import runpy
from pathlib import Path

import pytest
from shop.emails import welcome
from shop.images import resize
from shop.worker import queue

from redisjobs import JobQueue
from redisjobs.testing import Jobs


@pytest.fixture
def redisjobs_queues() -> list[JobQueue]:
    return [queue]


def test_a_new_customer_gets_an_email_and_a_picture(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(Path(__file__).with_name("new_customer.py")))
    jobs.assert_pushed(welcome, address="joe@email.com", times=1)
    jobs.assert_pushed(resize, path="joe.png", width=64, times=1)

    assert jobs.drain().completed == 2
    assert capsys.readouterr().out == "to joe@email.com: welcome\njoe.png at 64\n"
