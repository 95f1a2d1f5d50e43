"""Producers and relays in processes of their own, for the tests that kill them. Run with the name of a role.

It forks a process for each try, so none has to start Python. The test reads what became of all in the database.
"""

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from redisjobs import JobName, JobQueue, sync
from redisjobs.control.relay.relay import Relayer

Numbered = JobName("Numbered", dict[str, int])
WITHIN = 0.03  # seconds in which a process is killed
FROZEN = 5  # each fifth relay is frozen, and goes on when others have its rows


def push_by_psycopg(url: str, queue_url: str, number: int) -> None:
    queue = sync.JobQueue(queue_url, "q")
    with psycopg.connect(url) as connection:
        connection.execute("INSERT INTO orders VALUES (%s)", (number,))
        queue.push({"number": number}, Numbered, within=connection)
        connection.execute("UPDATE orders SET paid = true WHERE number = %s", (number,))


def push_by_async_psycopg(url: str, queue_url: str, number: int) -> None:
    async def push() -> None:
        queue = JobQueue(queue_url, "q")
        async with await psycopg.AsyncConnection.connect(url) as connection:
            await queue.push({"number": number}, Numbered, within=connection)
            await connection.execute("INSERT INTO orders VALUES (%s)", (number,))

    asyncio.run(push())


def push_by_asyncpg(url: str, queue_url: str, number: int) -> None:
    import asyncpg

    async def push() -> None:
        queue = JobQueue(queue_url, "q")
        connection = await asyncpg.connect(url)
        async with connection.transaction():
            await connection.execute("INSERT INTO orders VALUES ($1)", number)
            await queue.push({"number": number}, Numbered, within=connection)
        await connection.close()

    asyncio.run(push())


def push_by_sqlalchemy(url: str, queue_url: str, number: int) -> None:
    import sqlalchemy
    from sqlalchemy.orm import Session

    queue = sync.JobQueue(queue_url, "q")
    engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with Session(engine) as session, session.begin():
        session.execute(sqlalchemy.text("INSERT INTO orders VALUES (:number)"), {"number": number})
        queue.push({"number": number}, Numbered, within=session)


PUSHES = (push_by_psycopg, push_by_async_psycopg, push_by_asyncpg, push_by_sqlalchemy)


def fork(run: Callable[[], object]) -> int:
    """Start a process that runs this; its id."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        run()
        code = 0
    finally:
        os._exit(code)


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def kill_producers(url: str, queue_url: str, tries: int, seed: int) -> None:
    """Start producers, and kill each at a random time of its work, or when it has ended."""
    chance = random.Random(seed)
    for at, push in enumerate(PUSHES):  # here, so that the forks have all modules
        push(url, queue_url, -100 - at)
    # The fewest seconds of a few, because the first try connects slowly, and other programs run beside.
    took = {
        push: min(measured(partial(push, url, queue_url, -1 - 5 * at - n)) for n in range(5))
        for at, push in enumerate(PUSHES)
    }
    for number in range(tries):
        push = PUSHES[number % len(PUSHES)]
        pid = fork(partial(push, url, queue_url, number))
        time.sleep(chance.uniform(0, 1.3) * took[push])
        kill(pid)


def measured(push: Callable[[], object]) -> float:
    """How long a process needs for one push, in seconds."""
    began = time.monotonic()
    pid = fork(push)
    assert os.waitpid(pid, 0)[1] == 0
    return time.monotonic() - began


def kill_relays(url: str, redis: str, queue: str, kills: int, rows: int, seed: int) -> None:
    """Write rows and start a relay, as often as given; kill each at a random time, and freeze some before."""
    chance, frozen = random.Random(seed), list[int]()

    def relay(name: str) -> None:
        database = f"{url}?application_name={name}"
        asyncio.run(Relayer(JobQueue(redis, queue), database).run())

    producer = sync.JobQueue(redis, queue)
    with psycopg.connect(url) as connection:
        for number in range(kills):
            some = [{"number": each} for each in range(number * rows // kills, (number + 1) * rows // kills)]
            producer.push_many(some, Numbered, within=connection)
            connection.commit()
            pid = fork(lambda number=number: relay(f"relay{number}"))  # type: ignore[misc]
            begins(connection, queue)
            time.sleep(chance.uniform(0, WITHIN))
            if number % FROZEN:
                kill(pid)
            else:
                os.kill(pid, signal.SIGSTOP)
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
                    (f"relay{number}",),
                )
                connection.commit()
                frozen.append(pid)
            if len(frozen) > 2:
                goes_on = frozen.pop(0)
                os.kill(goes_on, signal.SIGCONT)
                time.sleep(WITHIN)
                kill(goes_on)
    for pid in frozen:
        kill(pid)


def begins(connection: Any, queue: str) -> None:
    """Wait until a relay has rows of this queue, or has deleted them."""
    statement = """
      SELECT NOT EXISTS (SELECT FROM redisjobs.outbox WHERE queue = %s) OR EXISTS (
        SELECT FROM pg_stat_activity WHERE application_name LIKE 'relay%%' AND backend_xid IS NOT NULL)
    """
    end = time.monotonic() + 20
    while not connection.execute(statement, (queue,)).fetchone()[0] and time.monotonic() < end:
        connection.commit()
    connection.commit()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["producers", url, queue_url, tries, seed]:
            kill_producers(url, queue_url, int(tries), int(seed))
        case ["relays", url, redis, queue, kills, rows, seed]:
            kill_relays(url, redis, queue, int(kills), int(rows), int(seed))
