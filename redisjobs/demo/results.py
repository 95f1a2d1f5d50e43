"""What the demo's workers write down, one line for each start and each end of a job, and how it is checked."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from redisjobs.events import recording


@dataclass(frozen=True, slots=True)
class Line:
    """One line.

    Attributes:
        job: The job's id.
        pid: The process that wrote it.
        at: When, in seconds since 1970.
        path: The file.
        ended: Whether the handler was done; the rest is there only then.
        size: Bytes.
        modified: The file's time of last change, in ns.
        sha256: Of its contents.
        error: Why it could not be read; '' if it could.
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


def read(directory: str | Path) -> Iterator[Line]:
    """Every line that was written whole, of all processes."""
    return (Line(**line) for line in recording.read(directory))


@dataclass(slots=True)
class Verdict:
    """What became of the files, each in one of these.

    Attributes:
        verified: How many have the digest that was computed directly.
        lost: Those that no worker wrote a result of.
        wrong: Those with a result that differs, though no task changed them.
        changed: Those that changed after a worker read them.
        unreadable: Those that could not be read: gone, or no permission.
    """

    verified: int = 0
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every file has its result, and the right one."""
        return not (self.lost or self.wrong)


def check(paths: Sequence[str], lines: Iterable[Line], tick: Callable[[], object] = lambda: None) -> Verdict:
    """Compare every result of every file with what reading the file now gives.

    Args:
        paths: All files there were jobs for.
        lines: What the workers wrote down.
        tick: Called after each file.
    """
    results: dict[str, list[Line]] = {}
    for line in lines:
        if line.ended:
            results.setdefault(line.path, []).append(line)
    verdict = Verdict()
    for path in paths:
        _judge(verdict, path, results.get(path, []))
        tick()
    return verdict


def _judge(verdict: Verdict, path: str, results: Sequence[Line]) -> None:
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
