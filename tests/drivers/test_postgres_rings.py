"""What Postgres remembers of pushes and turns: tables that are emptied in turn, and lose nothing that counts."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from redisjobs.drivers.postgres.functions import installed_as

pytestmark = pytest.mark.slow

MINUTE, DAY = 60_000, 86_400_000


class Rings:
    """The tables of a database of its own, and the functions for them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.connection: psycopg.Connection[Any] = psycopg.connect(url, autocommit=True)
        (self.now_ms,) = self.ask("select redisjobs_f._now(null)")

    def ask(self, statement: str, *values: object) -> Any:
        """The first row of what a statement returns."""
        return self.connection.execute(installed_as(statement).encode(), values).fetchone()

    def remember(self, key: str, until_ms: int) -> None:
        self.ask("select redisjobs_f._remember('q', 'ended', %s, '1', %s)", key, until_ms)

    def knows(self, key: str, now_ms: int) -> bool:
        (value,) = self.ask("select redisjobs_f._remembered('q', 'ended', %s, %s)", key, now_ms)
        return value is not None

    def note_turn(self, number: int, now_ms: int) -> None:
        self.ask("select redisjobs_f._note_turn('q', 'w', 1, %s, 'OK', %s)", number, now_ms)

    def last_turn(self, worker: str = "w", lane: int = 1) -> tuple[int, str | None]:
        number, answer = self.ask("select * from redisjobs_f._last_turn('q', %s, %s)", worker, lane)
        return number, answer

    @property
    def next_ledger(self) -> int:
        return int((self.now_ms + MINUTE) // 90_000 + 1) % 3

    def put(self, until_ms: int) -> str:
        """Put a row into the table that comes next, whatever its time; the table's name."""
        table = f"ledger_{self.next_ledger}"
        self.connection.execute(
            f"insert into redisjobs.{table} values ('q', 'ended old ', '1', %s)".encode(), (until_ms,)
        )
        return table

    def size(self, table: str) -> int:
        (number,) = self.ask(f"select count(*) from redisjobs.{table}")
        return int(number)

    def rotate(self) -> None:
        self.ask("select redisjobs_f._rotate(%s)", self.now_ms)

    def try_again(self) -> None:
        """Rotate as if 30 seconds had passed since the last try."""
        self.connection.execute("update redisjobs.settings set at_ms = at_ms - 30000 where name = 'rotated'")
        self.rotate()


@pytest.fixture
def rings(database: str) -> Iterator[Rings]:
    rings = Rings(database)
    yield rings
    rings.connection.close()


def test_a_push_is_remembered_until_its_time_in_whichever_table_it_is(rings: Rings) -> None:
    times = [rings.now_ms + each * 90_000 for each in (1, 2, 3)]
    for number, until_ms in enumerate(times):
        rings.remember(f"{number} ", until_ms)

    assert [rings.size(f"ledger_{each}") for each in range(3)] == [1, 1, 1]
    assert [rings.knows(f"{each} ", times[0] - 1) for each in range(4)] == [True, True, True, False]
    assert [rings.knows(f"{each} ", times[1]) for each in range(3)] == [False, False, True]


def test_the_table_that_comes_next_is_emptied_and_what_counts_stays(rings: Rings) -> None:
    over = rings.put(rings.now_ms - 1)
    for number in range(100):
        rings.remember(f"{number} ", rings.now_ms + 1 + number * MINUTE // 100)

    rings.rotate()

    assert rings.size(over) == 0
    assert all(rings.knows(f"{number} ", rings.now_ms) for number in range(100))


@pytest.mark.parametrize(("ahead_ms", "left"), [(1, 2), (MINUTE, 2), (DAY - MINUTE, 2), (2 * DAY, 0)])
def test_a_table_stays_while_a_row_of_it_counts_though_the_clock_was_set_back(
    rings: Rings, ahead_ms: int, left: int
) -> None:
    rings.put(rings.now_ms - 1)
    table = rings.put(rings.now_ms + ahead_ms)

    rings.rotate()

    assert rings.size(table) == left


def test_a_table_that_someone_reads_stays_and_is_emptied_by_a_later_try(rings: Rings) -> None:
    table = rings.put(rings.now_ms - 1)
    with psycopg.connect(rings.url) as reader:
        reader.execute(f"select from redisjobs.{table}".encode())
        rings.ask("select set_config('statement_timeout', '5s', false)")
        rings.rotate()
        assert rings.size(table) == 1
    rings.rotate()
    assert rings.size(table) == 1  # tries are 30 seconds apart

    rings.try_again()

    assert rings.size(table) == 0


def test_a_snapshot_that_is_held_keeps_no_table(rings: Rings) -> None:
    table = rings.put(rings.now_ms - 1)
    with psycopg.connect(rings.url) as holder:
        holder.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        holder.execute("select from redisjobs.jobs")

        rings.rotate()

        assert rings.size(table) == 0
        (bytes_left,) = rings.ask("select pg_relation_size(%s::regclass)", f"redisjobs.{table}")
        assert bytes_left == 0


def test_the_last_turn_of_each_lane_is_known_for_three_minutes_at_least(rings: Rings) -> None:
    now_ms = rings.now_ms
    rings.note_turn(7, now_ms - 2 * 180_000)
    rings.note_turn(8, now_ms - 180_000 + 5000)
    rings.rotate()
    assert rings.last_turn() == (8, "OK")
    assert rings.last_turn(lane=2) == rings.last_turn("other") == (0, None)

    rings.note_turn(9, now_ms)

    assert rings.last_turn() == (9, "OK")


def test_turns_of_long_ago_are_emptied(rings: Rings) -> None:
    rings.note_turn(7, rings.now_ms - 2 * 180_000)

    rings.rotate()

    assert rings.last_turn() == (0, None)


def test_what_an_open_transaction_has_written_stays(rings: Rings) -> None:
    table = rings.put(rings.now_ms - 1)
    with psycopg.connect(rings.url) as writer:
        writer.execute(
            f"insert into redisjobs.{table} values ('q', 'ended new ', '1', %s)".encode(), (rings.now_ms + 1,)
        )
        rings.rotate()
    assert rings.size(table) == 2

    rings.try_again()

    assert rings.knows("new ", rings.now_ms)
