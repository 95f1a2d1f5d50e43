"""The projects that `redisjobs init` writes: their own tests pass, and their processes serve and run a job."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from pages import blocks
from store import eventually, free_port

import redisjobs
from redisjobs.local import server

pytestmark = pytest.mark.anyio

CHECKOUT = Path(redisjobs.__file__).parents[1]
FRAMEWORKS = ("fastapi", "flask", "django")


def redisjobs_init(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "redisjobs", "init", *arguments]
    env = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    return subprocess.run(command, cwd=folder, env=env, text=True, capture_output=True, timeout=50)


@pytest.fixture(params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def project(framework: str, tmp_path: Path) -> Path:
    """A project as `init` writes it, where its framework can be imported."""
    if framework == "django" and sys.version_info < (3, 12):
        pytest.skip("Django 6 needs Python 3.12 or newer")
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed")
    folder = tmp_path / "new" / "shop"
    written = redisjobs_init(str(folder), "--framework", framework, folder=tmp_path)
    assert written.returncode == 0, written.stderr
    return folder


@pytest.fixture
def start(project: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts commands of the project; their output goes to the files `log-0`, `log-1`, ..."""
    started: list[subprocess.Popen[str]] = []

    def start(words: list[str], folder: Path = project, **variables: str) -> "subprocess.Popen[str]":
        first, *rest = words
        command = [sys.executable, *([] if first == "python" else ["-m", first]), *rest]
        env = os.environ | {"PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1"} | variables
        with (project / f"log-{len(started)}").open("w") as log:
            started.append(subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log, text=True))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


def here(words: list[str], port: int) -> list[str]:
    """A command of compose.yaml, for this machine: on the loopback, on another port."""
    text = "\0".join(words).replace("0.0.0.0", "127.0.0.1").replace("8000", str(port)).replace("8080", "0")
    return text.split("\0")


@pytest.mark.slow
async def test_its_processes_serve_a_request_run_its_job_and_stop_in_order(
    project: Path, start: Callable[..., "subprocess.Popen[str]"], own_server: server.Server
) -> None:
    services: dict[str, Any] = yaml.safe_load((project / "compose.yaml").read_text())["services"]
    url, port = {"REDISJOBS_URL": own_server.url}, free_port()
    web = start(here(services["web"]["command"], port), **url)
    worker = start(here(services["worker"]["command"], port), **url)
    address = f"http://127.0.0.1:{port}"

    def is_up() -> bool:
        assert web.poll() is None, (project / "log-0").read_text()
        try:
            return bool(httpx.get(f"{address}/health").json() == {"status": "ok"})
        except httpx.TransportError:
            return False

    await eventually(is_up, within=40)
    answer = httpx.post(f"{address}/signup", params={"email": "joe@email.com"})  # noqa: ASYNC210
    assert answer.status_code == 202
    log = project / "log-1"
    await eventually(lambda: "to joe@email.com: Welcome" in log.read_text(), within=40)
    if "task" in answer.json():  # Django can show it
        found = f"{address}/tasks/{answer.json()['task']}"
        await eventually(lambda: httpx.get(found).json() == {"status": "SUCCESSFUL", "errors": []})

    for process in (worker, web):
        process.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0, log.read_text()
    assert web.wait(30) in (0, -signal.SIGTERM), (project / "log-0").read_text()


@pytest.mark.slow
def test_its_own_tests_pass(project: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"]
    env = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(command, cwd=project, env=env, text=True, capture_output=True, timeout=100)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["django"], indirect=True)
async def test_the_command_of_django_runs_some_queues_by_several_processes_from_any_folder(
    project: Path, tmp_path: Path, start: Callable[..., "subprocess.Popen[str]"], own_server: server.Server
) -> None:
    url = {"REDISJOBS_URL": own_server.url, "DJANGO_SETTINGS_MODULE": "project.settings"}
    enqueue = "import django; django.setup(); from signups.tasks import send_email as t; t.enqueue('ann', 'Hi')"
    enqueue += "; t.using(queue_name='default').enqueue('bob', 'Hi')"
    assert start(["python", "-c", enqueue], **url).wait(40) == 0, (project / "log-0").read_text()

    manage = ["python", str(project / "manage.py"), "redisjobs"]
    options = ["--queue", "emails=2", "--processes", "2", "--until-idle", "--settings=project.settings"]
    worked = start([*manage, "worker", *options], folder=tmp_path, REDISJOBS_URL=own_server.url).wait(60)

    log = (project / "log-1").read_text()
    assert worked == 0, log
    assert "to ann: Hi" in log
    assert "to bob: Hi" not in log


# What is written


