"""One name per thing, the field's own: names that were ours alone do not come back. Prose is plain English."""

import io
import re
import tokenize
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
    for folder, pattern in {
        "redisjobs": "*.py",
        "lua": "*.*",
        "proof": "*.py",
        "benchmarks": "*.py",
        "docs": "*.md",
    }.items():
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


# Plain English

PLAIN = (
    "README.md",
    "CONTRIBUTING.md",
    "docs",
    "examples",
    "lua",
    "redisjobs",
    "proof",
    "benchmarks",
    "tests",
    ".ci",
)
"""Files, and folders with all their pages, Python and Lua, whose prose has none of the words below."""

BANNED = {
    # A word or phrase, as a pattern: what to write instead.
    "whoever": "who acts: the worker, the producer, you",
    "whomever": "who acts: the worker, the producer, you",
    "nobody": "no worker, no process, no job",
    "somebody": "who it is: a process, an operator, another worker",
    "so (?:many|much|often)": "the number, or 'this many'",
    "anew": "again, or a new one",
    "mend(?:s|ed|ing)?": "fix, correct",
    "by hand": "with redis-cli, or outside redisjobs",
    "(?:in|into|from|out of) (?:its|his|their|the|a worker's) hands": "hold: the worker holds the job",
    "in (?:nobody|no one)(?: else)?'s way": "does not block others",
    "none of (?:your|its|his|their) business": "nothing: leave it out",
    "(?:is|are|was|were|be|been|being) told": "gets a notification, reads, learns",
    "of which": "two sentences",
    "whatever it came to": "its outcome",
    "without more ado": "at once",
}

_CODE = re.compile(r"^ *```.*?^ *```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_WRITTEN = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


def prose(path: Path) -> str:
    """A page without its code; the strings and comments of Python; the comments of Lua."""
    text = path.read_text("utf-8")
    match path.suffix:
        case ".py":
            tokens = tokenize.generate_tokens(io.StringIO(text).readline)
            written = (token.string.lstrip("# ") for token in tokens if token.type in _WRITTEN)
            return "\n".join(
                re.sub(r"\{[^{}]*\}", "", each) for each in written
            )  # before 3.12 with an f-string's code
        case ".lua":
            return "\n".join(re.findall(r"--+ ?(.*)", text))
    return _CODE.sub("", text)


@cache
def plain() -> list[tuple[Path, str]]:
    """Each covered file with its prose."""
    found = []
    for name in PLAIN:
        there = ROOT / name
        paths = [there] if there.is_file() else sorted(there.rglob("*"))
        covered = [path for path in paths if path.suffix in (".md", ".py", ".lua") and path != Path(__file__)]
        some = [(path.relative_to(ROOT), prose(path)) for path in covered if ".venvs" not in path.parts]
        assert some, f"{name} is not there"
        found += some
    return found


def uses(banned: str, text: str) -> list[str]:
    """Each use with some words around it, also of a phrase that goes over the end of a line."""
    pattern = rf"\b{banned.replace(' ', chr(92) + 's+')}\b"
    found = []
    for use in re.finditer(pattern, text, re.IGNORECASE):
        before, after = text[: use.start()].split(), text[use.end() :].split()
        found.append(" ".join([*before[-4:], *use[0].split(), *after[:4]]))
    return found


def test_prose_is_plain() -> None:  # one case: to read all files takes the time
    said = [
        f"{path}: {use}; write instead: {better}"
        for path, text in plain()
        for banned, better in BANNED.items()
        for use in uses(banned, text)
    ]

    assert said == []


def test_words_are_found_in_prose_over_the_ends_of_lines_and_not_in_code(tmp_path: Path) -> None:
    for name, text in {
        "a.md": "Put in by\nhand, so `nobody = 1`.\n\n```python\nnobody = 1  # somebody\n```\n",
        "a.py": "nobody = f'put in by hand {nobody}'  # to see how\n# so\n# many there are\n",
        "a.lua": "local nobody = 1 -- put in by\n-- hand\n",
    }.items():
        (tmp_path / name).write_text(text, "utf-8")

    def found(name: str) -> list[str]:
        text = prose(tmp_path / name)
        return [banned for banned in BANNED if uses(banned, text)]

    assert found("a.md") == ["by hand"]
    assert found("a.py") == ["so (?:many|much|often)", "by hand"]
    assert found("a.lua") == ["by hand"]
