"""The words of a doctor's findings, made from what drivers found: pure functions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from redisjobs.base.visible import in_words, number_of, sentence, visible
from redisjobs.model.health import Fault, Finding, Level, ServerFacts

MOST_EXAMPLES = 10


@dataclass(frozen=True, slots=True)
class _FaultKind:
    """What to say about one kind of fault."""

    level: Level
    what: str  # things in the plural, followed by their number
    advice: str
    repaired: str = ""  # what a repair did; '' if there is none


_ERROR, _WARNING, _INFO = Level.ERROR, Level.WARNING, Level.INFO

FAULTS: Mapping[str, _FaultKind] = {
    "stranded": _FaultKind(
        _ERROR,
        "jobs that no worker gets, because they are neither unread nor held by a consumer",
        "{repair} hands them back, as a worker does once a minute",
        "handed back",
    ),
    "no place": _FaultKind(
        _ERROR,
        "jobs in a place that does not exist, where no worker looks",
        "{repair} hands them back",
        "handed back",
    ),
    "no record": _FaultKind(
        _ERROR,
        "running jobs of consumers whose workers have no record",
        "{repair} fences these workers, as a worker does once a minute; then the jobs run again",
        "their workers were fenced",
    ),
    "parked": _FaultKind(
        _ERROR, "parked jobs that are neither held nor paused", "{repair} lets them start", "handed back"
    ),
    "line": _FaultKind(
        _ERROR, "waiting lines with jobs that no worker looks at", "{repair} gives them a turn", "given a turn"
    ),
    "no due time": _FaultKind(
        _ERROR,
        "delayed jobs without a due time, which never become ready",
        "{repair} makes them due now, because nothing says when they were due",
        "made due now",
    ),
    "waits": _FaultKind(
        _ERROR, "jobs that wait for children although none is left to end", "{repair} wakes them", "woken"
    ),
    "unreadable": _FaultKind(
        _ERROR,
        "delayed jobs that can't be read, and never become ready",
        "look at one with `redisjobs job ID{on}`; `redisjobs cancel ID{on}` removes it",
    ),
    "twice": _FaultKind(
        _ERROR,
        "entries with ids of jobs that are elsewhere",
        "a worker makes dead letters of those that are ready; of others, the locator in `jobs` names the job that "
        "counts, and `redis-cli XDEL` deletes the other",
    ),
    "unlocated": _FaultKind(
        _ERROR,
        "jobs without a locator, which can't be found by their ids, and can be pushed a second time",
        "{repair} writes it again",
        "located again",
    ),
    "ghost": _FaultKind(_WARNING, "locators of jobs that are gone", "{repair} removes them", "removed"),
    "no id": _FaultKind(
        _INFO,
        "entries without an id, which no push has added",
        "a worker makes dead letters of those that are ready; push with redis-cli by the inbox",
    ),
    "due": _FaultKind(_WARNING, "due times without a delayed job", "{repair} removes them", "removed"),
    "share": _FaultKind(
        _WARNING,
        "shares of limits that are counted wrongly",
        "{repair} corrects them, as a worker does once a minute",
        "corrected",
    ),
    "group": _FaultKind(
        _WARNING,
        "dead letters and groups that do not agree with each other",
        "{repair} corrects the groups",
        "corrected",
    ),
    "unique": _FaultKind(
        _ERROR,
        "unique keys of jobs that are gone, so that pushes with these keys add nothing",
        "{repair} frees them",
        "freed",
    ),
    "worker": _FaultKind(
        _WARNING,
        "worker records in no list of workers",
        "{repair} lists them; workers do the rest",
        "listed again",
    ),
    "held": _FaultKind(_INFO, "holds of jobs that are gone", "{repair} removes them", "removed"),
    "waiters": _FaultKind(_INFO, "notes of waits for jobs that are gone", "{repair} removes them", "removed"),
    "signals": _FaultKind(_INFO, "signals to jobs that are gone", "{repair} removes them", "removed"),
    "steps": _FaultKind(_INFO, "steps of jobs that are gone", "{repair} removes them", "removed"),
    "children": _FaultKind(_INFO, "groups of children whose parents are gone", "{repair} removes them", "removed"),
    "history": _FaultKind(_INFO, "histories of jobs that are gone", "{repair} removes them", "removed"),
    "schedule": _FaultKind(
        _WARNING,
        "stored schedules that are not listed, and do not fire",
        "put one again with `queue.schedules.put`, or delete its key `schedule:NAME` with redis-cli",
    ),
    "no ttl": _FaultKind(
        _WARNING, "keys that should expire, and do not", "`redis-cli EXPIRE KEY 86400` lets one expire in a day"
    ),
    "overdue": _FaultKind(
        _INFO,
        "results, progress reports and unique keys whose time is over",
        "{repair} deletes them, as a worker does once a minute",
        "deleted",
    ),
    "unknown key": _FaultKind(
        _INFO,
        "keys that this release does not know",
        "another release or program wrote them; look at them with redis-cli",
    ),
}
"""The kinds of faults that an audit finds, the worst first."""

REPAIRABLE = frozenset(kind for kind, said in FAULTS.items() if said.repaired)
"""Kinds of faults that a repair corrects."""

WALKED = frozenset({*FAULTS, "data", "handlers"})
"""Checks that look at each job."""

TIDIED = ("stranded", "no record", "parked")
"""Faults that a tidying at the end of an audit repairs; drivers report them as not repaired."""


def fault_findings(
    faults: Mapping[str, Sequence[Fault]], counts: Mapping[str, int], left: Mapping[str, int], on: str
) -> Iterator[Finding]:
    """Yield a finding for each kind of fault.

    Args:
        faults: Some faults of each kind.
        counts: How many there are.
        left: How many of them were not repaired.
        on: The option `--queue`.
    """
    for kind, said in FAULTS.items():
        if some := faults.get(kind):
            yield _fault_finding(kind, said, some, counts[kind], left[kind], on)


def _fault_finding(kind: str, said: _FaultKind, some: Sequence[Fault], count: int, left: int, on: str) -> Finding:
    examples = tuple(dict.fromkeys(fault.what for fault in some))[:MOST_EXAMPLES]
    named = ", ".join(visible(each, 60) for each in examples) + (", …" if count > len(examples) else "")
    repaired = "" if left else said.repaired
    advice = "" if repaired else sentence(said.advice.format(on=on, repair=f"`redisjobs doctor --repair{on}`"))
    text = sentence(f"{said.what}: {count:,} ({named})")
    return Finding(kind, said.level, text, advice, count, examples, repaired)


# The server


def server_findings(found: ServerFacts) -> Iterator[Finding]:
    """Yield what there is to say about the server: memory, persistence, replicas, clock, permissions, latency."""
    if not found.pings:  # there is no server
        return
    judges_itself = found.findings is not None
    yield from found.findings or ()
    if not judges_itself:
        yield from _memory(found.facts)
        yield from _persistence(found.facts)
        yield from _replication(found.facts)
    yield _clock(found)
    if not judges_itself:
        yield _permissions(found)
    yield from _latency(found)


def _memory(facts: Mapping[str, str]) -> Iterator[Finding]:
    policy, most, used = facts.get("maxmemory_policy"), _number(facts, "maxmemory"), _number(facts, "used_memory")
    if policy is None:
        yield Finding(
            "memory", Level.UNKNOWN, "Not checked: the server's ACL forbids INFO.", "Add `+info` to the user."
        )
        return
    if policy != "noeviction":
        yield Finding(
            "eviction",
            Level.ERROR,
            f"The server evicts keys when memory runs out (maxmemory-policy {policy}), so jobs can vanish.",
            "`redis-cli CONFIG SET maxmemory-policy noeviction`, and in the server's configuration file.",
        )
    share = used / most if most else 0.0
    text = f"{used / 1e6:,.0f} MB are used" + (
        f" of {most / 1e6:,.0f} MB, {share:.0%}." if most else ", without a limit."
    )
    if share >= 0.9:
        advice = "Raise maxmemory, delete dead letters or keep fewer ended jobs: a full server refuses pushes."
        yield Finding("memory", Level.WARNING, text, advice)
    elif policy == "noeviction":
        yield Finding("memory", Level.OK, text)


def _persistence(facts: Mapping[str, str]) -> Iterator[Finding]:
    if "aof_enabled" not in facts:
        return
    if facts.get("aof_last_write_status", "ok") != "ok" or facts.get("rdb_last_bgsave_status", "ok") != "ok":
        advice = "Look into the server's log: the disk may be full."
        yield Finding("persistence", Level.ERROR, "The server's last write to its disk failed.", advice)
    elif facts["aof_enabled"] == "1":
        yield Finding("persistence", Level.OK, "The server appends each change to its file (AOF).")
    elif _number(facts, "rdb_saves") > 0:
        unsaved = _number(facts, "rdb_changes_since_last_save")
        text = f"The server only saves snapshots; {unsaved:,.0f} changes are not saved."
        yield Finding("persistence", Level.WARNING, text, _APPEND)
    else:
        yield Finding(
            "persistence",
            Level.WARNING,
            "The server has saved nothing since it started: if it ends now, jobs are lost.",
            _APPEND,
        )


_APPEND = "`redis-cli CONFIG SET appendonly yes`, and in the server's configuration file."


def _replication(facts: Mapping[str, str]) -> Iterator[Finding]:
    if "role" not in facts:
        return
    if facts["role"] != "master":
        advice = "Name the primary in the URL: replicas refuse writes."
        yield Finding("replication", Level.ERROR, "The server is a replica.", advice)
        return
    replicas = number_of(int(_number(facts, "connected_slaves")), "replica")
    cluster = "; it is part of a cluster" if facts.get("cluster_enabled") == "1" else ""
    name = facts.get("server_name", "redis")
    version = facts.get(f"{name}_version", facts.get("redis_version", "?"))
    yield Finding("server", Level.OK, f"The server is {name} {version}, a primary with {replicas}{cluster}.")


def _clock(found: ServerFacts) -> Finding:
    if abs(found.step) >= 0.5:
        text = f"The server's clock jumped by {found.step:+.1f} s within {in_words(sum(found.pings))}."
        return Finding("clock", Level.WARNING, text, "Let the server's clock be slewed, not stepped, by NTP.")
    ahead = "ahead of" if found.offset > 0 else "behind"
    text = f"The server's clock is {abs(found.offset) * 1000:,.0f} ms {ahead} this machine's."
    if abs(found.offset) < 1:
        return Finding("clock", Level.OK, text)
    return Finding("clock", Level.WARNING, text, "Run NTP on both; redisjobs uses the server's clock only.")


def _permissions(found: ServerFacts) -> Finding:
    if found.refused is None:
        text = "Not checked: this user may not use ACL DRYRUN, or the server does not have it."
        return Finding(
            "permissions", Level.UNKNOWN, text, "Run the doctor as a user with `+acl|dryrun +acl|whoami`."
        )
    if not found.refused:
        return Finding("permissions", Level.OK, "This user may run every command of redisjobs on this queue.")
    names = ", ".join(
        f"{name} ({', '.join([*by[:3], *['…'][: len(by) > 3]])})" for name, by in found.refused.items()
    )
    text = f"The server's ACL refuses {number_of(len(found.refused), 'command')} to this user: {names}."
    advice = (
        "That is right for an observer or a producer; docs/how-to/restrict-access.md has the rule of each role."
    )
    return Finding(
        "permissions", Level.INFO, text, advice, len(found.refused), tuple(found.refused)[:MOST_EXAMPLES]
    )


def _latency(found: ServerFacts) -> Iterator[Finding]:
    usual, worst = sorted(found.pings)[len(found.pings) // 2], max(found.pings)
    text = f"A round trip takes {usual * 1000:.2g} ms, at worst {worst * 1000:.2g} ms."
    if worst >= 0.1:
        yield Finding(
            "latency", Level.WARNING, text, "Look at the load of the server, and of the network between."
        )
    else:
        yield Finding("latency", Level.OK, text)
    if found.slow is None:
        yield Finding(
            "slow calls", Level.UNKNOWN, "Not checked: this user may not use SLOWLOG.", "Add `+slowlog|get`."
        )
    elif found.slow and max(found.slow) >= 0.05:
        slowest = in_words(max(found.slow))
        text = f"{number_of(len(found.slow), 'slow call')} on this queue, the slowest took {slowest}."
        yield Finding("slow calls", Level.WARNING, text, "`redis-cli SLOWLOG GET` shows them.", len(found.slow))
    if "large" in found.facts:
        text = (
            f"Large jobs wait, up to {int(found.facts['largest_bytes']) / 1024:,.0f} KB: workers read few at once."
        )
        yield Finding("large jobs", Level.INFO, text, "Keep large values elsewhere, and push where they are.")


def _number(facts: Mapping[str, str], name: str) -> float:
    text = facts.get(name, "")
    return float(text) if text.isdecimal() else 0.0
