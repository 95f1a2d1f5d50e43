"""Postgres looks up the names that its functions call only when they run: here all are looked up at once."""

import ast
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest

import redisjobs.drivers.postgres
from redisjobs.drivers.postgres import functions

_PACKAGE = Path(redisjobs.drivers.postgres.__file__).parent
_NO_CODE = re.compile(r"--[^\n]*|'(?:[^']|'')*'")


class Function(NamedTuple):
    """A function's name, how many arguments a call of it has at least and at most, and the text after its name."""

    name: str
    fewest: int
    most: int
    text: str


def text() -> str:
    """All files, without comments, and with empty strings."""
    folder = resources.files(redisjobs.drivers.postgres).joinpath("functions")
    files = [each.read_text("utf-8") for each in folder.iterdir() if each.name.endswith(".sql")]
    return _NO_CODE.sub(lambda found: "''" if found[0].startswith("'") else "", "\n".join(files))


def arguments(of: str) -> list[str]:
    """The arguments that stand at the beginning of a text, up to the parenthesis that closes them."""
    depth, found = 0, [""]
    for letter in of:
        depth += (letter in "([") - (letter in ")]")
        if depth < 0:
            break
        if letter == "," and depth == 0:
            found.append("")
        else:
            found[-1] += letter
    return found if found != [""] else []


def defined() -> list[Function]:
    """All functions."""
    found = []
    for part in text().split("create function redisjobs_f.")[1:]:
        name, _, rest = part.partition("(")
        given = [each for each in arguments(rest) if not each.strip().startswith("out ")]
        needed = [each for each in given if " default " not in each]
        found.append(Function(name, len(needed), len(given), rest))
    return found


FUNCTIONS = {each.name: each for each in defined()}


def called_in(of: str) -> Iterator[tuple[str, int]]:
    """The functions that a text calls, and with how many arguments."""
    for call in re.finditer(r"redisjobs_f\.(\w+)\s*\(", of):
        yield call[1], len(arguments(of[call.end() :]))


def called_by_python() -> set[str]:
    """The functions that the Python side calls, by `Call` or `statement`."""
    nodes = [node for path in _PACKAGE.glob("*.py") for node in ast.walk(ast.parse(path.read_text("utf-8")))]
    calls = [(node.func, node.args) for node in nodes if isinstance(node, ast.Call)]
    names = [args[0] for func, args in calls if isinstance(func, ast.Name) and func.id in ("Call", "statement")]
    parts = [each for name in names for each in ast.walk(name)]
    return {each.value for each in parts if isinstance(each, ast.Constant) and isinstance(each.value, str)}


def test_there_is_one_function_of_each_name() -> None:
    names = [each.name for each in defined()]
    assert sorted(names) == sorted({*names})
    assert len(names) > 100


def test_what_a_function_calls_is_there_and_takes_these_arguments() -> None:
    calls = [(each.name, *call) for each in FUNCTIONS.values() for call in called_in(each.text)]
    assert [call for call in calls if call[1] not in FUNCTIONS] == []
    assert [
        (caller, name, given)
        for caller, name, given in calls
        if not FUNCTIONS[name].fewest <= given <= FUNCTIONS[name].most
    ] == []


def test_what_python_calls_is_there_for_clients_and_a_part_of_the_work_allows_it() -> None:
    calls = called_by_python()
    assert calls <= FUNCTIONS.keys()
    assert not [name for name in calls if name.startswith("_")]
    assert calls == functions.parts().keys()


def test_no_function_is_unused() -> None:
    used = {name for each in FUNCTIONS.values() for name, _ in called_in(each.text) if name != each.name}
    granted = "_grant"  # by `redisjobs.allow`, a migration
    assert {*FUNCTIONS} - used - called_by_python() == {granted}


@pytest.mark.slow
def test_postgres_finds_no_fault_in_the_text_of_any_function(database: str) -> None:
    """It does not look when they are installed: some call functions that come later."""
    with psycopg.connect(database) as connection:
        texts = connection.execute(
            "select pg_get_functiondef(oid) from pg_proc where pronamespace = 'redisjobs'::regnamespace"
        ).fetchall()
        for (text,) in texts:
            connection.execute(text)
    assert len(texts) >= len(FUNCTIONS)
