"""A process of the torture that runs no jobs: it migrates a database to the release on its path."""

import os

from redisjobs.drivers.postgres import schema
from redisjobs_proof.torture.topology.session import Session

_LOCK = "select pg_advisory_xact_lock(hashtextextended('redisjobs torture clock', 0))"
_CLOCK = """
create schema if not exists redisjobs_torture;
create sequence if not exists redisjobs_torture.clock minvalue -1000000000 start 0
"""
_UNSET = r"""
select proname, prorettype::regtype::text from pg_proc where pronamespace = 'redisjobs'::regnamespace
  and proname ~ '^_(now|clock)_\w+$' and prosrc not like '%redisjobs_torture%'
"""
_NOW = """
create or replace function redisjobs.{0} (given bigint) returns {1} language plpgsql as $$
begin
  return coalesce(given, floor(extract(epoch from clock_timestamp()) * 1000)::bigint
    + (select last_value from redisjobs_torture.clock));
end $$
"""


def migrate(url: str) -> None:
    """Bring a database to this release, and let its clock be set. Any number of processes may do that at once."""
    for _ in schema.migrate(url):
        pass
    session = Session(url)
    try:
        session.run("begin")
        session.run(_LOCK)
        _let_clock_be_set(session)
        session.run("commit")
    finally:
        session.close()


def _let_clock_be_set(session: Session) -> None:
    """Have the functions of all releases add the value of a sequence, in ms, to the server's time.

    A sequence is read past transactions, so a step also reaches what is under way.
    """
    session.run(_CLOCK)
    for name, returns in session.run(_UNSET):
        session.run(_NOW.format(name, returns))


if __name__ == "__main__":
    migrate(os.environ["REDISJOBS_URL"])
