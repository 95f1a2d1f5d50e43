"""Prints the lowest versions pyproject.toml allows as pip constraints: `redis==5.1`, one a line."""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

# A name, maybe extras, then its floor: what every direct dependency has to look like.
_FLOOR = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?>=([0-9][0-9a-z.]*)")


def lowest(project: dict[str, Any]) -> list[str]:
    """One constraint for each direct dependency, those of the extras included."""
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    own = project["name"]
    constraints = []
    for requirement in (line for group in groups for line in group):
        what, _, marker = requirement.partition(";")
        if re.match(rf"{own}\[", what):
            continue  # an extra that takes in another one
        floor = _FLOOR.fullmatch(what.strip())
        if floor is None:
            sys.exit(f"{requirement!r} names no lowest version as `name>=version`")
        constraints.append(f"{floor[1]}=={floor[2]}" + (f" ;{marker}" if marker else ""))
    return constraints


if __name__ == "__main__":
    path = Path(__file__).parents[1] / "pyproject.toml"
    print("\n".join(lowest(tomllib.loads(path.read_text("utf-8"))["project"])))
