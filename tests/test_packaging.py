"""What is shipped is whole, and what is committed is fit to be shipped."""

import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

import redisjobs
from redisjobs.drivers.redis.origin import origin_of
from redisjobs.local import postgres_server


def run(*words: str | Path, folder: Path) -> str:
    """What a command prints; it has to succeed."""
    done = subprocess.run(words, cwd=folder, text=True, capture_output=True, timeout=50)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def committed(*paths: str, folder: Path) -> list[str]:
    """The files that are, or are about to be, committed."""
    return run("git", "ls-files", "--cached", "--others", "--exclude-standard", *paths, folder=folder).splitlines()


@pytest.fixture(scope="module")
def wheel(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder, folder=project)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def metadata(project: Path) -> dict[str, Any]:
    return tomllib.loads((project / "pyproject.toml").read_text("utf-8"))


@pytest.mark.slow
def test_the_wheel_holds_every_module_every_script_the_projects_the_type_marker_and_the_licence(
    wheel: Path, project: Path
) -> None:
    modules = {str(path.relative_to(project)) for path in (project / "redisjobs").rglob("*.py")}
    page = [*(project / "redisjobs/web/templates").iterdir(), *(project / "redisjobs/web/static").iterdir()]
    modules |= {str(path.relative_to(project)) for path in page}
    scripts = {f"redisjobs/{path.relative_to(project)}" for path in (project / "lua").rglob("*.lua")}
    folders = [f"examples/{name}" for name in ("django", "fastapi", "flask")]
    projects = {name.replace("examples/", "redisjobs/projects/") for name in committed(*folders, folder=project)}

    held = set(zipfile.ZipFile(wheel).namelist())

    assert len(scripts) > 20
    assert len(projects) > 30
    assert {name for name in held if name.startswith("redisjobs/projects/")} == projects
    assert modules | scripts | {"redisjobs/py.typed"} <= held
    assert [name for name in held if re.fullmatch(r"redisjobs_queue-[\d.]+\.dist-info/licenses/LICENSE", name)]
    assert not [name for name in held if name.startswith(("tests", "examples")) or "__pycache__" in name]


def test_the_version_is_said_in_one_place(wheel: Path, project: Path) -> None:
    version = redisjobs.__version__

    sources = [*(project / "redisjobs").rglob("*.py"), project / "pyproject.toml"]
    saying = [path for path in sources if f'"{version}"' in path.read_text("utf-8")]

    assert wheel.name == f"redisjobs_queue-{version}-py3-none-any.whl"
    assert saying == [project / "redisjobs/_version.py"]


