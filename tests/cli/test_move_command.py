"""The command `move`: what it prints, refuses, and how it ends."""

import json
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from commands import Commands
from databases import Postgres
from store import RedisStore

from redisjobs import JobName, sync

pytestmark = pytest.mark.slow

Work = JobName("Work", dict[str, Any])
Move = Callable[..., tuple[int, str, str]]


@pytest.fixture
def commands() -> Iterator[Commands]:
    commands = Commands("move")
    yield commands
    commands.end()


@pytest.fixture
def move(commands: Commands) -> Move:
    """Run the command to its end; its exit status, and what it printed."""

    def run(*arguments: str) -> tuple[int, str, str]:
        process = commands.start(*arguments)
        out, err = process.communicate(timeout=40)
        return process.returncode, out, err

    return run


@pytest.fixture
def source(redis_store: RedisStore) -> Iterator[sync.JobQueue]:
    with sync.JobQueue(redis_store.url, redis_store.queue_name) as queue:
        yield queue


@pytest.fixture
def target(database: str, queue_name: str) -> Iterator[sync.JobQueue]:
    with sync.JobQueue(database, queue_name) as queue:
        yield queue


def test_a_queue_is_moved_and_the_command_says_how_many_jobs(
    move: Move, source: sync.JobQueue, target: sync.JobQueue, redis_store: RedisStore, database: str
) -> None:
    source.push_many([{"n": number} for number in range(3)], Work)
    source.push({"n": 3}, Work, delay=3600)

    code, out, err = move("--from", redis_store.url, "--to", database, "--queue", source.name)

    assert (code, err) == (0, "")
    assert f"moved 4 jobs to queue '{source.name}' at postgresql://" in out
    assert out.rstrip().endswith("is empty")
    counts = target.control.counts()
    assert (sum(counts.ready.values()), counts.delayed) == (3, 1)
    password = redis_store.url.partition("//")[2].partition("@")[0].partition(":")[2]
    assert password not in out + err


def test_jobs_that_stay_are_named_and_the_status_is_1(
    move: Move, source: sync.JobQueue, target: sync.JobQueue, redis_store: RedisStore, database: str
) -> None:
    for queue in (source, target):
        queue.push({"n": 1}, Work, job_id="invoice-1")
    source.push({"n": 1}, Work, job_id="invoice-2", unique="joe")
    target.push({"n": 1}, Work, job_id="other", unique="joe")
    ends = ("--from", redis_store.url, "--to", database, "--queue", source.name)

    code, _, err = move(*ends)

    assert code == 1
    assert "invoice-1 stays in transit: a job has its id at the target; once that has ended" in err
    assert "invoice-2 stays in transit: the job other has its unique key at the target" in err
    assert "the same command goes on" in err

    code, out, err = move(*ends, "--json")
    assert code == 1
    assert json.loads(out) == {
        "moved": 0,
        "in_transit": 2,
        "refused": [
            {"job_id": "invoice-1", "state": "ready", "why": "EXISTS", "holder": ""},
            {"job_id": "invoice-2", "state": "ready", "why": "DUPLICATE", "holder": "other"},
        ],
        "left": {},
        "stays": {},
        "stopped": False,
    }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_after_a_step_and_it_says_that_it_goes_on(
    commands: Commands, redis_store: RedisStore, source: sync.JobQueue, database: str, number: signal.Signals
) -> None:
    redis_store.admin.xadd(f"{redis_store.prefix}inbox", {"name": "Work"})  # which no worker takes in
    process = commands.start("--from", redis_store.url, "--to", database, "--queue", source.name)
    assert process.stdout
    assert "waiting for 1 entry of the inbox" in process.stdout.readline()

    process.send_signal(number)
    _, err = process.communicate(timeout=20)

    assert process.returncode == 1
    assert err == "redisjobs: stopped; moved 0 jobs; the same command goes on\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--from", "memory://", "--to", "{redis}", "--queue", "q"],
            "--from memory:// is a queue inside",
        ),
        (
            ["--from", "{redis}", "--to", "memory://", "--queue", "q"],
            "--to memory:// is a queue inside",
        ),
        (["--from", "{redis}", "--to", "{redis}", "--queue", "q"], "--from and --to are the same store"),
        (["--from", "ftp://a", "--to", "{redis}", "--queue", "q"], "--from: 'ftp://a': a queue is at"),
        (["--from", "{redis}", "--to", "{redis}", "--queue", "a{b"], "a{b"),
        (["--from", "{redis}", "--to", "{redis}"], "Missing option '--queue'"),
        (["--from", "{redis}", "--queue", "q"], "Missing option '--to'"),
    ],
)
def test_wrong_ends_are_refused(move: Move, redis_url: str, arguments: list[str], said: str) -> None:
    code, out, err = move(*(word.replace("{redis}", redis_url) for word in arguments))

    assert (code, out) == (2, "")
    assert said in err


def test_one_queue_by_two_urls_is_refused(move: Move, redis_store: RedisStore) -> None:
    other = redis_store.url.replace("127.0.0.1", "localhost")

    code, _, err = move("--from", redis_store.url, "--to", other, "--queue", redis_store.queue_name)

    assert code == 2
    assert "both ends are one queue, or one is a copy of the other" in err


def test_a_database_without_the_schema_is_refused(
    move: Move, redis_store: RedisStore, source: sync.JobQueue, postgres: Postgres
) -> None:
    source.push({"n": 1}, Work)
    with postgres.database(migrated=False) as database:
        code, _, err = move("--from", redis_store.url, "--to", database, "--queue", source.name)

    assert code == 1
    assert "redisjobs migrate" in err
    assert sum(source.control.counts().ready.values()) == 1


def test_an_end_that_is_not_there_ends_the_command_at_once_and_shows_no_password(
    move: Move, redis_store: RedisStore
) -> None:
    away = "redis://joe:secret@127.0.0.1:1/0"

    code, _, err = move("--from", away, "--to", redis_store.url, "--queue", redis_store.queue_name)

    assert code == 1
    assert "Error 111" in err
    assert "secret" not in err
