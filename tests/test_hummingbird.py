"""The page for those who come from Hummingbird tells of each of its features, and names tests that there are."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def rows() -> dict[str, tuple[str, str]]:
    """By a feature's number, what the page says we have, and the test."""
    page = (ROOT / "docs/hummingbird.md").read_text("utf-8")
    found = re.findall(r"^\| (H\d\d) \| [^|]+ \| ([^|]+) \| ([^|]*)\|$", page, re.MULTILINE)
    return {number: (ours.strip(), test.strip()) for number, ours, test in found}


def test_every_feature_has_its_row() -> None:
    assert list(rows()) == [f"H{number:02}" for number in range(1, 49)]


def test_every_row_names_a_test_that_there_is_or_says_that_the_feature_is_not() -> None:
    missing = []
    for number, (ours, test) in rows().items():
        if not test:
            assert ours == "not yet", number
            continue
        module, name = test.split(": ")
        folder = "tests" if module.startswith("test_") else "redisjobs/testing/driver_contract"
        (path,) = (ROOT / folder).rglob(f"{module}.py")
        source = path.read_text("utf-8")
        if not re.search(rf"^(?:async )?def test_{name}\(", source, re.MULTILINE):
            missing.append(f"{number}: {test}")
    assert missing == []