@pytest.mark.parametrize("name", ["README.md", "app"])
def test_it_overwrites_nothing(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")

    refused = redisjobs_init(".", folder=tmp_path)

    assert refused.returncode == 1
    assert f"nothing was written: . has {name} already; name another directory" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_link_to_nothing_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new/README.md").symlink_to(tmp_path / "elsewhere")

    refused = redisjobs_init("new", folder=tmp_path)

    assert "nothing was written: new has README.md already" in refused.stderr
    assert not (tmp_path / "elsewhere").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")

    refused = redisjobs_init("file/new", folder=tmp_path)

    assert (refused.returncode, "Traceback" in refused.stderr) == (1, False)
    assert "file/new/.dockerignore can't be written: Not a directory; the project is not whole" in refused.stderr


@pytest.mark.parametrize("source", ["git+https://host/our/redisjobs.git@v1", "a checkout"])
def test_the_readme_names_where_redisjobs_comes_from(source: str, tmp_path: Path) -> None:
    (tmp_path / "a checkout").mkdir()

    done = redisjobs_init("new", "--framework", "flask", "--source", source, folder=tmp_path)

    assert done.returncode == 0, done.stderr
    named = source if "://" in source else f"'{tmp_path / source}'"
    assert f"\npip wheel --no-deps --wheel-dir wheels {named}\n" in (tmp_path / "new/README.md").read_text()


def test_by_default_it_comes_from_where_this_one_does_and_a_wrong_place_is_refused(tmp_path: Path) -> None:
    done = redisjobs_init("new", folder=tmp_path)
    refused = redisjobs_init("other", "--source", "nowhere", folder=tmp_path)

    (found,) = re.findall(r"--wheel-dir wheels (\S+)", (tmp_path / "new/README.md").read_text())
    assert done.returncode == 0
    assert Path(found).exists()
    assert (refused.returncode, (tmp_path / "other").exists()) == (2, False)
    assert "--source nowhere: there is no such path" in refused.stderr


def test_where_it_was_installed_from_is_as_installers_note_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from redisjobs.cli import init
    from redisjobs.cli.errors import Mistake

    class Noted:
        def __init__(self, noted: Any) -> None:
            self.noted = noted

        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return None if self.noted is None else json.dumps(self.noted)

    def origin(noted: Any) -> str:
        monkeypatch.setattr(init, "distribution", lambda _: Noted(noted))
        return init._origin()

    git = {"url": "https://host/redisjobs.git", "vcs_info": {"vcs": "git", "commit_id": "0f1e"}}
    assert origin(git) == "git+https://host/redisjobs.git@0f1e"
    assert origin({"url": "file:///a%20b/redisjobs.whl", "archive_info": {}}) == "/a b/redisjobs.whl"
    assert origin(None) == str(CHECKOUT)
    monkeypatch.setattr(init, "_CHECKOUT", Path("nowhere"))
    with pytest.raises(Mistake, match=r"it is not known where .* has redisjobs from: give --source"):
        origin(None)


def test_a_project_never_installs_the_other_package_of_this_name(framework: str) -> None:
    folder = CHECKOUT / "examples" / framework
    lines = (folder / "requirements.txt").read_text().splitlines()

    assert lines[0] == f"./wheels/redisjobs-{redisjobs.__version__}-py3-none-any.whl[worker]"
    assert not [line for line in lines[1:] if "redisjobs" in line]
    texts = [(folder / name).read_text("utf-8") for name in ("README.md", "Dockerfile")]
    assert not [text for text in texts if re.search(r"pip install[^\n]* redisjobs", text)]
    assert "--wheel-dir wheels ../..\n" in (folder / "README.md").read_text()


def test_an_image_gets_the_workers_signals_and_time_to_stop(framework: str) -> None:
    folder = CHECKOUT / "examples" / framework
    services = yaml.safe_load((folder / "compose.yaml").read_text())["services"]
    (command,) = re.findall(r"^CMD (.*)$", (folder / "Dockerfile").read_text(), re.MULTILINE)

    assert json.loads(command) == services["worker"]["command"]  # in exec form
    assert services["worker"]["stop_grace_period"] == "35s"


@pytest.mark.parametrize("page", ["django", "flask"])
def test_what_the_pages_show_is_in_the_projects(page: str) -> None:
    files = [path.read_text("utf-8") for path in (CHECKOUT / "examples" / page).rglob("*.py")]
    shown = blocks((CHECKOUT / f"docs/how-to/use-with-{page}.md").read_text("utf-8"), "py")

    assert len(shown) > 2
    own = [code for code in shown if not any(code in text for text in files)]
    assert ["Connections()" in code for code in own] == ([True] if page == "django" else [])
