"""What an operator should know about the database's server, made from what it says: pure functions."""

from collections.abc import Iterator, Mapping
from typing import Any

from redisjobs.base.visible import in_words, number_of, sentence, visible
from redisjobs.model.health import Finding, Level

Facts = Mapping[str, Any]
"""The answer of `look_at_server`; see `functions/server.sql`."""

_MOST_NAMES = 10
_FROZEN_LATE = 1_000_000_000  # transactions; the server stops at about two thousand million
_KEPT_LOG = 1_000_000_000  # bytes


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield what there is to say about the server."""
    yield from _replication(facts)
    yield from _durability(facts)
    yield from _vacuum(facts)
    yield from _horizon(facts)
    yield from _slots(facts)
    yield from _rings(facts)
    yield _sessions(facts)
    yield from _roles(facts)


def warning_texts(facts: Facts, *, is_shared: bool = False) -> list[str]:
    """Return what a worker warns of as it starts.

    Args:
        facts: The answer of `look_at_server`.
        is_shared: Whether others may have the worker's session, too, as behind a pooler.
    """
    found = [*findings(facts), *_pooler(is_shared)]
    return [
        f"{each.sentence} {each.advice}".strip() for each in found if each.level in (Level.WARNING, Level.ERROR)
    ]


def _replication(facts: Facts) -> Iterator[Finding]:
    if facts["replica"]:
        advice = "Name the primary in the URL, or several hosts and `target_session_attrs=read-write`."
        yield Finding("replication", Level.ERROR, "The server is a replica, which refuses writes.", advice)
        return
    version, replicas = visible(facts["server_version"], 30), number_of(facts["replicas"], "replica")
    yield Finding("server", Level.OK, f"The server is PostgreSQL {version}, a primary with {replicas}.")


_LOSSES = {
    "fsync": "a crash of its machine may destroy the database",
    "full_page_writes": "a crash of its machine may destroy parts of the database",
    "synchronous_commit": "a crash of the server loses pushes and results that it had confirmed",
}


def _durability(facts: Facts) -> Iterator[Finding]:
    off = [name for name in _LOSSES if facts[name] == "off"]
    for name in off:
        advice = (
            f"Set `{name} = on` in postgresql.conf; see `\\drds` in psql for the settings of roles and databases."
        )
        yield Finding("persistence", Level.WARNING, f"{name} is off: {_LOSSES[name]}.", advice)
    if not off:
        yield Finding("persistence", Level.OK, "The server writes each commit to its disk.")


def _vacuum(facts: Facts) -> Iterator[Finding]:
    live, dead, size = facts["jobs"] or (0, 0, 0)
    rows = f"about {number_of(dead, 'dead row')} beside {live:,} live ones"
    text = f"The table of jobs has {size / 1e6:,.0f} MB, {rows}."
    off = next((name for name in ("autovacuum", "track_counts") if facts[name] == "off"), None)
    if off:
        advice = f"Set `{off} = on` in postgresql.conf: redisjobs relies on it."
        yield Finding(
            "autovacuum", Level.WARNING, f"{off} is off, so tables grow without end and get slow.", advice
        )
    if facts["unvacuumed"]:
        tables = ", ".join(f"redisjobs.{name}" for name in facts["unvacuumed"])
        advice = "`ALTER TABLE … RESET (autovacuum_enabled)` for each."
        yield Finding(
            "autovacuum", Level.WARNING, f"Autovacuum is off for {tables}.", advice, len(facts["unvacuumed"])
        )
    if dead > 1_000_000 and dead > 10 * live:
        advice = "Look for what keeps dead rows (`horizon`), then `VACUUM redisjobs.jobs`."
        yield Finding("dead rows", Level.WARNING, text, advice, dead)
    else:
        yield Finding("dead rows", Level.OK, text, "", dead)
    if facts["frozen"] > _FROZEN_LATE:
        text = f"The oldest transaction id that the database keeps is {facts['frozen']:,} transactions old."
        advice = "`VACUUM (FREEZE)`, before the server stops at two thousand million."
        yield Finding("transaction ids", Level.ERROR, text, advice, facts["frozen"])


_ENDS = {
    "session": "end the transaction, or `SELECT pg_terminate_backend(PID)`; `idle_in_transaction_session_timeout` "
    "prevents it",
    "prepared transaction": "`COMMIT PREPARED` or `ROLLBACK PREPARED`",
    "replication slot": "start its consumer, or `SELECT pg_drop_replication_slot(NAME)`",
}


def _horizon(facts: Facts) -> Iterator[Finding]:
    pins = facts["pins"]
    if not pins and facts["blind"]:
        role = visible(facts["blind"], 63)
        text = f"Not checked: the role {role} may not see when other roles' transactions began."
        yield Finding("horizon", Level.UNKNOWN, text, f"`GRANT pg_read_all_stats TO {role}`.")
        return
    if not pins:
        yield Finding("horizon", Level.OK, "No old transaction keeps dead rows.")
        return
    names = tuple(_pin(*pin) for pin in pins)
    kinds = [kind for kind in _ENDS if any(pin[0] == kind for pin in pins)]
    text = f"Old transactions keep dead rows, so tables grow and get slow: {', '.join(names)}."
    advice = sentence("; ".join(f"for a {kind}: {_ENDS[kind]}" for kind in kinds))
    yield Finding("horizon", Level.WARNING, text, advice, len(pins), names)


def _pin(kind: str, name: str, seconds: int | None, state: str, transactions: int) -> str:
    since = f"{transactions:,} transactions" if seconds is None else in_words(seconds)
    return f"{kind} {visible(name, 100)}" + (f" ({state})" if state else "") + f" since {since}"


def _slots(facts: Facts) -> Iterator[Finding]:
    old = [name for name, kept in facts["slots"] if kept is not None and kept > _KEPT_LOG]
    if old:
        most = max(kept for _, kept in facts["slots"] if kept is not None)
        names = ", ".join(visible(name, 63) for name in old[:_MOST_NAMES])
        text = f"Inactive replication slots keep up to {most / 1e9:,.1f} GB of the log: {names}."
        yield Finding(
            "slots", Level.WARNING, text, sentence(_ENDS["replication slot"]), len(old), (*old[:_MOST_NAMES],)
        )


def _rings(facts: Facts) -> Iterator[Finding]:
    for name, size, seconds in facts["rings"]:
        text = f"redisjobs.{name} was not emptied for {in_words(seconds)}, and has {size / 1e6:,.0f} MB."
        advice = (
            "Workers empty it by TRUNCATE, unless a transaction has read it: look for one in pg_locks (a dump, an "
            "old snapshot), and whether a worker is alive."
        )
        yield Finding("rings", Level.WARNING, text, advice)


def _sessions(facts: Facts) -> Finding:
    used, most = facts["sessions"], facts["max_sessions"]
    text = f"{used} of {most} connections are used."
    if used < 0.9 * most:
        return Finding("connections", Level.OK, text, "", used)
    return Finding("connections", Level.WARNING, text, "Raise max_connections, or run fewer processes.", used)


def _roles(facts: Facts) -> Iterator[Finding]:
    if facts["superuser"]:
        text = f"redisjobs' functions run as the superuser {visible(facts['superuser'], 63)}."
        advice = (
            "Give redisjobs a role without superuser rights, which owns the schema and runs `redisjobs migrate`."
        )
        yield Finding("roles", Level.WARNING, text, advice)
    refused = facts["refused"]
    if refused:
        names = ", ".join(refused[:_MOST_NAMES]) + (", …" if len(refused) > _MOST_NAMES else "")
        text = f"This role may not run {number_of(len(refused), 'function')} of redisjobs: {names}."
        advice = "That is right for an observer or a producer."
        yield Finding("permissions", Level.INFO, text, advice, len(refused), (*refused[:_MOST_NAMES],))
    else:
        yield Finding("permissions", Level.OK, "This role may run every function of redisjobs.")


def _pooler(is_shared: bool) -> Iterator[Finding]:
    if is_shared:
        text = "A pooler is between this worker and the server, so no notifications come, and workers poll."
        yield Finding("pooler", Level.WARNING, text, "Give workers the URL of the server itself.")
