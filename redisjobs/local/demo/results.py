"""The demo's recordings, with a line for each start and each end of a job, and the check of the results."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from redisjobs.events import recording


@dataclass(frozen=True, slots=True)
class ResultLine:
    """One line of a recording.

    Attributes:
        job: The job's id.
        pid: The process that wrote the line.
        at: When, in seconds since 1970.
        path: The path of the file.
        ended: Whether the handler has ended. Only then the attributes below are set.
        size: The file's size in bytes.
        modified: The file's time of last change, in ns.
        sha256: The SHA-256 of its contents, in hex.
        error: Why the file could not be read; '' if it could.
    """

    job: str
    pid: int
    at: float
    path: str
    ended: bool = False
    size: int = 0
    modified: int = 0
    sha256: str = ""
    error: str = ""


def read(directory: str | Path) -> Iterator[ResultLine]:
    """Return all complete lines of all processes."""
    return (ResultLine(**line) for line in recording.read(directory))


@dataclass(slots=True)
class Verdict:
    """The verdict on the files. Each file is in one of these.

    Attributes:
        verified: How many files have the right result.
        lost: The files without a result.
        wrong: The files with a wrong result, although they did not change.
        changed: The files that changed after a worker read them.
        unreadable: The files that can't be read for the check: deleted, or no permission.
    """

    verified: int = 0
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether no file is lost and no result is wrong."""
        return not (self.lost or self.wrong)


def check(paths: Sequence[str], lines: Iterable[ResultLine], tick: Callable[[], object] = lambda: None) -> Verdict:
    """Compare all results with the files as they are now.

    Args:
        paths: All files that had jobs.
        lines: The lines of the workers' recordings.
        tick: Called after each file.
    """
    results: dict[str, list[ResultLine]] = {}
    for line in lines:
        if line.ended:
            results.setdefault(line.path, []).append(line)
    verdict = Verdict()
    for path in paths:
        _judge(verdict, path, results.get(path, []))
        tick()
    return verdict


def _judge(verdict: Verdict, path: str, results: Sequence[ResultLine]) -> None:
    if not results:
        verdict.lost.append(path)
        return
    try:
        direct = _read_directly(path)
    except OSError:
        verdict.unreadable.append(path)
        return
    if all((line.size, line.modified, line.sha256) == direct for line in results):
        verdict.verified += 1
    elif any((line.size, line.modified) != direct[:2] and not line.error for line in results):
        verdict.changed.append(path)
    else:
        verdict.wrong.append(path)


def _read_directly(path: str) -> tuple[int, int, str]:
    with open(path, "rb") as file:
        facts = os.fstat(file.fileno())
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return facts.st_size, facts.st_mtime_ns, digest.hexdigest()
