"""`[tool.redisjobs]` of pyproject.toml: what may be there, where it is found, and what goes before it."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import typer
from fleet import Fleet
from pages import PAGES, blocks
from store import eventually

from redisjobs.cli import app, config
from redisjobs.cli.errors import Failure, Mistake
from redisjobs.cli.worker import worker
from redisjobs_proof.torture.fleet.hosts import children

COMMAND: Any = typer.main.get_command(app.make())
KINDS: dict[object, str] = {
    bool: "a bool",
    int: "a whole number",
    float: "a number",
    list[Path]: "a text or a list of texts",
}

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Write the table in the file of the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("REDISJOBS_URL", "REDISJOBS_APP"):
        monkeypatch.delenv(name, raising=False)

    def write(table: str) -> Path:
        file = tmp_path / "pyproject.toml"
        file.write_text(f"[project]\nname = 'shop'\n\n[tool.redisjobs]\n{table}")
        return file

    return write


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process; its exit code, and what it printed."""

    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["redisjobs", *arguments])
        with pytest.raises(SystemExit) as left:
            app.run()
        return int(left.value.code or 0), *capfd.readouterr()

    return run


def parsed(command: str, *typed: str) -> dict[str, Any]:
    """What a command gets for these arguments, and the file."""
    defaults = config.load().defaults(COMMAND).get(command)
    context = COMMAND.commands[command].make_context(command, list(typed), default_map=defaults)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in context.params.items()}


def test_every_option_of_a_worker_can_be_in_the_file_with_its_type() -> None:
    options = {
        max(option.opts, key=len).removeprefix("--"): option
        for option in COMMAND.commands["worker"].params
        if option.param_type_name == "option" and not option.hidden and option.name != "help"
    }

    assert {"app", "queue", *options} == {*config.SHARED, *config.WORKER}
    types = get_type_hints(worker)
    for key, kind in config.WORKER.items():
        taken = types[options[key].name]
        (first, *_) = get_args(taken) or [taken]  # of `int | None`
        assert kind == ("a text" if key == "max-rss" else KINDS.get(first, "a text")), key


