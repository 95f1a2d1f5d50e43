"""Where results go: `results/`, one file a run, and the pages in `docs/`."""

import json
from pathlib import Path

from benchmarks import report
from benchmarks.report import Run
from benchmarks.systems import CHECKOUT, HERE

_DOCS = CHECKOUT / "docs"
_DATA = _DOCS / "benchmarks.json"


def keep(result: object, date: str, kind: str = "") -> Path:
    """Write a result to a file of its own in `results/`, and return its path."""
    path = HERE / "results" / f"{kind and kind + '-'}{date.replace(':', '')}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def documented() -> Run | None:
    """Return the run that the pages show, if there is one."""
    return Run.from_json(json.loads(_DATA.read_text())) if _DATA.is_file() else None


def attach(what: str, text: str) -> None:
    """Put a part with a date of its own on the page of the last run: `what` is one of `report.PARTS`."""
    run = documented()
    if run is None:
        raise SystemExit("a part belongs to the page of a run, and there is none: run the benchmarks with --docs")
    run.beside[what] = text
    write_docs(run)


def write_docs(run: Run) -> None:
    """Write `docs/benchmarks.md`, `.svg` and `.json`."""
    _DOCS.mkdir(exist_ok=True)
    (_DOCS / "benchmarks.md").write_text(report.page(run))
    (_DOCS / "benchmarks.svg").write_text(report.drawing(run.samples))
    _DATA.write_text(json.dumps(run.as_json(), indent=1) + "\n")
