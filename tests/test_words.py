"""One name per thing, the field's own: names that were ours alone do not come back."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OLD = {
    # A name, wherever it stands: the field's own.
    "shift": "processor, source",
    "fate": "settlement, outcome",
    "lookout": "fetcher, subscriber, promoter",
    "waker": "threadsafe_caller",
    "outbox": "unsettled; an outbox is a table that a database's own transactions write to",
    "nudge": "notification",
    "stray": "unlocated",
    "bury": "dead_letter",
    "hand_over": "release",
    "hand_out": "deliver",
    "farewell": "drain",
    "conduct": "run",
    "conductor": "the task that runs",
    "unsure": "needs recovery",
    "glance": "read clock",
    "journal": "recording",
    "crew": "workers",
    "sign of life": "heartbeat",
    "signs of life": "heartbeats",
    "handed out": "delivered",
    "hands out": "delivers",
    "handed over": "released",
    "hands over": "releases",
}
MODULES = {"shift", "lookout", "running", "fate", "exchanges", "waker", "aside", "stall", "stepping", "attempt"}
"""Modules of old, by words that are plain English elsewhere."""


@cache  # one reading for all words
def texts() -> list[tuple[Path, str]]:
    return list(_texts())


def _texts() -> Iterator[tuple[Path, str]]:
    for folder, pattern in {"redisjobs": "*.py", "lua": "*.*", "benchmarks": "*.py", "docs": "*.md"}.items():
        for path in sorted((ROOT / folder).rglob(pattern)):
            # Not what the benchmarks install.
            if not any(part.startswith(".") for part in path.relative_to(ROOT).parts):
                yield path.relative_to(ROOT), path.read_text("utf-8")
    for path in (*ROOT.glob("*.md"), *(path for path in ROOT.glob("tests/**/*.py") if path != Path(__file__))):
        if path.name != "CHANGELOG.md":  # it tells of the past
            yield path.relative_to(ROOT), path.read_text("utf-8")


@pytest.mark.parametrize("old", OLD)
def test_the_word_that_was_ours_alone_is_not_said_any_more(old: str) -> None:
    # As a name of its own or a part of one, so `nudges` and `_nudged_at` too, but not inside of another word.
    stem = re.compile(rf"(?<![a-z]){old}(?:s|es|d|ed|ing)?(?![a-z])", re.IGNORECASE)

    about = [(path, text) for path, text in texts() if old in text.lower()]

    said = [f"{path}: {line.strip()}" for path, text in about for line in text.splitlines() if stem.search(line)]

    assert said == [], f"the field says: {OLD[old]}"


def test_no_module_goes_by_a_name_of_old() -> None:
    assert {path.stem for path in (ROOT / "redisjobs").rglob("*.py")} & MODULES == set()
