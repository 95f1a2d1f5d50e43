"""What users see who check their code: mypy and pyright pass what is shown, and refuse calls that are wrong."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from pages import PAGES, awaits

CHECKERS = {
    "mypy": ["-m", "mypy", "--strict", "--cache-dir", ".mypy"],
    "pyright": ["-m", "basedpyright", "--pythonpath", sys.executable],
}


def write_modules(folder: Path) -> set[Path]:
    """Write the files of each page, and its other blocks as one module: a function if they await."""
    written = set()
    for page in PAGES:
        for name, code in page.files.items():  # the same on each page that shows it: an example
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(code, "utf-8")
            written.add(folder / name)
        if page.parts:
            whole = "\n".join(page.parts)
            if awaits(whole):
                whole = f"async def blocks() -> None:\n{textwrap.indent(whole, '    ')}"
            path = folder / f"{re.sub(r'[^a-z]', '_', page.name.lower())}_blocks.py"
            path.write_text(whole, "utf-8")
            written.add(path)
    return written


@pytest.mark.slow
@pytest.mark.parametrize("checker", CHECKERS)
def test_the_blocks_of_readme_and_docs_are_typed_rightly(tmp_path: Path, checker: str) -> None:
    pytest.importorskip(CHECKERS[checker][1])
    assert len(write_modules(tmp_path)) > 20
    if checker == "pyright":
        (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard"}')

    command = [sys.executable, *CHECKERS[checker], "."]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)

    assert checked.returncode == 0, checked.stdout


@pytest.mark.slow
def test_the_blocks_of_readme_and_docs_import_what_they_use_and_no_more(tmp_path: Path) -> None:
    pytest.importorskip("ruff")
    write_modules(tmp_path)

    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F", "."]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)

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
