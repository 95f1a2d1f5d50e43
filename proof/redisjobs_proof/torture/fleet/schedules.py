"""The torture's schedules, with a slot each second: workers declare one, the torture puts another."""

from contextlib import suppress
from datetime import timedelta

from redisjobs.errors import DriverError
from redisjobs.schedules.schedule import Schedule
from redisjobs_proof.torture.fleet.jobs import Tick
from redisjobs_proof.torture.fleet.store import Store

LATEST = "latest"
"""The schedule that is put; after an outage it fires only the last slot."""
ALL = "all"
"""The schedule that `jobs` declares; it fires each slot, however late."""

_BEHIND = timedelta(seconds=3)  # the age of the last slot above which a schedule does not fire


def put(store: Store) -> None:
    """Put the schedule that no worker declares."""
    store.queue.schedules.put(LATEST, Tick(), Schedule.every(1))


def behind(store: Store) -> list[str]:
    """Return the schedules that fired no slot in the last seconds, in words, and those that cannot be read."""
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
    """Pause both schedules; return whether they are."""
    with suppress(DriverError):
        return store.queue.schedules.pause(ALL) and store.queue.schedules.pause(LATEST)
    return False
