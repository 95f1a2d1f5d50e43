"""The README is true: what it shows is run, what it names is there."""

import ast
import os
import re
import shlex
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from redisjobs import server
from redisjobs.cli.app import make

pytestmark = pytest.mark.anyio

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (\w+\.py): ")
_PRINTS = re.compile(r"# prints: (.*)")
_SAMPLE_URL = "redis://127.0.0.1:6379/0"


@pytest.fixture(scope="module")
def readme(project: Path) -> str:
    return (project / "README.md").read_text("utf-8")


def blocks(text: str, *languages: str) -> list[str]:
    """The code blocks in these languages."""
    return [code for language, code in _BLOCK.findall(text) if language in languages]


def commands(text: str) -> list[str]:
    """Every command a reader is given, a prompt, a comment aside."""
    lines = "".join(blocks(text, "sh", "console")).splitlines()
    return [line.removeprefix("$ ").partition("  #")[0].rstrip() for line in lines]


def python(*words: str, folder: Path) -> str:
    """What a Python process prints that runs in a folder, with this checkout's redisjobs."""
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "COLUMNS": "200", "TERM": "dumb"}
    env.pop("REDISJOBS_URL", None)
    run = subprocess.run([sys.executable, *words], cwd=folder, env=env, text=True, capture_output=True, timeout=50)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture
def running() -> Iterator[server.Server]:
    with server.start() as running:
        yield running


def files(readme: str) -> dict[str, str]:
    """The blocks that are files of their own, by name."""
    return {match[1]: code for code in blocks(readme, "python") if (match := _FILE.match(code))}


def test_the_files_of_the_readme_are_those_of_the_examples(readme: str, project: Path) -> None:
    examples = {path.name: path.read_text("utf-8") for path in (project / "examples/emails").glob("*.py")}

    assert files(readme) == examples


@pytest.mark.slow
def test_the_first_queue_runs_in_processes_of_its_own(readme: str, tmp_path: Path, running: server.Server) -> None:
    for name, code in files(readme).items():
        assert _SAMPLE_URL in code or name == "jobs.py"
        (tmp_path / name).write_text(code.replace(_SAMPLE_URL, running.url), "utf-8")

    produce, work = "python signup.py", "redisjobs worker app:queue"
    assert {produce, work} <= set(commands(readme))

    job_id = python(*produce.split()[1:], folder=tmp_path)
    ran = python("-m", *work.split(), "--until-idle", folder=tmp_path)

    assert re.fullmatch(r"[0-9a-f]{28}\n", job_id)
    assert "to joe@email.com: Welcome (attempt 1)" in ran


