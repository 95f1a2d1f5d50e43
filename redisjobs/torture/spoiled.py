"""A queue of its own whose streams are spoiled for good, by entry ids that no clock ever told.

One priority gets the largest entry id there is: nothing can be added to it any more. That one may suffer, and
nothing else. The others get ids in µs and ns, and have to do as well as ever.
"""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from redisjobs.errors import DriverError
from redisjobs.events.recording import Recording
from redisjobs.model.job import Priority, State
from redisjobs.torture.checks import lines
from redisjobs.torture.checks.checker import check
from redisjobs.torture.fleet import jobs
from redisjobs.torture.fleet.fleet import Fleet, Kind
from redisjobs.torture.fleet.place import Place
from redisjobs.torture.fleet.store import Store
from redisjobs.torture.nemesis import Field
from redisjobs.torture.nemesis.processes import StopWorker

_LARGEST = f"{2**64 - 1}-{2**64 - 1}"
_WITHIN = 20.0  # seconds that all of it may take
_LEASE = 2.0
_ENTRY = {"name": "Work", "parameters": '{"seconds": 0.001}'}
_LONG = 4  # seconds that the entry of the largest id runs for: longer than a worker's grace
_LOOK = 0.1  # seconds between looks at whether it is done


def spoil(place: Place, directory: Path, seed: int) -> list[str]:
    """Run it; what went wrong."""
    directory.mkdir()
    store = place.aside("spoiled")
    fleet = Fleet([store.url], store.queue.name, directory, _LEASE, random.Random(seed), kinds=[Kind()])
    field = Field(fleet, [store], _LEASE)
    try:
        with fleet:
            fleet.start()
            suffering = _spoil(field, store)
            pushed = _push(field, store)
            wrong = [] if _stop(field, store) else [f"{_LARGEST} did not run in {_WITHIN:g} s"]
            if not _wait(fleet, store, [_LARGEST, *pushed]):
                wrong.append(f"was not done in {_WITHIN:g} s")
            for state in State:
                with _noted(wrong, f"listing what is {state}"):
                    store.queue.jobs(state)
            fleet.dismiss()
            wrong += [*fleet.unasked, *fleet.complaints()]
        notes = Recording(directory)
        for note in field.notes:
            notes.write(note)
        verdict = check(lines.read(directory), [store.final()], _LEASE)
        wrong += [f"{job} is lost" for job in verdict.lost if job not in suffering]
        # What suffers is in the store yet: so counters and what is left can't be judged.
        wrong += [*verdict.stolen, *verdict.twice]
        wrong += [what for what in verdict.wrong if not what.startswith("the store counts")]
        store.remove()
    finally:
        store.close()
    return [f"on a queue with spoiled streams: {what}" for what in wrong]


@contextmanager
def _noted(wrong: list[str], what: str) -> Iterator[None]:
    try:
        yield
    except DriverError as error:
        wrong.append(f"{what}: {error}")


def _spoil(field: Field, store: Store) -> list[str]:
    """Spoil the streams; the ids of the jobs of the priority that may suffer."""
    suffering = [field.push(jobs.Flaky(2), store, priority=Priority.LOW, delay=delay) for delay in (0, 1, 1, 2, 2)]
    now = time.time_ns()
    field.put(_ENTRY, store, 0, f"{now // 1000}-0")
    field.put(_ENTRY, store, 1, f"{now}-0")
    field.put({"name": "Work", "parameters": f'{{"seconds": {_LONG}}}'}, store, 2, _LARGEST)
    return suffering


def _push(field: Field, store: Store) -> list[str]:
    """Push jobs of the other priorities, some of which come again; their ids."""
    kinds = (jobs.Work(0.01), jobs.Flaky(2), jobs.Hopeless())
    return [
        field.push(kind, store, priority=priority, delay=delay)
        for priority in (Priority.HIGH, Priority.NORMAL)
        for delay in (0, 0.5, 1.5)
        for kind in kinds
    ]


def _stop(field: Field, store: Store) -> bool:
    """Stop the worker while it runs the entry of the largest id: it hands that back, and the next one takes it.

    Returns:
        Whether it ran.
    """
    until = time.monotonic() + _WITHIN
    while time.monotonic() < until:
        with suppress(DriverError):
            info = store.queue.get(_LARGEST)
            if info is not None and info.state is State.RUNNING and field.fleet.complete:
                break
        time.sleep(_LOOK)
    else:
        return False
    fault, began = StopWorker(), time.time()
    fault.begin(field)
    field.note("fault", began=began, ended=began + fault.holds, workers=[], **fault.facts)
    return True


def _wait(fleet: Fleet, store: Store, job_ids: list[str]) -> bool:
    """Wait until all these have ended; whether they have."""
    until = time.monotonic() + _WITHIN
    left = list(job_ids)
    while left and time.monotonic() < until:
        fleet.tend()
        with suppress(DriverError):
            info = store.queue.get(left[-1])
            if info is None or info.state is State.DEAD:
                left.pop()
                continue
        time.sleep(_LOOK)
    return not left
