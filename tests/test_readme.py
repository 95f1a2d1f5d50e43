"""The README and all pages of the documentation are true: what they show is run, what they name is there."""

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import types
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
import redis
import typer
import yaml
from pages import PAGES, PROJECT, README, Page, awaits, blocks, commands_below, of

from redisjobs.cli.app import make
from redisjobs.drivers.redis import scripts as lua
from redisjobs.local import server

pytestmark = pytest.mark.anyio

_PRINTS = re.compile(r"# prints: (.*)")
_SAMPLE_URL = "redis://127.0.0.1:6379/0"
_PROGRAMS = {
    *(".", "bash", "docker", "export", "psql", "python", "python3", "redis-cli", "redisjobs"),
    *(f".venv/bin/{name}" for name in ("basedpyright", "mutmut", "mypy", "pip", "python", "ruff", "zensical")),
}
_RUN_HERE = {"python", "sh", "console"}  # each such block is run, or its commands are held to be right
_READ_HERE = {"ini", "yaml", "toml"}  # parsed, and their commands held to be right
_SHOWN = {
    "text",  # output and drawings
    "pyi",  # signatures, as test_docs.py has them
    "py",  # code for other libraries
    "sql",  # test_postgres_roles.py runs it
}
_OF_PROJECTS = {"docs/how-to/use-with-django.md", "docs/how-to/use-with-flask.md"}
"""Pages whose code is that of a project in examples/: tests/frameworks/test_projects.py compares them."""


def python(*words: str, folder: Path, **variables: str) -> str:
    """What a Python process prints that runs in a folder, with this checkout's redisjobs."""
    env = os.environ | {"PYTHONPATH": str(PROJECT), "COLUMNS": "200", "TERM": "dumb"}
    env.pop("REDISJOBS_URL", None)
    run = subprocess.run(
        [sys.executable, *words], cwd=folder, env=env | variables, text=True, capture_output=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def write_files(page: Page, folder: Path, url: str) -> None:
    """The files of a page, as a reader would save them, with another server."""
    for name, code in page.files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code.replace(_SAMPLE_URL, url), "utf-8")


# The files that pages show

# The other one has a test of its own, which needs Postgres: tests/test_postgres_docs.py.
_WITH_FILES = [page for page in PAGES if page.files and "redisjobs dev --postgres" not in page.text]


@pytest.mark.parametrize("page", of(*_WITH_FILES))
def test_the_files_of_a_page_are_an_example(page: Page, project: Path) -> None:
    examples = {
        str(path.relative_to(folder)): path.read_text("utf-8")
        for folder in (project / "examples").iterdir()
        for path in folder.rglob("*.py")
    }

    assert page.files.items() <= examples.items()


@pytest.mark.slow
@pytest.mark.parametrize("page", of(*_WITH_FILES))
def test_the_commands_of_a_page_with_files_work_one_after_another_and_print_what_they_say(
    page: Page, tmp_path: Path, own_server: server.Server
) -> None:
    write_files(page, tmp_path, own_server.url)
    assert page.commands
    printed = ""

    for command in page.commands:
        words = shlex.split(command)
        match words:
            case ["python3", *_] | [".", *_] | ["redisjobs", "dev", *_]:
                continue  # the environment and the server that this test has already
            case ["python", *rest]:
                printed += python(*rest, folder=tmp_path)
            case ["redis-cli", *rest]:  # by the real one: test_redis_cli.py
                with redis.Redis.from_url(own_server.url) as client:
                    assert client.execute_command(*rest)
            case ["redisjobs", "worker", *_]:
                once = [] if "--until-idle" in words else ["--until-idle"]
                printed += python("-m", *words, *once, folder=tmp_path)
            case _:
                printed += python("-m", *words, folder=tmp_path, REDISJOBS_URL=own_server.url)

    promised = [line for code in page.files.values() for line in _PRINTS.findall(code)]
    promised += "".join(blocks(page.text, "text")).splitlines()
    assert [line for line in promised if line not in printed.splitlines()] == []


def test_the_readme_and_the_tutorial_begin_with_one_file_that_a_worker_can_run() -> None:
    for page in (README, Page(PROJECT / "docs/tutorial/first-queue.md")):
        name, code = next(iter(page.files.items()))
        assert name == "app.py"
        assert "\n@queue.job\n" in code
        assert {"python app.py", "redisjobs worker app:queue"} <= {
            command.removesuffix(" --until-idle") for command in page.commands
        }


# The other Python blocks

_NEEDS = {"docs/how-to/run-agents.md": "pydantic_ai"}
"""What pages need that the extra `test` does not bring: `dev` does."""


