"""Chooses the driver of a queue by its URL or its redis-py client."""

import re
from typing import Any

from redisjobs.base.visible import without_password
from redisjobs.model.driver import Driver, SyncDriver

_SCHEMES = (
    "redis rediss unix redis+cluster rediss+cluster redis+sentinel rediss+sentinel postgresql postgres".split()
)
_POSTGRES = ("postgresql://", "postgres://")


def connect(where: Any, queue: str) -> Driver:
    """Return the driver for a queue; nothing is sent yet.

    Args:
        where: A URL, an existing redis-py client (sync or async), or a driver. A driver is returned unchanged.
        queue: The queue's name.

    Raises:
        ValueError: The URL's scheme is unknown, or the queue's name is invalid.
    """
    if _is_driver(where):
        return where  # type: ignore[no-any-return]
    if where == "memory://":
        from redisjobs.drivers.memory.driver import MemoryDriver

        return MemoryDriver()
    _check(where)
    if isinstance(where, str) and where.startswith(_POSTGRES):
        return _postgres(where, queue)
    from redisjobs.drivers.redis.driver import RedisDriver

    return RedisDriver(where, queue)


def connect_sync(where: Any, queue: str) -> tuple[Driver, SyncDriver]:
    """Return the driver for a queue, and the same for sync code.

    Raises:
        ValueError: As for `connect`; also if the driver has no sync side.
    """
    driver = connect(where, queue)
    return driver, sync_side(driver)


def sync_side(driver: Driver) -> SyncDriver:
    """Return the side of a queue's driver that sync code can call, in any thread.

    Raises:
        ValueError: The driver has no sync side.
    """
    if hasattr(driver, "sync"):
        return driver.sync  # type: ignore[no-any-return]
    if hasattr(driver, "make_sync"):
        return driver.make_sync()  # type: ignore[no-any-return]
    raise ValueError(f"{driver!r} is a driver for async code alone: give the queue by its URL")


def _postgres(url: str, queue: str) -> Driver:
    try:
        from redisjobs.drivers.postgres.driver import PostgresDriver
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "psycopg" and "pq wrapper" not in str(error):
            raise
        raise ValueError(
            "a queue in Postgres needs psycopg, which is not here: install redisjobs with its extra `postgres`"
        ) from error
    return PostgresDriver(url, queue)


def _is_driver(where: Any) -> bool:
    return hasattr(where, "consumer") and hasattr(where, "push")


def _check(where: Any) -> None:
    if isinstance(where, str):
        if where.partition("://")[0] not in _SCHEMES:
            shown = re.sub("//.*@", "//…@", without_password(where))
            raise ValueError(
                f"{shown!r}: a queue is at memory://, {'://, '.join(_SCHEMES)}://, or given as a redis-py client"
            )
    elif not hasattr(where, "connection_pool") and not hasattr(where, "nodes_manager"):
        raise ValueError(f"{where!r} is neither a URL nor a redis-py client")
