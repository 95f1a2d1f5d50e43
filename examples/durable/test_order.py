# test_order.py: a day of an order, with a clock that stands still
import asyncio

import order
import pytest

from redisjobs import JobQueue
from redisjobs.testing import Jobs


@pytest.fixture
def redisjobs_queues() -> list[JobQueue]:
    return [order.queue]


def test_an_approved_order_is_charged_once_and_mailed(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(order.main())
    assert jobs.drain().suspended == 1

    jobs.signal("order-7", "approved", "ann")
    assert jobs.drain().completed == 12  # the order, ten pages and the mail
    assert capsys.readouterr().out.splitlines() == [
        "pushed order-7",
        "charged order 7",
        "mailed 10 pages of order 7",
    ]


def test_an_order_that_is_not_approved_in_a_day_is_refunded(
    jobs: Jobs, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(order.main())
    jobs.drain()
    jobs.travel(days=1)

    assert jobs.drain().completed == 1
    assert capsys.readouterr().out.splitlines() == ["pushed order-7", "charged order 7", "refunded charge-7"]
