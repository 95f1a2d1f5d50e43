"""Tell whether the tests of the proof and of the benchmarks have passed on the files as they are.

    python .ci/proved.py           # exit code 1 if a file has changed since they last passed
    python .ci/proved.py --write   # note that they have passed

The files are theirs, and the modules of redisjobs that these import.
"""

import ast
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOTE = ROOT / ".ci/proved.txt"
_FOLDERS = ("proof", "benchmarks")


def digest() -> str:
    """Return a hash of the paths and texts of all these files."""
    own = sorted(
        path for folder in _FOLDERS for path in (ROOT / folder).rglob("*.py") if ".venvs" not in path.parts
    )
    used = sorted({path for each in own for path in _imported(ast.parse(each.read_text("utf-8")))})
    texts = [f"{path.relative_to(ROOT).as_posix()}\n{path.read_text('utf-8')}" for path in (*own, *used)]
    return sha256("\n".join(texts).encode()).hexdigest()


def _imported(tree: ast.Module) -> Iterator[Path]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "redisjobs":
            place = ROOT.joinpath(*str(node.module).split("."))
            found = [place.with_suffix(".py"), *(place / f"{alias.name}.py" for alias in node.names)]
            yield from (path for path in found if path.exists())


if __name__ == "__main__":
    if "--write" in sys.argv:
        NOTE.write_text(f"{digest()}\n")
    elif not NOTE.exists() or NOTE.read_text().strip() != digest():
        sys.exit("the proof, the benchmarks or what they import have changed since their tests last passed")
