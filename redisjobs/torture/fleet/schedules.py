"""The torture's schedules, with a slot each second: one that its workers declare, one that is put at run time."""

from contextlib import suppress
from datetime import timedelta

from redisjobs.errors import DriverError
from redisjobs.schedules.schedule import Schedule
from redisjobs.torture.fleet.jobs import Tick
from redisjobs.torture.fleet.store import Store

LATEST = "latest"
"""The name of the one that is put; after an outage it fires the last slot alone."""
ALL = "all"
"""The name of the one that `jobs` declares; it fires each slot, however late."""

_BEHIND = timedelta(seconds=3)  # a last slot is at most so old where somebody fires


def put(store: Store) -> None:
    """Put the one that nobody declares.

    Raises:
        DriverError: The store refuses, or is unavailable.
    """
    store.queue.schedules.put(LATEST, Tick(), Schedule.every(1))


def behind(store: Store) -> list[str]:
    """Those of whose last seconds no slot was fired, in words; also if nobody knows."""
    try:
        now, infos = store.time(), {info.name: info for info in store.queue.schedules.list()}
    except DriverError as error:
        return [f"the schedules of database {store.db}: {error}"]
    found = []
    for name in (ALL, LATEST):
        last = infos[name].last_slot if name in infos else None
        if last is None or last < now - _BEHIND:
            found.append(
                f"schedule '{name}' of database {store.db} was fired last for {last or 'no slot'}; it is {now}"
            )
    return found


def pause(store: Store) -> bool:
    """Let nothing be fired any more; whether that is so."""
    with suppress(DriverError):
        return store.queue.schedules.pause(ALL) and store.queue.schedules.pause(LATEST)
    return False
