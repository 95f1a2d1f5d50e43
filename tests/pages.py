"""The pages that are shown to users, and what is in their code blocks."""

import ast
import inspect
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[1]

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (\w[\w/]*\.py)(?:: |\n)")


def blocks(text: str, *languages: str) -> list[str]:
    """The code blocks in these languages."""
    return [code for language, code in _BLOCK.findall(text) if language in languages]


@dataclass(frozen=True)
class Page:
    """A page of Markdown.

    Attributes:
        path: Where it is.
    """

    path: Path

    @property
    def name(self) -> str:
        """Its path in the checkout."""
        return str(self.path.relative_to(PROJECT))

    @cached_property
    def text(self) -> str:
        return self.path.read_text("utf-8")

    @property
    def languages(self) -> set[str]:
        """Those that its code blocks are in."""
        return {language for language, _ in _BLOCK.findall(self.text)}

    @property
    def files(self) -> dict[str, str]:
        """The Python blocks that are files of their own, by name."""
        return {match[1]: code for code in blocks(self.text, "python") if (match := _FILE.match(code))}

    @property
    def parts(self) -> list[str]:
        """The other Python blocks, which run one after another."""
        return [code for code in blocks(self.text, "python") if not _FILE.match(code)]

    @property
    def commands(self) -> list[str]:
        """Every command a reader is given, a prompt, a comment aside; what goes on after a backslash is one."""
        lines = "".join(blocks(self.text, "sh", "console")).replace("\\\n", " ").splitlines()
        return [line.removeprefix("$ ").partition("  #")[0].rstrip(" &") for line in lines]

    @property
    def prose(self) -> str:
        """The page without its code blocks."""
        return _BLOCK.sub("", self.text)

    @property
    def anchors(self) -> set[str]:
        """What a link into the page may name: its headings, as both GitHub and the site spell them."""
        titles = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", title.lower())) for title in titles}


def awaits(code: str) -> bool:
    """Return whether code awaits outside of a function, as a file cannot."""
    compiled = compile(code, "block", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    return bool(compiled.co_flags & inspect.CO_COROUTINE)


def of(*pages: Page) -> list[Any]:
    """Parameters of a test, one a page."""
    return [pytest.param(page, id=page.name) for page in pages]


def commands_below(command: Any) -> dict[str, Any]:
    """The commands that a command of the command line has, by name; {} where it is one that does something."""
    return getattr(command, "commands", None) or {}


README = Page(PROJECT / "README.md")
DOCS = [Page(path) for path in sorted((PROJECT / "docs").rglob("*.md"))]
PAGES = [README, Page(PROJECT / "CONTRIBUTING.md"), *DOCS]
