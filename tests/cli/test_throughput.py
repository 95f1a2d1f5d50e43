"""The throughput that `redisjobs stats` shows: of the last minutes at first, then between two looks."""

from types import SimpleNamespace

import anyio
import pytest

from redisjobs import Worker, sync
from redisjobs.cli import stats
from redisjobs.model.queries import Counts


@pytest.fixture
def queue() -> sync.JobQueue:
    queue = sync.JobQueue("memory://", name="lately")
    queue.job(name="Rest")(lambda: None)
    queue.push_many([queue.prepare({}, "Rest") for _ in range(60)])
    anyio.run(lambda: Worker(queue).run(until_idle=True))
    return queue


def test_the_first_look_shows_the_last_minutes_and_each_later_one_what_was_done_since(
    queue: sync.JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("redisjobs.cli.stats.time", SimpleNamespace(monotonic=lambda: now))
    speed = stats._Speed()

    def look(completed: int, dead: int = 0) -> dict[str, float | None]:
        return speed.look(queue, Counts({}, 0, 0, 0, {"completed": completed, "dead": dead}))

    first = look(1000)
    assert first["seconds"] is not None
    assert first["completed"] == round(60 / first["seconds"], 1)
    assert first["wait_p95"] is not None
    now += 2
    later = look(1300, dead=1)
    assert (later["completed"], later["retried"], later["dead"], later["seconds"]) == (150, 0, 0.5, 2)
    now += 2
    assert look(0)["completed"] == 0  # the server has lost its data


def test_stats_show_the_throughput_as_a_line_and_as_json(
    queue: sync.JobQueue, capsys: pytest.CaptureFixture[str]
) -> None:
    stats._show(queue, False, stats._Speed())
    stats._show(queue, True, stats._Speed(), line=True)

    shown = capsys.readouterr().out
    assert "jobs a second, in the last " in shown
    assert "95 % of jobs waited up to " in shown
    assert '"throughput": {"completed": ' in shown


def test_a_queue_on_which_nothing_ran_shows_no_wait(capsys: pytest.CaptureFixture[str]) -> None:
    stats._show(sync.JobQueue("memory://", name="new"), False, stats._Speed())
    assert "0.0 completed, 0.0 retried, 0.0 dead\n" in capsys.readouterr().out
