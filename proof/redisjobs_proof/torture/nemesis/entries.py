"""Faults: entries and notifications that redisjobs did not write."""

import time
from collections.abc import Sequence

from redisjobs.model.codec import new_job_id
from redisjobs.model.job import Priority
from redisjobs_proof.torture.fleet import jobs
from redisjobs_proof.torture.fleet.store import Fields
from redisjobs_proof.torture.nemesis.fault import Fault, System
from redisjobs_proof.torture.nemesis.processes import HELD

_HOUR = 3600
_WORK: Fields = {"name": "Work", "parameters": '{"seconds": 0.001}'}
_FLAKY: Fields = {"name": "Flaky", "parameters": '{"until": 2}'}
_HOPELESS: Fields = {"name": "Hopeless", "parameters": "{}"}
_VERBS: Sequence[Fields] = (
    {"name": "Parent", "parameters": '{"until": 2}'},
    {"name": "Saving", "parameters": '{"steps": 3, "until": 2}'},
    {"name": "Sleeper", "parameters": '{"naps": [0.05, 0.05]}'},
    {"name": "Family", "parameters": '{"groups": [["work", "fail", "sleep"]]}'},
    {"name": "Reporting", "parameters": '{"times": 2}'},
    {"name": "Emitting", "parameters": '{"times": 2}'},
    {"name": "Pusher", "parameters": "{}"},
    _FLAKY,
    _HOPELESS,
)
"""Jobs that push, save, suspend, have children, report, emit and fail: then their worker sends their id."""

_ODD_IDS = (
    *(b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"a\x00b", b"\xf4\x8f\xbf\xbf", b"\x80" * 1900),
    *(b"\x1b[31m\r\n", b'"{\\', b"0-1 "),
)
"""Beginnings of ids: most are no UTF-8, as of a program that writes Latin-1."""


def _malformed() -> list[Fields]:
    """Return entries that can't be run as jobs."""
    long_ago = str(int((time.time() - 2 * _HOUR) * 1000))
    deep = "[" * 10_000
    return [
        {"name": "Work", "parameters": b"\xff\xfe{"},
        {"name": "Work", "parameters": '{"seconds": "soon"}'},
        {"name": "Work", "parameters": deep},
        {"name": "Work", "parameters": '{"seconds": ' + "[" * 500 + "]" * 500 + "}"},
        {"parameters": "{}"},
        {"name": "Work"},
        {"name": "", "parameters": "{}", "unknown_since": long_ago},
        {"name": "Unknown", "parameters": "{}", "unknown_since": long_ago},
        {"name": b"\x1b[31mUnknown\r\n\xff", "parameters": "{}", "unknown_since": long_ago},
        {f"field {number}": "x" for number in range(100)},
        {**_WORK, **{f"field {number}": "x" for number in range(1_000)}},
    ]


def _hostile() -> list[Fields]:
    """Return jobs with one invalid field. They may fail to run, but must not harm other jobs."""
    numbers = ["soon", "-1", "1e9", "\u00b2", "9" * 400, "1" * 15, "0", ""]
    times = ("queued_at", "started_at", "expires_at", "unknown_since", "scheduled_for", "next_scheduled_at")
    forged = "\x1b[31m\r\n2026-01-01 forged"
    ids: list[str | bytes] = [b"\xff\xfe\xfd", "", forged, " ", "a b", "0-0", "9" * 400, "dead 1-1"]
    return [
        *({**_FLAKY, field: number} for field in ("attempt", *times) for number in numbers),
        *({**_HOPELESS, "id": job_id} for job_id in ids),
        *({**_FLAKY, "id": job_id} for job_id in ids),
        # The mark of these can't be read, so each needs a unique id.
        {**_FLAKY, "id": f"headers-{new_job_id()}", "headers": "[" * 10_000},
        {**_FLAKY, "id": f"headers-{new_job_id()}", "headers": b"\xff"},
        {**_FLAKY, "id": f"headers-{new_job_id()}", "headers": '{"a": ' + "[" * 1_000 + "]" * 1_000 + "}"},
        {**_FLAKY, "unique": b"\xff", "nonce": b"\xfe \x00"},
        {**_FLAKY, "reason": "forged", "priority": "none", "worker": "released", "deliveries": "\u00b2"},
    ]


