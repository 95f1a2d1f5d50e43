"""`python -m benchmarks`: arguments, rounds, and where the results go."""

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import fleet, growth, postgres, report
from benchmarks.commits import checked_out, resolved
from benchmarks.measures import MEASURES, QUICK, Amount
from benchmarks.report import Run
from benchmarks.results import attach, documented, keep, write_docs
from benchmarks.rounds import installed, measure
from benchmarks.systems import (
    CHECKOUT,
    PEER_NAMES,
    SYSTEMS,
    US,
    System,
    chosen,
    python,
    python_version,
)
from redisjobs.local import server

_QUICK_MEASURES = ("drain", "drain2", "push", "latency", "naps", "idle")


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="redisjobs beside its peers.")
    parser.add_argument("--quick", action="store_true", help="three rounds, four systems, under three minutes")
    parser.add_argument("--peers", metavar="A,B", help=f"beside these only, of {', '.join(PEER_NAMES)}")
    parser.add_argument("--only", metavar="M,N", type=_measures, help=f"these only, of {', '.join(MEASURES)}")
    parser.add_argument("--rounds", type=int, help="how often each is measured (5; with --quick 3)")
    parser.add_argument(
        "--against",
        metavar="REF",
        action="append",
        default=[],
        help="beside this commit of the repository: a hash, a branch, a tag, HEAD~3; can be given again. Peers "
        "and the floor only with --peers",
    )
    parser.add_argument(
        "--docs",
        action=argparse.BooleanOptionalAction,
        help="write docs/benchmarks.* (by itself only a whole full run does)",
    )
    parser.add_argument("--growth", action="store_true", help="instead: how redisjobs' cost grows")
    parser.add_argument("--million", action="store_true", help="with --growth: a million jobs where it says 100k")
    parser.add_argument(
        "--render", metavar="JSON", type=Path, help="instead: write docs/benchmarks.* from a result"
    )
    options = parser.parse_args(words)
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds must be at least 1")
    if options.against and (options.growth or options.render):
        parser.error("--against is for a run of measures: not with --growth or --render")
    try:
        options.systems = chosen(options.peers, options.quick, bool(options.against))
        options.against = resolved(options.against)
    except ValueError as error:
        parser.error(str(error))
    return options


def _measures(words: str) -> list[str]:
    names = [word.strip() for word in words.split(",") if word.strip()]
    if unknown := [name for name in names if name not in MEASURES]:
        raise argparse.ArgumentTypeError(f"no such measure: {', '.join(unknown)}; there are {', '.join(MEASURES)}")
    return names


def main(words: Sequence[str]) -> int:
    """The command; its exit code."""
    if words[:1] == ["fleet"]:
        return fleet.main(words[1:])
    if words[:1] == ["postgres"]:
        return postgres.main(words[1:])
    options = arguments(words)
    if options.render:
        write_docs(Run.from_json(json.loads(options.render.read_text())))
        return 0
    run = Run(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        quick=options.quick,
        rounds=options.rounds or (3 if options.quick else 5),
        machine=report.machine(),
        server=server.find().description,
    )
    started, used = time.monotonic(), python()
    run.machine += f", {python_version(used)}"
    with checked_out(options.against) as past:
        systems = installed([SYSTEMS[US]] if options.growth else beside(past, options.systems), run, used, _say)
        if US not in run.versions:
            return 1
        if options.growth:
            return _growth(options, run)
        names = options.only or (_QUICK_MEASURES if options.quick else tuple(MEASURES))
        amount = QUICK if options.quick else Amount()
        measure(systems, {name: MEASURES[name] for name in names}, run, amount, _say)
    print(*report.tables(run.samples), sep="\n\n")
    for system, what, reason in run.failures:
        print(f"\nnot measured: {system}, {what}: {reason}")
    path = keep(run.as_json(), run.date)
    print(f"\n{time.monotonic() - started:.0f} s; {path.relative_to(CHECKOUT)}")
    partly = options.quick or options.only is not None or options.against
    if options.docs or (options.docs is None and not partly):
        last = documented()
        run.beside = last.beside if last else {}
        write_docs(run)
    return 0


def beside(past: Sequence[System], systems: Sequence[System]) -> list[System]:
    """Commits come next to the working tree, so that in each round little time lies between them."""
    return [system for one in systems for system in ([one, *past] if one.name == US else [one])]


def _growth(options: argparse.Namespace, run: Run) -> int:
    """`--growth`; the exit code."""
    text = growth.report(options.million)
    print(text)
    if options.docs:
        attach("growth", f"{run.date}, {run.machine}, {run.server}, redisjobs {run.versions[US]}\n\n{text}")
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # what was started is ended then too
    sys.exit(main(sys.argv[1:]))
