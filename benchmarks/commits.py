"""`--against`: commits of this repository as systems of a run, to compare the working tree with its own past."""

import io
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.systems import CHECKOUT, PEERS, SYSTEMS, US, System, distribution_of

_INSTRUMENT = ("drive.py", "meter.py")


@dataclass(frozen=True)
class Commit:
    """One commit of this repository.

    Attributes:
        hash: Its whole hash.
        short: As much of it as git needs to tell it from the others.
    """

    hash: str
    short: str

    @property
    def name(self) -> str:
        """What it is called in tables and in JSON."""
        return f"{US}@{self.short}"


def resolved(revisions: Sequence[str]) -> list[Commit]:
    """The commits that are meant, each once.

    Raises:
        ValueError: A revision names no commit, or there is no repository or no git to ask.
    """
    return list(dict.fromkeys(map(_resolved, revisions)))


@contextmanager
def checked_out(commits: Sequence[Commit]) -> Iterator[list[System]]:
    """The commits as systems, each with a checkout in a folder for this run alone, which is removed at the end.

    A checkout is what `git archive` writes: unlike a worktree of git's it leaves no trace in the repository.
    """
    with tempfile.TemporaryDirectory(prefix="redisjobs-bench-against-", ignore_cleanup_errors=True) as folder:
        yield [_checked_out(commit, Path(folder) / commit.short) for commit in commits]


@dataclass(frozen=True, kw_only=True)
class _Past(System):
    """A commit as a system.

    Attributes:
        commit: Which.
        checkout: Its files, for as long as the run takes.
        own_program: Whether `<module>_jobs.py` is the commit's own, too.
    """

    commit: Commit
    checkout: Path
    own_program: bool

    def install(self, python: str) -> str:
        """Make its environment, unless it is there from an earlier run, and return what is in it.

        It is a copy, not `--editable`, for the environment is kept, by the commit's hash, and the checkout is not.
        What the project depends on is of the same versions as in the working tree's environment, which has to be
        there: a ratio is to tell of the project's own code, not of what PyPI had on some day.

        Raises:
            Failed: It does not install, or there is no environment of the working tree's.
        """
        pins = SYSTEMS[US].pins()
        self.make(python, (f"{self.checkout}[worker]", *pins), "\n".join((self.commit.hash, *pins)))
        program = "" if self.own_program else ", by today's program"
        return f"{self.version()} (commit {self.commit.hash}{program})"


def _checked_out(commit: Commit, checkout: Path) -> System:
    zipfile.ZipFile(io.BytesIO(_git("archive", "--format=zip", commit.hash))).extractall(checkout)
    # What is compared is the commit's own: its code, and the program that calls it, as its interface may have been
    # another one. What it is measured by is today's, the same for all, for today's sessions speak with it.
    ours, peers = SYSTEMS[US], checkout / "benchmarks" / "peers"
    program = f"{ours.module}_jobs.py"
    own_program = (peers / program).is_file()  # else it is older than these benchmarks: today's may still do
    peers.mkdir(parents=True, exist_ok=True)
    for name in _INSTRUMENT if own_program else (*_INSTRUMENT, program):
        shutil.copy(PEERS / name, peers / name)
    return _Past(
        name=commit.name,
        module=ours.module,
        packages=ours.packages,
        distribution=distribution_of(checkout),
        setup=ours.setup,
        workers=ours.workers,
        scale=ours.scale,
        concurrency=ours.concurrency,
        peers=peers,
        commit=commit,
        checkout=checkout,
        own_program=own_program,
    )


def _resolved(revision: str) -> Commit:
    try:
        whole = _git("rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}").decode().strip()
        return Commit(whole, _git("rev-parse", "--short", whole).decode().strip())
    except FileNotFoundError as error:
        raise ValueError("--against needs git, which is not on PATH") from error
    except subprocess.CalledProcessError as error:
        said = (error.stderr.decode(errors="replace").splitlines() or ["nothing"])[0]
        raise ValueError(
            f"no such commit: {revision}; --against takes a hash, a branch, a tag, or one such as HEAD~3, "
            f"of the repository that these benchmarks are in (git said: {said})"
        ) from error


def _git(*words: str) -> bytes:
    return subprocess.run(["git", *words], cwd=CHECKOUT, capture_output=True, check=True).stdout
