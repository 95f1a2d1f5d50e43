"""The page that compares the drivers is as the drivers are: their URLs, and what each one answers."""

import re
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pages import PROJECT, Page
from store import Store

from redisjobs import DriverError, JobName, JobQueue
from redisjobs.drivers import connect
from redisjobs.drivers.memory import state
from redisjobs.drivers.memory.driver import MemoryDriver
from redisjobs.drivers.postgres import calls as postgres_calls
from redisjobs.drivers.postgres.driver import PostgresDriver
from redisjobs.drivers.redis import calls as redis_calls
from redisjobs.drivers.redis import long_calls
from redisjobs.drivers.redis.driver import RedisDriver
from redisjobs.model.changes import Change
from redisjobs.model.driver import Unsupported
from redisjobs.model.options import PushOptions
from redisjobs.model.queries import Query
from redisjobs_proof.contract import memory_moving

pytestmark = pytest.mark.anyio

PAGE = Page(PROJECT / "docs/explanation/choose-a-driver.md")
DRIVERS: dict[str, type[Any]] = {"memory": MemoryDriver, "Redis": RedisDriver, "Postgres": PostgresDriver}
ANSWERED: dict[str, set[type[Any]]] = {
    "memory": {
        asked
        for asked, answer in {**state.QUERIES, **state.CHANGES}.items()
        if answer.__module__ != memory_moving.__name__  # the contract registers these
    },
    "Redis": {*redis_calls._CALLS, *long_calls._LONG_CALLS},
    "Postgres": {*postgres_calls.QUERIES, *postgres_calls.CHANGES},
}
_MODEL = "redisjobs.model."
WITHIN = "within"
"""What a push takes beside its `PushOptions`."""


def rows(title: str) -> list[list[str]]:
    """The cells of each row of the table under a title; its head comes first."""
    section = PAGE.text.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


HEAD, *FEATURES = rows("Features")


def asked() -> dict[str, type[Any]]:
    """Every query and change there is, by name; not those that tests make."""
    found = {each.__name__: each.__module__ for kind in (Query, Change) for each in kind.__subclasses__()}
    # From its module: of a class with slots there is another one, which `dataclass` has replaced.
    return {name: getattr(sys.modules[there], name) for name, there in found.items() if there.startswith(_MODEL)}


def claims(driver: str, option: str) -> bool:
    """Whether the page says that a driver has the feature of an option or a call."""
    (row,) = (row for row in FEATURES if option in quoted(row[-1]))
    cell = row[HEAD.index(driver)]
    assert re.match("(yes|no)(,|$)", cell), cell
    return cell.startswith("yes")


def test_the_page_has_each_url_of_each_driver_and_no_other() -> None:
    with pytest.raises(ValueError, match="a queue is at") as caught:
        connect("ftp://host/0", "emails")
    known = set(re.findall(r"[\w+]+://", str(caught.value).partition("a queue is at")[2]))
    shown = {scheme: driver for driver, cell in rows("URLs")[1:] for scheme in quoted(cell)}

    assert set(shown) == known
    for scheme, driver in shown.items():
        place = {"memory": "", "unix": "/run/redis.sock"}.get(scheme.partition(":")[0], "host")
        master = "/jobs" if "sentinel" in scheme else ""
        assert type(connect(f"{scheme}{place}{master}", "emails")) is DRIVERS[driver], scheme


def test_the_table_of_features_has_every_option_query_and_change_once_and_no_other() -> None:
    named = [name for row in FEATURES for name in quoted(row[-1])]

    assert HEAD[1:-1] == list(DRIVERS)
    assert sorted(named) == sorted([*asked(), *PushOptions.__annotations__, WITHIN])


@pytest.mark.parametrize("name", sorted(asked()))
@pytest.mark.parametrize("driver", DRIVERS)
def test_a_driver_answers_a_call_if_and_only_if_the_table_says_so(driver: str, name: str) -> None:
    assert (asked()[name] in ANSWERED[driver]) is claims(driver, name)


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_push_is_written_in_the_callers_transaction_if_the_table_says_so(driver: str) -> None:
    assert hasattr(DRIVERS[driver], WITHIN) is claims(driver, WITHIN)


GIVEN: dict[str, dict[str, Any]] = {
    "delay": {"delay": 3600},
    "at": {"at": datetime.now(UTC) + timedelta(hours=1)},
    "priority": {"priority": "high"},
    "job_id": {"job_id": "invoice-42"},
    "unique": {"unique": "joe"},
    "unique_for": {"unique": "joe", "unique_for": 60},
    "unique_until": {"unique": "joe", "unique_until": "start"},
    "on_conflict": {"unique": "joe", "on_conflict": "replace"},
    "headers": {"headers": {"trace": "1"}},
    "expires_in": {"expires_in": 60},
    "keep_result": {"keep_result": 60},
    "limit_key": {"limit_key": "joe"},
    "replicas": {"replicas": 1},
}
"""An example of each option of a push, with what it needs beside it."""


@pytest.mark.parametrize("option", PushOptions.__annotations__)
async def test_a_driver_takes_an_option_of_a_push_unless_the_table_says_that_it_is_refused(
    option: str, store: Store
) -> None:
    (driver,) = (name for name, kind in DRIVERS.items() if isinstance(store.driver, kind))
    is_refused = False

    async with JobQueue(store.driver, store.queue_name, deadline=0.5) as queue:
        try:
            assert (await queue.push({}, JobName("Send", dict), **GIVEN[option])).added
        except Unsupported:
            is_refused = True
        except DriverError:  # the tests' user may not wait for replicas; the job is pushed
            assert await queue.control.jobs()

    (row,) = (row for row in FEATURES if option in quoted(row[-1]))
    assert is_refused is row[HEAD.index(driver)].endswith("refused")
