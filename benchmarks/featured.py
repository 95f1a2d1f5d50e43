"""The systems whose features are measured."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.systems import OURS, SYSTEMS, US, Commands, System, checked


@dataclass(frozen=True)
class Featured(System):
    """A system whose program is `<module>_features.py`.

    Attributes:
        feature: The one that is measured; its program may be set up by that.
        waiters: How many may wait at once, as each costs it a connection.
    """

    feature: str = "plain"
    waiters: int = 1_000_000

    @property
    def producer(self) -> list[str]:
        """The command that starts its producer."""
        return [str(self.programs / "python"), "features_drive.py", self.module]

    def environment(self, url: str, meter: Path, concurrency: int | None) -> dict[str, str]:
        """The variables that its processes are started with."""
        return super().environment(url, meter, concurrency) | {"BENCH_FEATURE": self.feature}


@dataclass(frozen=True)
class FeaturedNode(Featured):
    """One that runs on Node.js; its packages are npm's, and its program is `<module>_features.cjs`."""

    @property
    def producer(self) -> list[str]:
        """The command that starts its producer."""
        return ["node", f"{self.module}_features.cjs"]

    def environment(self, url: str, meter: Path, concurrency: int | None) -> dict[str, str]:
        """The variables that its processes are started with."""
        return super().environment(url, meter, concurrency) | {"NODE_PATH": str(self._modules)}

    def make(self, python: str, packages: Sequence[str], wanted: str) -> None:
        """Install what it needs, unless it is there; see `System.make`."""
        stamp = self.venv / "installed.txt"
        if not stamp.is_file() or stamp.read_text() != wanted:
            shutil.rmtree(self.venv, ignore_errors=True)
            self.venv.mkdir(parents=True)
            checked(["npm", "install", "--silent", "--prefix", str(self.venv), *packages])
            stamp.write_text(wanted)

    def version(self) -> str:
        """The version of what was installed, and Node's."""
        package = json.loads((self._modules / self.distribution / "package.json").read_text())
        return f"{package['version']} (Node.js {checked(['node', '--version']).strip().removeprefix('v')})"

    @property
    def _modules(self) -> Path:
        return self.venv / "node_modules"


def _redisjobs(programs: Path, processes: int | None, concurrency: int | None) -> Commands:
    worker = [str(programs / "redisjobs"), "worker", "redisjobs_features:queue", "--log-level", "warning"]
    return [[*worker, "--concurrency", str(concurrency)]] * (processes or 1)


def _ardiq(programs: Path, processes: int | None, concurrency: int | None) -> Commands:
    return [[str(programs / "ardiq"), "run", "--quiet", "--workers", str(processes or 1), "ardiq_features:app"]]


def _docket(programs: Path, processes: int | None, concurrency: int | None) -> Commands:
    return [[str(programs / "python"), "docket_features.py"]] * (processes or 1)


def _bullmq(programs: Path, processes: int | None, concurrency: int | None) -> Commands:
    return [["node", "bullmq_features.cjs", "worker"]] * (processes or 1)


FEATURED: dict[str, Featured] = {
    system.name: system
    for system in (
        Featured(US, US, OURS, US, "uvloop, hiredis, every check on", _redisjobs),
        Featured(
            "ardiq", "ardiq", SYSTEMS["ardiq"].packages, "ardiq", SYSTEMS["ardiq"].setup, _ardiq, waiters=500
        ),
        Featured(
            "docket",
            "docket",
            ("pydocket==0.27.0", "uvloop==0.23.0", "hiredis==3.5.0"),
            "pydocket",
            "uvloop, hiredis, nothing kept of what is done unless results are",
            _docket,
            scale=0.25,
            waiters=1_000,
        ),
        FeaturedNode(
            "BullMQ",
            "bullmq",
            ("bullmq@6.7.0", "ioredis@6.0.0"),
            "bullmq",
            "nothing kept unless results are",
            _bullmq,
            scale=0.3,
        ),
    )
}
