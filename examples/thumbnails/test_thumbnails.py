# test_thumbnails.py: the handler, in a process of its own as in a worker
import pytest
import thumbnails

from redisjobs import JobQueue
from redisjobs.testing import Jobs


@pytest.fixture
def redisjobs_queues() -> list[JobQueue]:
    return [thumbnails.queue]


def test_a_thumbnail_is_made(jobs: Jobs, capfd: pytest.CaptureFixture[str]) -> None:
    assert jobs.run(thumbnails.thumbnail.prepare("a.png")).kind == "completed"

    assert capfd.readouterr().out == "a.png at 64\n"
