"""What a new connection asks first: whether the database fits this release, and whose session it has."""

from typing import NamedTuple

from redisjobs.drivers.postgres import functions
from redisjobs.drivers.postgres.calls import Row
from redisjobs.drivers.postgres.schema import MIGRATE_OR_LEARN
from redisjobs.errors import DriverError, ServerTooOld, Unavailable

_OLDEST = 150000

CHECK: tuple[bytes, tuple[bytes, ...]] = (
    b"select floor(extract(epoch from clock_timestamp()) * 1000)::bigint,"
    b" current_setting('server_version_num')::int, current_setting('server_version'),"
    b" current_setting('server_encoding'), pg_is_in_recovery(),"
    b" to_regclass('redisjobs.jobs') is not null, to_regproc($1) is not null, pg_backend_pid()",
    (f"redisjobs.{functions.mark()}".encode(),),
)


class Session(NamedTuple):
    """The session that answered.

    Attributes:
        now_ms: The server's clock.
        pid: Its process. Behind a pooler, another one than the server named as the connection began.
    """

    now_ms: float
    pid: int


def check(row: Row) -> Session:
    """Return the session, given the row that `CHECK` returns.

    Raises:
        ServerTooOld: Its version is too old.
        Unavailable: It is a read-only replica.
        DriverError: It lacks the tables or the functions of this release, or has a wrong encoding.
    """
    now_ms, number, version, encoding, is_replica, has_tables, has_functions, pid = row
    if number < _OLDEST:
        raise ServerTooOld(f"redisjobs needs PostgreSQL 15 or newer; the server is {version}")
    if encoding != "UTF8":
        raise DriverError(f"the database has the encoding {encoding}; redisjobs needs one with UTF8")
    if is_replica:
        raise Unavailable("this server is a read-only replica; give the URL of the primary, or of all servers")
    if not has_tables:
        raise DriverError(f"the database has no tables of redisjobs: {MIGRATE_OR_LEARN}")
    if not has_functions:
        raise DriverError(f"the database has no functions of this release of redisjobs: {MIGRATE_OR_LEARN}")
    return Session(float(now_ms), pid)