@pytest.mark.filterwarnings("ignore:Using .httpx. with .starlette")  # a later Starlette prefers another client
@pytest.mark.parametrize("page", of(*(page for page in PAGES if page.parts)))
async def test_the_parts_run_from_top_to_bottom_and_print_what_they_say(
    page: Page, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if page.name in _NEEDS:
        pytest.importorskip(_NEEDS[page.name], reason="needs an extra that `dev` brings")
    notebook = types.ModuleType("notebook")
    monkeypatch.setitem(sys.modules, "notebook", notebook)

    for code in page.parts:
        await run_block(code, notebook.__dict__, page.name)

        assert capsys.readouterr().out.splitlines() == _PRINTS.findall(code), code


async def run_block(code: str, names: dict[str, Any], where: str) -> None:
    """Run code that may `await` at its top level, as `python -m asyncio` does, or call `asyncio.run`."""
    compiled = compile(code, where, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    if awaits(code):
        await eval(compiled, names)
    else:
        await anyio.to_thread.run_sync(eval, compiled, names)  # a thread without an event loop


@pytest.mark.parametrize("page", of(*(page for page in PAGES if page.parts)))
def test_the_parts_of_a_page_can_be_pasted_into_a_file(page: Page) -> None:
    assert not awaits("\n".join(page.parts))


def test_there_are_parts_enough_to_show_everything() -> None:
    assert sum(len(page.parts) for page in PAGES) > 25


@pytest.mark.parametrize("page", of(*PAGES))
def test_every_block_says_its_language_and_is_held_to_the_truth_by_a_test(page: Page) -> None:
    assert page.languages <= _RUN_HERE | _READ_HERE | _SHOWN
    assert "pyi" not in page.languages or page.name.startswith("docs/reference/api/")
    assert "sql" not in page.languages or page.name == "docs/how-to/restrict-access.md"
    assert "py" not in page.languages or page.name.startswith("docs/coming-from/") or page.name in _OF_PROJECTS


# Commands


def test_the_two_commands_need_nothing_but_python_and_stand_on_one_line_each() -> None:
    first, second = (line for line in README.commands if line.startswith("python3 -m venv"))

    assert first.endswith(".venv/bin/redisjobs demo")
    assert second.endswith(".venv/bin/python -m pytest")
    for command in (first, second):
        assert re.findall(r"(?:^|&& )(\S+)", command)[:2] == ["python3", ".venv/bin/pip"]
        assert not set(re.findall(r"\w+", command)) & {"uv", "docker", "apt", "brew", "sudo"}


def test_ci_runs_the_very_command_of_the_readme(project: Path) -> None:
    second = [line for line in README.commands if line.endswith("-m pytest")]
    extracting = "sed -n 's/^\\(python3 -m venv .*-m pytest\\)$/\\1/p' README.md"
    script = (project / ".ci/run").read_text("utf-8")

    assert extracting in script
    extracted = subprocess.run(["bash", "-c", extracting], cwd=project, check=True, text=True, capture_output=True)
    assert extracted.stdout.splitlines() == second
    assert os.access(project / ".ci/run", os.X_OK)


def started_by_others(page: Page) -> Iterator[list[str]]:
    """The commands in a page's units of systemd and documents of Kubernetes."""
    for unit in blocks(page.text, "ini"):
        parser = ConfigParser(interpolation=None)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read_string(unit)
        yield shlex.split(parser["Service"]["ExecStart"])
    for document in blocks(page.text, "yaml"):
        for container in yaml.safe_load(document)["spec"]["template"]["spec"]["containers"]:
            yield container["command"]


def calls(page: Page) -> list[list[str]]:
    """Every call of redisjobs on a page, without the program."""
    typed = [shlex.split(line) for line in page.commands]
    return [words[1:] for words in (*typed, *started_by_others(page)) if words and words[0].endswith("redisjobs")]


@pytest.mark.parametrize("page", of(*PAGES))
def test_every_command_line_is_one_that_is_understood(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDISJOBS_DATABASE", "postgresql://127.0.0.1/jobs")  # as `redisjobs dev --postgres` says
    for words in calls(page):
        command: Any = typer.main.get_command(make())
        while below := commands_below(command):
            if command.invoke_without_command and words[0] not in below:
                break  # options of the group itself
            command = below[words.pop(0)]
        command.make_context("redisjobs", words)  # raises what the command line would say


def test_there_are_command_lines_enough_to_show_everything() -> None:
    assert sum(len(calls(page)) for page in PAGES) > 50


@pytest.mark.parametrize("page", of(*PAGES))
def test_every_other_command_runs_what_is_there(page: Page) -> None:
    for line in page.commands:
        words = shlex.split(line)
        assert words[0] in _PROGRAMS, line
        if words[0].endswith("python") and "-m" in words:
            assert importlib.util.find_spec(words[words.index("-m") + 1]), line
        if words[0] not in ("redisjobs", "redis-cli", "export", "docker"):
            named = [word for word in words[1:] if re.fullmatch(r"(tests|\.ci)/[\w/]+(\.\w+)?|\w+\.py", word)]
            there = (
                {path.name for path in (PROJECT / "examples").glob("*/*.py")} if page.name in _OF_PROJECTS else ()
            )
            assert all((PROJECT / word).exists() or word in page.files or word in there for word in named), line


@pytest.mark.parametrize("page", of(*PAGES))
def test_every_command_that_a_page_speaks_of_is_there(page: Page) -> None:
    root: Any = typer.main.get_command(make())

    spoken_of = set(re.findall(r"(?:^\$ |`)redisjobs ([a-z]+)", page.text, re.MULTILINE))

    assert spoken_of <= set(root.commands)


# What pages name


def test_the_architecture_lists_every_package_and_no_other(project: Path) -> None:
    page = (project / "docs/architecture.md").read_text("utf-8")
    named = set(re.findall(r"^\| `(redisjobs/[^`]+/)` \|", page, re.MULTILINE))
    packages = {
        str(path.parent.relative_to(project)) + "/" for path in (project / "redisjobs").rglob("__init__.py")
    }
    assert named == packages - {"redisjobs/", "redisjobs/drivers/"}


@pytest.mark.parametrize("page", of(*PAGES))
def test_links_lead_somewhere(page: Page, project: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.prose):
        there = (page.path.parent / target).resolve() if target else page.path
        assert there.exists(), target
        assert there.is_relative_to(project)
        assert not anchor or anchor in Page(there).anchors, (target, anchor)


def test_no_one_is_told_to_install_another_projects_package(project: Path) -> None:
    shown = [page.path for page in PAGES]
    for path in [*shown, project / "lua/README.md", *project.glob("redisjobs/**/*.py")]:
        text = path.read_text("utf-8")
        assert not re.search(r"pip install [^\n&]*\bredisjobs(?![\w.])", text), path


# The page of the scripts


def scripts(project: Path) -> dict[str, str]:
    return {path.name: path.read_text("utf-8") for path in (project / "lua").glob("*.lua")}


def keys_of_scripts() -> set[str]:
    """The keys that scripts use; `ready:` is how `push_one` names the three streams."""
    return {key for name in lua.names() for key in lua.script(name).keys} - {"ready:"}


def test_the_key_map_has_every_key_and_the_script_list_every_script(project: Path) -> None:
    page = (project / "lua/README.md").read_text("utf-8")
    key_table, script_table = (
        page.split(title)[1].split("\n## ")[0] for title in ("## The keys", "## The scripts")
    )
    first_column = "".join(re.findall(r"^\| (`.*?) \|", key_table, re.MULTILINE))
    mapped = {key.partition("<")[0] for key in re.findall(r"`([^`]+)`", first_column)}

    assert mapped == keys_of_scripts()
    assert set(re.findall(r"^\| `(\w+\.lua)`", script_table, re.MULTILINE)) == set(scripts(project))


def test_each_arrow_of_the_diagram_names_a_script_that_is_there(project: Path) -> None:
    page = (project / "lua/README.md").read_text("utf-8")
    (diagram,) = re.findall(r"^```\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    words = set(re.findall(r"[a-z_]+", diagram))
    named = {path.removesuffix(".lua") for path in scripts(project)} & words
    settlements = set(re.findall(r"^  settlements\.(\w+) =", scripts(project)["settle.lua"], re.MULTILINE))
    drawn = {
        settlement for said in re.findall(r"settle: ([a-z, ]*[a-z])", diagram) for settlement in said.split(", ")
    }

    assert named == {"push", "claim", "settle", "release", "reclaim", "signal", "requeue", "delete"}
    assert drawn == settlements


def test_all_that_changes_a_jobs_state_is_in_the_diagram_or_told_beside_it(project: Path) -> None:
    states = (project / "lua/README.md").read_text("utf-8").split("## The states")[1].split("\n## ")[0]
    looks = {"find", "scan", "groups", "counts", "backlog", "pauses", "limits", "workers", "statistics", "ahead"}
    others = {
        "join",
        "adopt",
        "recover",
        "tidy",
        "retain",
        "declare",
        "record",
    }  # what they change is no job's state

    for name in {path.removesuffix(".lua") for path in scripts(project)} - looks - others:
        assert re.search(rf"\b{name}\b", states), name