_TRACES: Sequence[str | bytes] = (
    *(b"\xff" * 50, "\u00e9" * 50, b"\xe2\x82", "x" * 20_000, "", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"),
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
)
"""Values of the field `trace`; the last is as it should be."""


class PutMalformed(Fault):
    """External entries that are no jobs, or are jobs that only some workers know."""

    name = "malformed entries"
    holds = 0.2

    def begin(self, system: System) -> None:  # noqa: D102
        store = system.some_store()
        bad = _malformed()
        self.jobs += [system.put(fields, store) for fields in bad]
        for _ in range(3):
            self.jobs.append(system.push(jobs.Newcomer(), system.store))
        self.detail = f"{len(bad)} bad entries, and 3 jobs of a newer release"


class PutHostile(Fault):
    """External entries with invalid ids, numbers and headers."""

    name = "hostile entries"
    holds = 1.0

    def begin(self, system: System) -> None:  # noqa: D102
        store = system.some_store()
        hostile = _hostile()
        for fields in system.rng.sample(hostile, len(hostile)):
            self.jobs.append(system.put(fields, store, system.rng.randrange(3)))
        self.detail = f"{len(hostile)} entries"


class PutSteep(Fault):
    """An external entry whose attempt is so high that its backoff is a number with very many digits."""

    name = "huge attempt"
    holds = 2.0

    def begin(self, system: System) -> None:  # noqa: D102
        store = system.some_store()
        self.jobs.append(system.put({"name": "Steep", "parameters": "{}", "attempt": "100000000"}, store))


class PutIntoInbox(Fault):
    """Entries of the inbox: jobs of each priority, some delayed, one with an id, and entries that are no jobs.

    Also entries in the ready streams that no push has added.
    """

    name = "inbox"
    holds = 1.5

    def begin(self, system: System) -> None:  # noqa: D102
        store = system.some_store()
        good: list[Fields] = [
            *({**kind, "priority": priority} for kind in (_FLAKY, _HOPELESS) for priority in Priority),
            *({**_FLAKY, "delay": delay} for delay in ("0", "0.3", "1")),
            {**_WORK, "id": f"inbox-{new_job_id()}"},
        ]
        bad: list[Fields] = [
            {"parameters": "{}"},
            {**_WORK, "priority": "urgent"},
            {**_WORK, "delay": "soon"},
            {**_WORK, "prioritty": "high"},
            {f"field {number}": b"\xff" for number in range(1_000)},
        ]
        entries = [(each, True) for each in good] + [(each, False) for each in bad]
        system.rng.shuffle(entries)
        self.jobs += dict.fromkeys(system.put_into_inbox(each, store, pushed=pushed) for each, pushed in entries)
        self.jobs += [system.put({**_WORK, "id": ""}, store, system.rng.randrange(3)) for _ in range(2)]
        self.detail = f"{len(entries)} entries"


class PutOddIds(Fault):
    """Jobs in the inbox whose ids are not UTF-8, or unusual, and whose handlers do all that a handler can.

    Each has to end, and no worker may. Other entries have such bytes in another field, and are rejected.
    """

    name = "odd ids"
    holds = 3.0
    recovery = "workers"

    def begin(self, system: System) -> None:  # noqa: D102
        store = system.some_store()
        self.db = store.db
        good = [{**verb, "id": _unique(odd)} for odd in _ODD_IDS for verb in _VERBS]
        bad = [{**_WORK, field: b"\xff"} for field in ("priority", "delay", "prioritty", "name ")]
        entries = [(each, True) for each in good] + [(each, False) for each in bad]
        for each, pushed in system.rng.sample(entries, len(entries)):
            self.jobs.append(system.put_into_inbox(each, store, pushed=pushed))
        self.detail = f"{len(entries)} entries"


def _unique(odd: bytes) -> bytes:
    return odd + new_job_id().encode()


class PutTraces(Fault):
    """Entries whose identity of a span is none, and whose jobs fail often: each attempt writes it again.

    What a job takes in the store may not grow by that.
    """

    name = "odd traces"
    holds = 2.0

    def begin(self, system: System) -> None:  # noqa: D102
        store = system.some_store()
        began = str(int(time.time() * 1000))
        for trace in _TRACES:
            entry = {"name": "Stubborn", "parameters": "{}", "started_at": began, "trace": trace}
            self.jobs.append(system.put(entry, store, system.rng.randrange(3)))
        self.detail = f"{len(_TRACES)} entries"


class PublishAnything(Fault):
    """Notifications about nothing, and messages that are no notifications."""

    name = "hostile notifications"
    holds = 1.0
    recovery = "workers"

    def prepare(self, system: System) -> None:  # noqa: D102
        self.store = system.some_store()
        self.jobs = [system.push(jobs.Work(system.lease / 2), self.store) for _ in range(HELD)]

    def begin(self, system: System) -> None:  # noqa: D102
        said = [
            *(b"due \xc2\xb2", b"due " + b"9" * 400, b"due -1", b"due 1e9", b"due", b"due  ", b"due \xff"),
            *(b"", b" ", b"\xff\xfe\x00", b"cancel", b"cancel ", b"cancel \xff", b"released", b"subscribed"),
            *(b"released " + b"9" * 400, b"paused 1", b"x" * 100_000),
            *(b"schedules", b"schedules 0", b"schedules " + b"9" * 400, b"schedules \xff"),
        ]
        for job in self.jobs:
            said += [b"cancel " + job.encode(), b"cancel 0 " + job.encode(), b"cancel 1 " + job.encode()]
        for message in said:
            self.store.publish(message)
        self.db = self.store.db
        self.detail = f"{len(said)} messages"
