"""The documentation is whole: short where it has to be, every page in its place, the reference as the code is."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pages import DOCS, PROJECT, README, Page, commands_below, of
from test_readme import keys_of_scripts

import redisjobs
from redisjobs import control, errors
from redisjobs.cli.app import make, run


def test_the_readme_is_short() -> None:
    assert len(README.text.splitlines()) <= 150


@pytest.mark.parametrize("page", of(*DOCS))
def test_every_page_says_first_what_it_is_for(page: Page) -> None:
    title, first = page.text.split("\n\n")[:2]

    assert re.fullmatch(r"# \S.*", title)
    assert re.match(r"\w", first)  # prose, before any list, table or code
    assert len(first.split()) <= 50


def targets(nav: Any) -> Iterator[str]:
    """The pages of a navigation, in order."""
    match nav:
        case str():
            yield nav
        case dict():
            for below in nav.values():
                yield from targets(below)
        case list():
            for below in nav:
                yield from targets(below)


@pytest.fixture(scope="module")
def site() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((PROJECT / "mkdocs.yml").read_text("utf-8"))
    return loaded


def test_every_page_is_in_the_navigation_once_and_no_other_is(site: dict[str, Any]) -> None:
    there = sorted(page.name.removeprefix("docs/") for page in DOCS)

    assert sorted(targets(site["nav"])) == there


def test_the_first_page_links_every_guide() -> None:
    guides = {
        page.name.removeprefix("docs/") for page in DOCS if page.path.parent.name in ("how-to", "explanation")
    }

    assert guides <= set(re.findall(r"\]\(([^)#]+\.md)", (PROJECT / "docs/index.md").read_text("utf-8")))


def test_every_page_can_be_reached_from_the_first_one() -> None:
    known, new = set[Path](), {PROJECT / "docs/index.md"}
    while new:
        known |= new
        linked = {
            (path.parent / target).resolve()
            for path in new
            for target in re.findall(r"\]\(([^)#]+\.md)", Page(path).prose)
        }
        new = linked - known

    assert {page.path for page in DOCS} <= known


def test_the_site_needs_no_plugin_and_fetches_nothing_from_elsewhere(site: dict[str, Any]) -> None:
    assert "plugins" not in site
    assert site["theme"]["font"] is False
    assert not [page.name for page in DOCS if "mermaid" in page.languages]  # the theme would fetch its script


def test_the_site_says_its_version(site: dict[str, Any]) -> None:
    assert site["site_name"] == f"redisjobs {redisjobs.__version__}"


@pytest.mark.parametrize("page", of(*DOCS))
def test_pictures_are_there_and_say_what_they_show(page: Page) -> None:
    for says, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page.prose):
        assert says
        picture = (page.path.parent / target).read_bytes()
        if target.endswith(".svg"):
            assert not re.findall(rb"""(?:href|src|url)[=(]["']?(?!#)\S*""", picture)  # it fetches nothing either
        else:
            assert len(picture) <= 80_000


def test_the_picture_has_each_package_above_those_that_it_imports(project: Path) -> None:
    root = project / "redisjobs"
    picture = (project / "docs/pictures/packages.svg").read_text("utf-8")
    drawn = {package: int(y) for y, package in re.findall(r'y="(\d+)" font-weight="600">(\w+)/<', picture)}
    packages = [path.parent.relative_to(root) for path in root.rglob("__init__.py")][1:]

    inside = {package.name for package in packages if package.parts[0] not in ("web", "contrib", "local")}
    assert set(drawn) == inside | {"web", "contrib", "local"}
    first = [package for package in drawn if (root / package).is_dir()]
    for package in first:
        source = "".join(path.read_text("utf-8") for path in (root / package).rglob("*.py"))
        imported = set(re.findall(r"^ *(?:from|import) redisjobs\.(\w+)", source, re.MULTILINE)) & set(first)
        assert {other: drawn[other] for other in imported if drawn[other] < drawn[package]} == {}, package


def test_the_architecture_names_files_that_are_there(project: Path) -> None:
    page = (project / "docs/architecture.md").read_text("utf-8")

    for name in re.findall(r"`([\w/]+\.(?:py|lua|md))`", page):
        places = [project / name, project / "redisjobs" / name, project / "lua" / name]
        assert any(place.exists() for place in places), name
    for name in re.findall(r"`([\w/]+/)`", page):
        assert any((project / below / name).is_dir() for below in ("", "redisjobs")), name


OPERATE = Page(PROJECT / "docs/operate.md")
DEMANDS = re.findall(r"^\| (?!what people|---)(.+?) \| (.+) \| (.+) \|$", OPERATE.text, re.MULTILINE)


@pytest.mark.parametrize(("demand", "answer", "tests"), DEMANDS, ids=[demand for demand, *_ in DEMANDS])
def test_each_demand_of_operators_has_a_page_and_a_test(demand: str, answer: str, tests: str) -> None:
    links = re.findall(r"\]\(([^)#]+)#?([^)]*)\)", answer)
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", tests)

    assert links
    assert named
    for path, anchor in links:
        page = Page(OPERATE.path.parent / path)
        assert not anchor or anchor in page.anchors
        assert page.text
    for path, test in named:
        source = (PROJECT / path).read_text("utf-8")
        assert re.search(rf"^ *(?:async )?def {test}\(", source, re.MULTILINE), test


def test_the_page_for_operators_has_all_demands_and_is_short_besides() -> None:
    assert len(DEMANDS) == 16
    assert len(re.sub(r"^\|.*$", "", OPERATE.text, flags=re.MULTILINE).split()) < 500


def test_pages_of_the_site_link_to_nothing_outside_of_it() -> None:
    for page in DOCS:
        for target in re.findall(r"\]\(([^)#]+)", page.prose):
            assert (page.path.parent / target).resolve().is_relative_to(PROJECT / "docs"), (page.name, target)


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("zensical")
    shutil.copytree(PROJECT / "docs", tmp_path / "docs")
    shutil.copy(PROJECT / "mkdocs.yml", tmp_path)

    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50)

    assert built.returncode == 0, built.stdout + built.stderr
    for page in DOCS:
        inside = page.path.relative_to(PROJECT / "docs").with_suffix("")
        inside = inside.parent if inside.name == "index" else inside
        assert (tmp_path / "site" / inside / "index.html").exists(), page.name


