"""What users see who check their code: mypy and pyright pass what is shown, and refuse calls that are wrong."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from test_readme import _FILE, blocks

CHECKERS = {
    "mypy": ["-m", "mypy", "--strict", "--cache-dir", ".mypy"],
    "pyright": ["-m", "basedpyright", "--pythonpath", sys.executable],
}


def pages(project: Path) -> dict[str, str]:
    """The pages whose Python blocks are shown to users."""
    return {path.stem: path.read_text("utf-8") for path in [project / "README.md", *project.glob("docs/*.md")]}


def write_modules(project: Path, folder: Path) -> list[Path]:
    """The blocks of each page as modules; those that are no files of their own, in one function that may await."""
    written = []
    for page, text in pages(project).items():
        parts = []
        for code in blocks(text, "python"):
            if match := _FILE.match(code):
                written.append(folder / match[1])
                written[-1].write_text(code, "utf-8")
            else:
                parts.append(code)
        if parts:
            written.append(folder / f"{page.lower()}_blocks.py")
            whole = textwrap.indent("\n".join(parts), "    ")
            written[-1].write_text(f"async def blocks() -> None:\n{whole}", "utf-8")
    return written


@pytest.mark.slow
@pytest.mark.parametrize("checker", CHECKERS)
def test_the_blocks_of_readme_and_docs_are_typed_rightly(project: Path, tmp_path: Path, checker: str) -> None:
    pytest.importorskip(CHECKERS[checker][1])
    assert len(write_modules(project, tmp_path)) >= 4
    if checker == "pyright":
        (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard"}')

    command = [sys.executable, *CHECKERS[checker], "."]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)

    assert checked.returncode == 0, checked.stdout


@pytest.mark.slow
def test_pyright_finds_wrong_exactly_what_is_marked_so(project: Path) -> None:
    """As mypy does, which is run over all of the checkout anyway."""
    pytest.importorskip("basedpyright")
    marked = (project / "tests/typed_calls.py").read_text("utf-8").count("# pyright: ignore")
    assert marked > 20

    command = [sys.executable, *CHECKERS["pyright"], "--project", str(project)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=300)

    assert checked.returncode == 0, checked.stdout
    assert re.search(r"^0 errors, 0 warnings", checked.stdout, re.MULTILINE)
