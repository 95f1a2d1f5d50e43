"""Rules of the sources that ruff does not check."""

import ast
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST: int = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["ruff"]["line-length"]


def test_no_line_of_sql_or_lua_is_longer_than_a_line_of_python_may_be() -> None:
    paths = [
        path
        for folder, kind in (("redisjobs", "sql"), ("lua", "lua"))
        for path in (ROOT / folder).rglob(f"*.{kind}")
    ]
    assert {path.suffix for path in paths} == {".sql", ".lua"}

    long = [
        f"{path.relative_to(ROOT)}:{number} has {len(line)} characters"
        for path in sorted(paths)
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if len(line) > MOST
    ]

    assert long == []


def test_no_table_of_the_package_is_spread_from_tuples_to_please_the_formatter() -> None:
    spread = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / "redisjobs").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Starred) and isinstance(node.value, ast.Tuple | ast.List | ast.Set)
    ]

    assert spread == []
