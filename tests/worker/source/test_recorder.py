"""What a worker counts and when it sends that, with a server that fails as the test says."""

import logging
from typing import Any, cast

import pytest

from redisjobs.errors import DriverError, QueueFull, Unavailable
from redisjobs.events import JobsCancelled, JobsCompleted, JobsDead, JobsRetried, LeasesLost, SettledJob
from redisjobs.model.driver import SyncConsumer, Unsupported
from redisjobs.model.recording import Record, Recorded, Sums
from redisjobs.model.transitions import DeadLetter, Reply
from redisjobs.worker.source.heartbeat import logger
from redisjobs.worker.source.recorder import Recorder


class Server:
    """Takes records, and fails if a test wants that."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.failure: Exception | None = None
        self.lost: Exception | None = None  # raised once a record has arrived
        self.workers = 1

    def change(self, change: Record) -> Recorded:
        if self.failure is not None:
            raise self.failure
        self.records.append(change)
        if self.lost is not None:
            lost, self.lost = self.lost, None
            raise lost
        return Recorded(60_000, self.workers)

    def take(self) -> dict[str, Sums]:
        """The counts that arrived since the last call, a record that was sent again once."""
        numbers = {each.number: each for each in self.records}
        self.records = []
        names: dict[str, Sums] = {}
        for each in numbers.values():
            names |= each.names
        return names


class Timed:
    """A recorder at a time that the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.server = Server()
        self.recorder = Recorder({"Send", "Pay"}, logger)
        monkeypatch.setattr("redisjobs.worker.source.recorder.time", self)

    def monotonic(self) -> float:
        return self.now

    def count(self, name: str = "Send", times: int = 1, **facts: Any) -> None:
        jobs = [SettledJob("a", Reply.OK, name=name, **facts)] * times
        self.recorder.count(JobsRetried, jobs)

    def flush(self, seconds: float = 0, *, is_last: bool = False) -> bool:
        self.now += seconds
        return self.recorder.flush(cast(SyncConsumer, self.server), is_last=is_last)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Timed:
    return Timed(monkeypatch)


def test_jobs_count_by_outcome_and_dead_ones_by_cause(timed: Timed) -> None:
    failed = DeadLetter("failed", "ValueError: no", fingerprint="0123456789ab")
    timed.recorder.count(
        JobsDead,
        [
            SettledJob("a", Reply.OK, name="Send", settlement=failed, ran=0.03, waited=1.0),
            SettledJob("b", Reply.OK, name="Pay", settlement=DeadLetter("expired", "too late")),
            SettledJob("c", Reply.DEAD),  # a claim made it a dead letter
            SettledJob("d", Reply.UNDECODABLE),
        ],
    )
    timed.recorder.count(JobsCancelled, [SettledJob("e", Reply.CANCELLED, name="Pay")])
    timed.recorder.count(LeasesLost, [SettledJob("f", Reply.LEASE_LOST, name="Pay")])
    timed.recorder.count(JobsCompleted, [SettledJob("g", Reply.OK, name="Pay")])  # these come by `count_done`

    timed.flush()

    (record,) = timed.server.records
    assert record.names == {
        "Send": {"dead": 1, "run50": 1, "wait1000": 1},
        "Pay": {"dead": 1, "cancelled": 1},
        "unknown": {"dead": 2},
    }
    assert record.causes == {"0123456789ab": 1, "expired": 1, "worker lost": 1, "undecodable": 1}


def test_names_without_a_handler_count_as_one(timed: Timed) -> None:
    for number in range(1000):
        timed.count(f"made-up-{number}")
    timed.flush()
    assert timed.server.take() == {"unknown": {"released": 1000}}


def test_an_idle_worker_sends_a_record_a_minute_and_a_busy_one_every_ten_seconds(timed: Timed) -> None:
    for second in range(180):
        timed.flush(1)
        if second >= 120:
            timed.count()

    empty = [each for each in timed.server.records if not each.names]
    assert len(empty) == 3
    assert 5 <= len(timed.server.records) - len(empty) <= 7


def test_the_workers_of_a_large_fleet_send_less_often(timed: Timed) -> None:
    timed.server.workers = 300
    for _ in range(120):
        timed.count()
        timed.flush(1)
    assert len(timed.server.records) == 4


def test_what_was_counted_last_is_sent_at_the_end(timed: Timed) -> None:
    timed.count()
    timed.flush()
    timed.count("Pay")
    timed.flush(1)
    assert timed.server.take() == {"Send": {"released": 1}}

    timed.flush(is_last=True)
    assert timed.server.take() == {"Pay": {"released": 1}}
    timed.flush(is_last=True)
    assert timed.server.records == []


def test_a_record_without_an_answer_is_sent_again_unchanged(timed: Timed) -> None:
    timed.count()
    timed.server.lost = Unavailable("no answer")
    assert not timed.flush()
    timed.count()
    assert timed.flush(5)
    first, again = timed.server.records
    assert first == again
    timed.server.records = []

    timed.flush(10)
    assert timed.server.take() == {"Send": {"released": 1}}


@pytest.mark.parametrize("error", [QueueFull("full"), DriverError("forbidden"), ValueError("a defect")])
def test_what_the_server_refuses_is_lost_and_logged_once(
    timed: Timed, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[int] = []
    log_module = "redisjobs.worker.source.recorder.log_from_thread"
    monkeypatch.setattr(log_module, lambda log, level, *_: logged.append(level))
    timed.server.failure = error
    for _ in range(3):
        timed.count()
        assert timed.flush(60)
    timed.server.failure = None
    timed.flush(60)
    timed.count("Pay")
    timed.flush(60)

    assert timed.server.take() == {"Pay": {"released": 1}}
    assert logged == [logging.WARNING, logging.INFO]


def test_a_driver_without_statistics_is_asked_once(timed: Timed, caplog: pytest.LogCaptureFixture) -> None:
    timed.server.failure = Unsupported("none")
    timed.flush()
    timed.server.failure = None
    timed.count()
    assert timed.flush(60)
    assert (timed.server.records, caplog.messages) == ([], [])


def test_many_names_go_in_several_records_and_beyond_200_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = Timed(monkeypatch)
    timed.recorder = Recorder({f"Name{number}" for number in range(300)}, logger)
    for number in range(300):
        timed.count(f"Name{number}")
    timed.flush()

    assert [len(each.names) for each in timed.server.records] == [50] * 4
    assert len({each.number for each in timed.server.records}) == 4
    assert timed.server.take()["other"] == {"released": 101}


def test_causes_beyond_50_go_as_one(timed: Timed) -> None:
    for number in range(60):
        letter = DeadLetter("failed", "no", fingerprint=f"{number:012x}")
        times = 2 if number == 59 else 1
        timed.recorder.count(JobsDead, [SettledJob("a", Reply.OK, name="Pay", settlement=letter)] * times)
    timed.flush()

    (record,) = timed.server.records
    assert len(record.causes) == 50
    assert (record.causes[f"{59:012x}"], record.causes["other"]) == (2, 11)
