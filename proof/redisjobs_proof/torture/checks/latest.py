"""Checks that the last accepted version of a thing ran, if each push replaces the version before. Pure."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from redisjobs.events.recording import Line
from redisjobs_proof.torture.fleet.final import FinalState

_Thing = tuple[int, str]  # a database and a key


def outdated(lines: Sequence[Line], finals: Sequence[FinalState]) -> Iterator[str]:
    """Yield things whose last version was not run and is not dead, and versions that were refused, in words."""
    taken: defaultdict[_Thing, int] = defaultdict(int)
    run: defaultdict[_Thing, int] = defaultdict(int)
    jobs: defaultdict[_Thing, set[str]] = defaultdict(set)
    for line in lines:
        if line["what"] == "version":
            thing = line["db"], line["key"]
            jobs[thing].add(line["holder"])
            taken[thing] = max(taken[thing], line["version"])
            if not line["taken"]:
                yield (
                    f"version {line['version']} of {line['key']} was refused, as {line['holder']} holds its key, "
                    "though that job waits and is replaced, or has started and holds none"
                )
        elif line["what"] == "start" and "version" in line:
            thing = line["db"], line["key"]
            run[thing] = max(run[thing], int(line["version"]))
    dead = {(db, letter.job) for db, final in enumerate(finals) for letter in final.letters}
    for (db, key), version in taken.items():
        if run[db, key] < version and not dead & {(db, job) for job in jobs[db, key]}:
            yield f"version {version} of {key} was taken, and the last that was run is {run[db, key]}"
