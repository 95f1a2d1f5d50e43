"""The functions in the database: their text, the names of this release, and the statements that call them."""

import hashlib
import re
from functools import cache
from importlib import resources

_DEFINED = re.compile(r"create function redisjobs_f\.(\w+)\s*\(([^)]*)\)(.*?)as \$\$", re.IGNORECASE | re.DOTALL)
_READS = re.compile(r"\b(stable|immutable)\b")
_LISTS = re.compile(r"\breturns\s+table\b")
_PARTS = re.compile(r"\('(\w+)', '([a-z]+)[a-z ]*'\)")
_ARGUMENT = re.compile(r"^\s*\w+\s+(.+?)(?:\s+default\s.*)?$", re.IGNORECASE | re.DOTALL)

# The functions that clients call act for the role that owns the tables. Their plans need no statistics: one that
# was made while the tables were empty must still be good when they are full. A bitmap scan has no order: for 500
# jobs in order it would read all, and sort them. A scan that is off has a cost above `jit_above_cost`: without
# `jit = off` the server would compile the statement first, in 0.2 s.
_SETTINGS = """
do $$
declare
  one regprocedure;
begin
  for one in
    select oid from pg_proc where pronamespace = 'redisjobs'::regnamespace and proname ~ '^[a-z]\\w*_{release}$'
      and prokind = 'f'
  loop
    execute format('alter function %s security definer set search_path = pg_catalog, pg_temp '
      'set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off '
      'set plan_cache_mode = force_generic_plan set jit = off', one);
  end loop;
end $$;
"""


@cache
def _text() -> str:
    """Return all files, in the order of their names."""
    folder = resources.files(__package__).joinpath("functions")
    files = sorted((each for each in folder.iterdir() if each.name.endswith(".sql")), key=lambda each: each.name)
    return "\n".join(each.read_text("utf-8") for each in files)


def release() -> str:
    """Return what the names of this release's functions end in."""
    return hashlib.sha256(_text().encode()).hexdigest()[:10]


def installed_as(text: str) -> str:
    """Return SQL with the functions' names of this release: `redisjobs_f.push` becomes `redisjobs.push_<hash>`."""
    return re.sub(r"\bredisjobs_f\.(\w+)", rf"redisjobs.\1_{release()}", text)


def mark() -> str:
    """Return the name, in the schema `redisjobs`, of a function that is there if all of this release are."""
    return f"_answer_{release()}"


def definitions() -> str:
    """Return the SQL that defines all functions of this release."""
    return installed_as(f"set local check_function_bodies = off;\n{_text()}") + _SETTINGS.replace(
        "{release}", release()
    )


def part_for(name: str) -> str | None:
    """Return the part of the work that a role needs to call a function, given its name in the database."""
    return parts().get(name.removesuffix(f"_{release()}")) if name.endswith(release()) else None


@cache
def parts() -> dict[str, str]:
    """Return the part of the work for each function that clients call; the first of several."""
    _, _, listed = _text().partition("function redisjobs_f._parts()")
    return dict(_PARTS.findall(listed))


@cache
def statement(function: str) -> bytes:
    """Return the statement that calls a function with its arguments in a transaction, for libpq."""
    return f"select * from {_called(function)})".encode()


@cache
def committing(function: str) -> bytes:
    """Return the statement that calls a function and commits before the answer; see functions/z-calls.sql."""
    if not writes(function):
        return statement(function)
    lists = bool(_LISTS.search(_headers()[function][1]))
    return f"call {_called(function)}, null{', null' * lists})".encode()


@cache
def writes(function: str) -> bool:
    """Return whether a function may write. Others take no locks."""
    return not _READS.search(_headers()[function][1])


def _called(function: str) -> str:
    types = _types(_headers()[function][0])
    casts = [f"${number}::{kind}" for number, kind in enumerate(types, 1)]
    return f"{installed_as(f'redisjobs_f.{function}')}({', '.join(casts)}"


@cache
def _headers() -> dict[str, tuple[str, str]]:
    """Return the arguments of each function, and what follows them."""
    return {name: (arguments, rest) for name, arguments, rest in _DEFINED.findall(_text())}


def _types(arguments: str) -> list[str]:
    found = [_ARGUMENT.match(each) for each in arguments.split(",")]
    return [" ".join(each[1].split()) for each in found if each]
