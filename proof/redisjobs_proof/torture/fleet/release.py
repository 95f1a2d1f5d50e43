"""A copy of this package for the torture's workers, so that we can replace their release while they run."""

import os
import re
import shutil
from hashlib import sha1
from importlib.resources import as_file
from pathlib import Path

import redisjobs
from redisjobs.drivers.redis import scripts

_FOLDERS = ("lua", "scripts")  # the folders of the scripts, in turn
_FUNCTIONS = Path("drivers", "postgres", "functions", "base.sql")
_SAYS_WHERE = re.compile(r'(?<=\.joinpath\()"(\w+)"(?=\))')


class Release:
    """A release of redisjobs in its own directory, which workers have on their path."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._package = directory / "redisjobs"
        shutil.copytree(
            Path(redisjobs.__file__).parent, self._package, ignore=shutil.ignore_patterns("__pycache__", "lua")
        )
        with as_file(scripts.folder()) as folder:
            shutil.copytree(folder, self._package / _FOLDERS[0])
        self._number = 0
        self._marks = [""]  # the text that each release so far has added to its scripts

    def shas(self, script: str, *, careful: bool = False) -> list[str]:
        """Return the SHAs of a script in each release so far; `careful`: of the variant without `allow-oom`."""
        sent = scripts.script(script).careful if careful else scripts.script(script)
        return [sha1(f"{sent.source}{mark}".encode()).hexdigest() for mark in self._marks]

    def changed(self) -> Path:
        """Return the directory of a copy that has changed functions for a database, though they do the same."""
        self._number += 1
        aside = self.directory.with_name(f"release {self._number}")
        shutil.copytree(self._package, aside / "redisjobs", ignore=shutil.ignore_patterns("__pycache__"))
        with (aside / "redisjobs" / _FUNCTIONS).open("a") as functions:
            functions.write(f"-- as of release {self._number}\n")
        return aside

    def take_functions(self, of: Path) -> None:
        """Let processes that start from now on call the functions of a copy."""
        os.replace(of / "redisjobs" / _FUNCTIONS, self._package / _FUNCTIONS)

    def upgrade(self) -> str:
        """Replace it by another release, with its scripts in another folder; return the folder's name.

        A process that has started before has read the old code, and can't find the old scripts any more.
        """
        old, new = _FOLDERS[self._number % 2], _FOLDERS[(self._number + 1) % 2]
        self._number += 1
        aside = self.directory / f"scripts of release {self._number}"
        shutil.copytree(self._package / old, self._package / new)
        mark = f"-- as of release {self._number}\n"
        self._marks.append(self._marks[-1] + mark)
        for script in (self._package / new).glob("*.lua"):
            script.write_text(script.read_text() + mark)
        reader = self._package / "drivers" / "redis" / "scripts.py"
        text, found = _SAYS_WHERE.subn(f'"{new}"', reader.read_text(), count=1)
        assert found, "drivers/redis/scripts.py no longer says where the scripts are in a way that is known here"
        beside = reader.with_suffix(".new")
        beside.write_text(text)
        os.replace(beside, reader)
        os.replace(self._package / old, aside)
        return new