# The reference


@pytest.mark.slow
def test_the_reference_is_as_the_code_is() -> None:
    pytest.importorskip("griffe")

    command = [sys.executable, ".ci/reference.py", "--check"]
    checked = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=50)

    assert checked.returncode == 0, f"{checked.stdout}{checked.stderr}run .venv/bin/python .ci/reference.py"


def commands(command: Any, called: str) -> Iterator[str]:
    """Each command there is, in full."""
    if below := commands_below(command):
        if command.invoke_without_command:
            yield called
        for name, each in below.items():
            yield from commands(each, f"{called} {name}")
    else:
        yield called


COMMANDS = list(commands(typer.main.get_command(make()), "redisjobs"))


def test_the_list_of_commands_says_what_each_one_says_of_itself() -> None:
    whole, listed = [
        {
            name: " ".join(command.help.partition("\n\n")[0].split())
            for name, command in commands_below(typer.main.get_command(made)).items()
        }
        for made in (make(), make(["--help"]))
    ]

    assert list(listed.items()) == list(whole.items())
    assert len(listed) > 10


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_of_the_command_line_has_every_option_that_help_shows_and_no_other(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (PROJECT / "docs/reference/command-line.md").read_text("utf-8")
    section = page.split(f"\n## {command}\n")[1].split("\n## ")[0]
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 300)  # read from the environment when it is imported
    monkeypatch.setattr(sys, "argv", [*command.split(), "--help"])

    with pytest.raises(SystemExit, match="0"):
        run()

    shown = capsys.readouterr().out
    options = set(re.findall(r"^\W* (--[a-z-]+)", shown, re.MULTILINE)) - {"--help"}
    assert set(re.findall(r"^\| `(--[a-z-]+)`", section, re.MULTILINE)) == options
    assert shown.split("Usage:")[1].split()[0] == "redisjobs"


def test_the_page_of_the_command_line_has_every_command_and_no_other() -> None:
    page = (PROJECT / "docs/reference/command-line.md").read_text("utf-8")

    assert re.findall(r"^## (redisjobs .+)$", page, re.MULTILINE) == COMMANDS


def test_the_page_of_the_keys_has_every_key_and_no_other(project: Path) -> None:
    page = (project / "docs/reference/keys.md").read_text("utf-8").split("\n## ")[0]
    first_column = "".join(re.findall(r"^\| (`.*?) \|", page, re.MULTILINE))
    mapped = {key.partition("<")[0] for key in re.findall(r"`([^`]+)`", first_column)}

    assert mapped == keys_of_scripts()


def test_the_pages_of_the_api_have_every_public_name() -> None:
    page = (PROJECT / "docs/reference/api/index.md").read_text("utf-8")
    documented = {*re.findall(r"^\| \[`(\w+)`\]", page, re.MULTILINE)}

    front = {*vars(redisjobs)["__all__"]}
    kinds = [each for each in vars(errors).values() if isinstance(each, type)]
    raised = {each.__name__ for each in kinds if issubclass(each, BaseException)}
    operators = {name for name, each in vars(control).items() if isinstance(each, type)}
    assert (front | raised | operators) - documented == {"SyncControl"}  # it has the verbs of `Control`


def test_the_documentation_says_what_drawing_of_the_states_the_scripts_have(project: Path) -> None:
    def drawing(path: str) -> str:
        text = (project / path).read_text("utf-8")
        (drawn,) = re.findall(r"^```(?:text)?\n( +push .*?)^```$", text, re.MULTILINE | re.DOTALL)
        return str(drawn)

    assert drawing("docs/reference/job-states.md") == drawing("lua/README.md")
