"""What the doctor asks: the audit of a queue, and what the server says about itself."""

import time
from functools import partial

from redisjobs.drivers.postgres.calls import Call, Meta, answer_of, answers
from redisjobs.drivers.postgres.entries import text_of
from redisjobs.drivers.postgres.functions import release
from redisjobs.drivers.postgres.remarks import Facts, findings
from redisjobs.model.health import Audit, Audited, CheckServer, Fault, ServerFacts

_OLD_MS = 60_000  # of a snapshot that is reported
_PARTS = (
    "jobs lines uniques held shares buckets waiters steps groups children workers beats results progress".split()
)
"""The parts of an audit, in order; `functions/health.sql` has what each looks at."""


@answers(Audit)
def _audit(change: Audit) -> Call[Audited]:
    if not change.after:
        return Call("audited", [], answer_of(lambda total: Audited(f"{_PARTS[0]} ", "", total=total)))
    part, _, after = change.after.partition(" ")
    parse = partial(_audited, part, change.repair)
    return Call("repair" if change.repair else "audit", [part, text_of(after)], answer_of(parse))


def _audited(part: str, repaired: bool, found: Meta) -> Audited:
    faults = [Fault(kind, what, repaired) for kind, what, _ in found["faults"]]
    after = _following(part) if found["after"] is None else f"{part} {found['after']}"
    return Audited(after, part, found["looked"], 0, faults, found["waiting"])


def _following(part: str) -> str:
    rest = _PARTS[_PARTS.index(part) + 1 :]
    return f"{rest[0]} " if rest else ""


@answers(CheckServer)
def _check_server(query: CheckServer) -> Call[ServerFacts]:
    return Call("look_at_server", [release(), _OLD_MS], answer_of(partial(_server_facts, time.perf_counter())))


def _server_facts(asked: float, facts: Facts) -> ServerFacts:
    took = time.perf_counter() - asked
    offset = facts["now"] / 1000 - (time.time() - took / 2)
    return ServerFacts(int(facts["now"]), pings=[took], offset=offset, slow=(), findings=[*findings(facts)])


def look_at_server() -> Call[Facts]:
    """Return what the server says about itself; `remarks.py` judges it."""
    return Call("look_at_server", [release(), _OLD_MS], answer_of(lambda facts: facts))