@pytest.mark.slow
def test_an_installed_wheel_finds_its_scripts_and_its_types(wheel: Path, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    run(*pip, "--target", tmp_path / "site", wheel, folder=tmp_path)
    program = f"""
import sys
sys.path[:0] = [{str(tmp_path / "site")!r}]
sys.path.append({sysconfig.get_path("purelib")!r})
import redisjobs
from redisjobs.drivers.redis import scripts
print(redisjobs.__file__)
print(scripts.folder())
for name in scripts.names():
    assert scripts.script(name).keys, name
"""

    # -S: no .pth files, so that an editable install of this checkout is not in the way.
    module, folder = run(sys.executable, "-I", "-S", "-c", program, folder=tmp_path).split()

    assert Path(module) == tmp_path / "site/redisjobs/__init__.py"
    assert Path(folder) == tmp_path / "site/redisjobs/lua"


def test_every_dependency_names_its_lowest_version_and_why_it_is_there(
    metadata: dict[str, Any], project: Path
) -> None:
    groups = [metadata["project"]["dependencies"], *metadata["project"]["optional-dependencies"].values()]
    needed = [line for group in groups for line in group if not line.startswith("redisjobs-queue[")]
    lines = (project / "pyproject.toml").read_text("utf-8").splitlines()

    declared = [line for line in lines if re.match(r'  "[\w-]+(\[\w+\])?>=\d[\d.]*["; ]', line)]

    assert len(declared) == len(needed) > 10
    # The servers have their reason above them, being too long for a line.
    assert [line for line in declared if "  # " not in line and "sys_platform ==" not in line] == []


def test_ci_pins_every_dependency_to_its_lowest_version(metadata: dict[str, Any], project: Path) -> None:
    pins = run(sys.executable, ".ci/lowest.py", folder=project).splitlines()

    groups = [metadata["project"]["dependencies"], *metadata["project"]["optional-dependencies"].values()]
    names = {re.split(r"[\[>=;]", line)[0] for group in groups for line in group} - {"redisjobs-queue"}
    assert {pin.partition("==")[0] for pin in pins} == names
    floor = re.search(r"anyio>=([\d.]+)", str(groups))
    assert floor
    assert f"anyio=={floor[1]}" in pins


def test_what_is_mutated_and_the_tests_that_judge_it_are_there(project: Path) -> None:
    named = set[str]()
    for path in ("pyproject.toml", ".ci/mutate_lua.py"):
        named |= set(re.findall(r'"((?:redisjobs|tests)/[\w/]+\.py)"', (project / path).read_text("utf-8")))

    assert len(named) > 40
    assert [name for name in sorted(named) if not (project / name).is_file()] == []


def test_the_compose_file_has_a_redis_and_a_valkey_that_lose_nothing(project: Path) -> None:
    compose = yaml.safe_load((project / "docker-compose.yml").read_text("utf-8"))

    services = compose["services"]
    assert {service["image"].rpartition("/")[2].partition(":")[0] for service in services.values()} == {
        "redis",
        "valkey",
        "postgres",
    }
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert len(set(ports)) == len(ports)
    assert all(port.startswith("127.0.0.1:") for port in ports)
    for service in (each for each in services.values() if re.match("(redis|valkey)-server ", each["command"])):
        assert "--appendonly yes" in service["command"]
        assert "--maxmemory-policy noeviction" in service["command"]
        (volume,) = service["volumes"]
        assert volume.partition(":")[0] in compose["volumes"]
        assert volume.endswith(":/data")
    assert {name for name, service in services.items() if "profiles" not in service} == {"redis", "valkey"}
    assert all(services[name]["healthcheck"]["test"][0] == "CMD" for name in ("redis", "valkey"))


def test_the_compose_file_has_a_postgres_that_loses_nothing_at_the_url_that_it_names(project: Path) -> None:
    text = (project / "docker-compose.yml").read_text("utf-8")
    compose = yaml.safe_load(text)
    service = compose["services"]["postgres"]
    (url,) = re.findall(r"^#   (postgresql://\S+)$", text, re.MULTILINE)
    given = urlsplit(url)

    assert service["profiles"] == ["postgres"]
    assert service["ports"] == [f"{given.hostname}:{given.port}:5432"]
    assert service["healthcheck"]["test"][-1] == given.username
    assert not {"fsync", "synchronous_commit"} & {*re.findall(r"\w+", service["command"])}
    volume, _, folder = service["volumes"][0].partition(":")
    assert volume in compose["volumes"]
    assert folder == "/var/lib/postgresql/data"  # where the image of this version keeps its data
    assert int(service["image"].partition(":")[2]) >= postgres_server.FLOOR


@pytest.mark.parametrize(("profile", "scheme"), [("cluster", "redis+cluster"), ("sentinel", "redis+sentinel")])
def test_each_server_of_a_profile_of_the_compose_file_can_be_reached_and_is_in_the_url(
    project: Path, profile: str, scheme: str
) -> None:
    text = (project / "docker-compose.yml").read_text("utf-8")
    services = {
        name: service
        for name, service in yaml.safe_load(text)["services"].items()
        if service.get("profiles") == [profile]
    }
    (network,) = [service for service in services.values() if "ports" in service]
    others = [service for service in services.values() if service is not network]
    assert {service["network_mode"] for service in others} == {f"service:{profile}-network"}
    listening = [re.findall(r"(?:--|')port (\d+)", service["command"]) for service in others]
    assert sorted(f"127.0.0.1:{port}:{port}" for found in listening for port in found) == sorted(network["ports"])
    (url,) = re.findall(rf"^#   ({re.escape(scheme)}://\S+)$", text, re.MULTILINE)
    assert {f"{node}:{node.port}" for node in origin_of(url).nodes} <= {*network["ports"]}


def test_nothing_committed_names_a_place_on_a_machine_or_a_host(project: Path) -> None:
    home, url = (
        re.compile(r"(?<!\w)/(?:home/\w+|Users/\w+|root|work)/"),
        re.compile(r"https?://(?:\S*@)?([\w.-]+\.[a-z]+)"),
    )
    here = {str(project), sys.prefix} - {sys.base_prefix}

    for name in committed(folder=project):
        if (project / name).is_file():  # it may be about to go
            text = (project / name).read_text("utf-8", "replace")
            assert not home.search(text), name
            assert not [place for place in here if place in text], name
            hosts = {host for host in url.findall(text) if not host.endswith(".example")}  # no host has that name
            assert hosts <= {"www.apache.org", "www.w3.org"}, name  # the latter names SVG