def test_what_is_typed_goes_before_the_environment_and_that_before_the_file(
    write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write("""
        app = "shop:queue"
        url = "redis://file"
        concurrency = 7
        max_rss = "2k"
        reload-dir = ["src", "lib"]
        import = "shop.jobs"
        schedules = false
    """)

    got = parsed("worker")
    assert got["targets"] == ["shop:queue"]
    assert (got["url"], got["concurrency"], got["max_rss"]) == ("redis://file", 7, 2000)
    assert list(map(str, got["reload_dir"])) == [str(file.parent / each) for each in ("src", "lib")]
    assert got["imports"] == ["shop.jobs"]
    assert (got["schedules"], got["processes"], got["lease"]) == (False, None, 15)

    monkeypatch.setenv("REDISJOBS_URL", "redis://environment")
    got = parsed("worker", "other:queue", "-c", "9", "--schedules", "--import", "more")
    assert (got["targets"], got["concurrency"], got["schedules"]) == (["other:queue"], 9, True)
    assert (got["url"], got["imports"]) == ("redis://environment", ["more"])
    monkeypatch.setenv("REDISJOBS_APP", "shop:far shop:near=2")
    assert parsed("worker")["targets"] == ["shop:far", "shop:near=2"]
    assert parsed("worker", "other:queue")["targets"] == ["other:queue"]
    assert parsed("worker", "--url", "redis://typed")["url"] == "redis://typed"


def test_operators_commands_take_the_queue_and_the_url_of_the_file_and_no_option_of_a_worker(
    write: Callable[[str], Path],
) -> None:
    write("app = 'shop:queue=3'\nurl = 'redis://file'\nlog = 'json'\nmetrics = '127.0.0.1:1'")

    assert parsed("stats")["queue"] == "shop:queue"
    assert parsed("stats", "-q", "typed")["queue"] == "typed"
    assert parsed("stats")["url"] == "redis://file"
    assert parsed("metrics", "--once")["targets"] == parsed("web")["targets"] == ["shop:queue"]
    assert parsed("worker")["targets"] == ["shop:queue=3"]
    assert config.load().defaults(COMMAND)["dead"]["list"] == {"queue": "shop:queue", "url": "redis://file"}
    assert (
        config.load().defaults(COMMAND)["workers"].items()
        >= {"queue": "shop:queue", "url": "redis://file"}.items()
    )

    write("app = ['shop:queue', 'shop:bulk']\nqueue = 'emails'")
    assert parsed("stats")["queue"] == "emails"
    write("app = ['shop:queue', 'shop:bulk']")
    assert parsed("stats")["queue"] == "default"


@pytest.mark.parametrize(
    "typed",
    [
        ("workers",),
        ("workers", "stop", "w1"),
        ("workers", "-q", "typed", "stop", "w1"),
        ("workers", "-q", "typed"),
    ],
)
def test_workers_and_its_commands_are_about_the_queue_of_the_file(
    write: Callable[[str], Path], run: Run, monkeypatch: pytest.MonkeyPatch, typed: tuple[str, ...]
) -> None:
    write("queue = 'emails'\nurl = 'redis://file'")
    asked = []

    def named(*queue_and_url: str | None) -> None:
        asked.append(queue_and_url)
        raise Failure("that is enough")

    monkeypatch.setattr("redisjobs.cli.workers.named", named)
    run(*typed)

    assert asked == [("typed" if "-q" in typed else "emails", "redis://file")]


@pytest.mark.parametrize("command", ["demo", "torture", "dev"])
def test_what_fills_or_breaks_a_server_takes_none_from_the_file(
    write: Callable[[str], Path], command: str
) -> None:
    write("app = 'shop:queue'\nurl = 'redis://file'\nlease = 3")

    assert command not in config.load().defaults(COMMAND)


def test_the_nearest_file_with_the_table_counts(
    write: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write("queue = 'emails'")
    below = tmp_path / "src" / "shop"
    below.mkdir(parents=True)
    (tmp_path / "src" / "pyproject.toml").write_text("[project]\nname = 'redisjobs-shop'")
    monkeypatch.chdir(below)

    assert config.load() == config.Config(file, {"queue": "emails"})
    below.rmdir()
    assert config.load() == config.Config()


@pytest.mark.parametrize(
    ("table", "error"),
    [
        ("concurency = 3", "unknown key 'concurency'; did you mean 'concurrency'?"),
        ("max_job = 3", "unknown key 'max_job'; did you mean 'max-jobs'?"),
        ("supervised = 3", "unknown key 'supervised'; there are app, queue, "),
        ("concurrency = '3'", "concurrency = '3' in [tool.redisjobs] is not a whole number"),
        ("processes = true", "processes = True in [tool.redisjobs] is not a whole number"),
        ("processes = 1.5", "is not a whole number"),
        ("lease = 'long'", "is not a number"),
        ("strict = 1", "is not a bool"),
        ("app = ['shop:queue', 3]", "is not a text or a list of texts"),
        ("url = ['redis://:secret@x']", "pyproject.toml: url in [tool.redisjobs] is not a text"),
        ("app =", "can't be read: Invalid value"),
    ],
)
def test_a_wrong_key_or_type_is_an_error_that_names_the_file(
    write: Callable[[str], Path], run: Run, table: str, error: str
) -> None:
    file = write(table)

    code, out, err = run("stats")

    assert (code, out) == (2, "")
    assert err.startswith(f"redisjobs: {file}")
    assert error in err
    assert err.count("\n") == 1


def test_a_value_out_of_range_is_an_error_that_names_the_file_too(write: Callable[[str], Path], run: Run) -> None:
    write("concurrency = 0\nlog-level = 'loud'\napp = 'shop:queue'")

    code, _, err = run("worker")

    assert code == 2
    assert "--concurrency" in err
    assert "pyproject.toml" in re.sub(r"[\s│]", "", err)
    code, _, err = run("worker", "-c", "0")
    assert "pyproject.toml" not in re.sub(r"[\s│]", "", err)


def test_the_help_names_the_file_and_shows_no_password(write: Callable[[str], Path], run: Run) -> None:
    write("concurrency = 77\nurl = 'redis://user:secret@host'")

    _, out, _ = run("worker", "--help")
    assert "pyproject.toml" in re.sub(r"\s", "", out)
    assert "secret" not in out
    write("wrong = 3")
    assert run("--version")[0] == run("--help")[0] == 0
    _, out, _ = run("dev", "--help")
    assert "pyproject.toml" not in re.sub(r"\s", "", out)


def test_without_a_file_the_help_names_none(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert "defaults come from" not in run("workers", "--help")[1]


def test_the_table_of_the_docs_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = [block for page in PAGES for block in blocks(page.text, "toml")]
    monkeypatch.chdir(tmp_path)

    assert tables
    for table in tables:
        (tmp_path / "pyproject.toml").write_text(table)
        assert parsed("worker")["targets"] == ["app:queue"]


def test_modules_of_the_working_directory_still_come_before_installed_ones(
    write: Callable[[str], Path], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("app = 'shop:queue'")
    below = tmp_path / "below"
    below.mkdir()

    before = list(sys.path)
    run("stats", "--help")
    assert sys.path == before
    monkeypatch.chdir(below)
    run("stats", "--help")

    assert sys.path == [*before, str(tmp_path)]


def test_a_table_that_is_none_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool]\nredisjobs = 3")
    monkeypatch.chdir(tmp_path)

    with pytest.raises(Mistake, match="is not a table"):
        config.load()


@pytest.mark.anyio
@pytest.mark.slow
async def test_a_worker_below_the_file_finds_its_queue_and_its_processes_take_no_defaults(fleet: Fleet) -> None:
    table = "app = 'app:queue'\nprocesses = 2\nconcurrency = 3\nstrict = true\ngrace = 1"
    file = fleet.folder / "pyproject.toml"
    file.write_text(f"[tool.redisjobs]\n{table}")
    fleet.folder /= "below"
    fleet.folder.mkdir()
    log = fleet.folder / "log"

    supervisor = fleet.command(targets=())

    await eventually(lambda: log.read_text().count("in 3 slots") == 2, within=20)
    assert len(children(supervisor.pid)) == 2
    assert all(not children(child) for child in children(supervisor.pid))
    supervisor.terminate()
    assert supervisor.wait(20) == 0
    first, *rest = log.read_text().splitlines()
    assert first.endswith(f"{file}: app, processes, concurrency, strict, grace")
    assert not any("defaults come from" in line for line in rest)