async def test_the_parts_run_from_top_to_bottom_and_print_what_they_say(
    readme: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = types.ModuleType("notebook")
    monkeypatch.setitem(sys.modules, "notebook", notebook)
    parts = [code for code in blocks(readme, "python") if not _FILE.match(code)]
    assert len(parts) >= 6

    for code in parts:
        await run_block(code, notebook.__dict__)

        assert capsys.readouterr().out.splitlines() == _PRINTS.findall(code), code


async def run_block(code: str, names: dict[str, Any]) -> None:
    """Run code that may `await` at its top level, as `python -m asyncio` does."""
    compiled = compile(code, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    awaited = eval(compiled, names)
    if awaited is not None:
        await awaited


def test_the_two_commands_need_nothing_but_python_and_stand_on_one_line_each(readme: str) -> None:
    first, second = (line for line in commands(readme) if line.startswith("python3 -m venv"))

    assert first.endswith(".venv/bin/redisjobs demo")
    assert second.endswith(".venv/bin/python -m pytest")
    for command in (first, second):
        assert re.findall(r"(?:^|&& )(\S+)", command)[:2] == ["python3", ".venv/bin/pip"]
        assert not set(re.findall(r"\w+", command)) & {"uv", "docker", "apt", "brew", "sudo"}


def test_ci_runs_the_very_command_of_the_readme(readme: str, project: Path) -> None:
    second = [line for line in commands(readme) if line.endswith("-m pytest")]
    extracting = "sed -n 's/^\\(python3 -m venv .*-m pytest\\)$/\\1/p' README.md"
    script = (project / ".ci/run").read_text("utf-8")

    assert extracting in script
    extracted = subprocess.run(["bash", "-c", extracting], cwd=project, check=True, text=True, capture_output=True)
    assert extracted.stdout.splitlines() == second
    assert os.access(project / ".ci/run", os.X_OK)


def test_every_command_line_in_the_readme_is_one_that_is_understood(readme: str) -> None:
    calls = [shlex.split(line)[1:] for line in commands(readme) if line.startswith("redisjobs ")]
    assert len(calls) > 8

    for words in calls:
        command: Any = typer.main.get_command(make(()))
        while commands_below := getattr(command, "commands", None):
            command = commands_below[words.pop(0)]
        command.make_context("redisjobs", words)  # raises what the command line would say


def test_every_command_the_readme_speaks_of_is_there_and_the_other_way_round(readme: str) -> None:
    root: Any = typer.main.get_command(make(()))

    spoken_of = set(re.findall(r"(?:^\$ |`)redisjobs ([a-z]+)", readme, re.MULTILINE))

    assert spoken_of == set(root.commands)


def test_the_map_of_the_house_has_every_file_and_no_other(readme: str, project: Path) -> None:
    named = set(re.findall(r"^\| `(redisjobs/[^`]+)`", readme, re.MULTILINE))
    there = {str(path.relative_to(project)) for path in (project / "redisjobs").rglob("*.py")}
    within = {path for path in there if any(name.endswith("/") and path.startswith(name) for name in named)}

    assert {name for name in named if not name.endswith("/")} == there - within
    assert all((project / name).exists() for name in named)


def test_links_lead_somewhere(readme: str, project: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", readme):
        assert (project / target).exists(), target


def test_nobody_is_told_to_install_another_projects_package(project: Path) -> None:
    for path in [project / "README.md", project / "lua/README.md", *project.glob("redisjobs/**/*.py")]:
        text = path.read_text("utf-8")
        assert not re.search(r"pip install [^\n&]*\bredisjobs(?![\w.])", text), path


def scripts(project: Path) -> dict[str, str]:
    return {path.name: path.read_text("utf-8") for path in (project / "lua").glob("*.lua")}


def test_the_key_map_has_every_key_and_the_script_list_every_script(project: Path) -> None:
    page = (project / "lua/README.md").read_text("utf-8")
    key_table, script_table = (
        page.split(title)[1].split("\n## ")[0] for title in ("## The keys", "## The scripts")
    )
    first_column = "".join(re.findall(r"^\| (`.*?) \|", key_table, re.MULTILINE))
    mapped = {key.partition("<")[0] for key in re.findall(r"`([^`]+)`", first_column)}
    headers = "".join(scripts(project).values())

    assert mapped == set(re.findall(r"^-- KEYS\[\d+\] +(\S+)", headers, re.MULTILINE))
    assert set(re.findall(r"^\| `(\w+\.lua)`", script_table, re.MULTILINE)) == set(scripts(project))


def test_each_arrow_of_the_diagram_names_a_script_that_is_there(project: Path) -> None:
    page = (project / "lua/README.md").read_text("utf-8")
    (diagram,) = re.findall(r"^```\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    words = set(re.findall(r"[a-z_]+", diagram))
    named = {path.removesuffix(".lua") for path in scripts(project)} & words
    settlements = set(re.findall(r"^settlements\.(\w+) =", scripts(project)["settle.lua"], re.MULTILINE))
    drawn = {
        settlement for said in re.findall(r"settle: ([a-z, ]*[a-z])", diagram) for settlement in said.split(", ")
    }

    assert named == {"push", "claim", "settle", "release", "reclaim", "requeue", "delete"}
    assert drawn == settlements


def test_all_that_changes_a_jobs_state_is_in_the_diagram_or_told_beside_it(project: Path) -> None:
    states = (project / "lua/README.md").read_text("utf-8").split("## The states")[1].split("\n## ")[0]
    looks = {"find", "jobs", "counts"}
    others = {"join", "adopt", "recover", "tidy"}  # what they change is no job's state

    for name in {path.removesuffix(".lua") for path in scripts(project)} - looks - others:
        assert re.search(rf"\b{name}\b", states), name
