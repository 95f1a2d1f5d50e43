"""Makes one small mistake after another in the Lua scripts and tells which of them no test notices.

    .venv/bin/python .ci/mutate_lua.py --count 40 --seed 7          # a sample
    .venv/bin/python .ci/mutate_lua.py --only push --only include/identify
    .venv/bin/python .ci/mutate_lua.py --list                       # what there is to make, without making it

Each mutant is made in a copy of the checkout, and the tests that know the scripts are run there against a real
server, to the first failure and within a time limit. One that no test fails on has survived: either a test is
missing, or the mutant changes nothing that anybody could see. The same seed draws the same sample of the same
scripts. The exit code is 1 if the tests fail without any mutant.
"""

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = (
    *(
        "tests/drivers/test_lua.py",
        "tests/drivers/test_driver.py",
        "tests/drivers/test_inbox.py",
        "tests/drivers/test_refusals.py",
    ),
    *("tests/drivers/test_beyond_the_contract.py", "tests/client/test_late_pushes.py"),
    "tests/drivers/test_drivers_agree.py",
)
"""Those that are run for each mutant, the quickest to fail first."""

_COPIED = ("redisjobs", "lua", "tests", "docs", "examples", "pyproject.toml", "README.md", "docker-compose.yml")
_SLACK = 3.0  # times as long as without a mutant is long enough to say that it hangs

# Code, or what is not: a string, a comment. Lua's long brackets are not used in lua/.
_PIECE = re.compile(r"""(?P<comment>--.*$)|(?P<string>'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")|(?P<code>[^'"-]+|-)""")
_SWAPS = (
    *((r"(?<![<>=~])==", "~="), (r"~=", "=="), (r"<(?!=)", "<="), (r"<=", "<"), (r">(?!=)", ">="), (r">=", ">")),
    *((r"\band\b", "or"), (r"\bor\b", "and"), (r"\btrue\b", "false"), (r"\bfalse\b", "true")),
    *((r" \+ ", " - "), (r" - ", " + "), (r" \* ", " / "), (r" / ", " * "), (r"#(?=\w)", "1 + #")),
    *((r"\bmath\.min\b", "math.max"), (r"\bmath\.max\b", "math.min"), (r"\bmath\.floor\b", "math.ceil")),
    (r"\bnot ", ""),
)
_CONDITION = re.compile(r"^(\s*(?:else)?if )(.+)( then.*)$")
_KEYS = re.compile(r"\bKEYS(?:\.\w+|\['[\w:]+'\])")
_NUMBER = re.compile(r"(?<![\w.\[])\d+(?![\w.])")


@dataclass(frozen=True)
class Mutant:
    """One mistake.

    Attributes:
        script: The file, below `lua/`, without its ending.
        line: Which line of it, from 1.
        before: That line.
        after: What is there instead.
    """

    script: str
    line: int
    before: str
    after: str

    def __str__(self) -> str:
        was, now = self.before.strip(), self.after.strip() or "(nothing)"
        return f"lua/{self.script}.lua:{self.line}\n    - {was}\n    + {now}"


def mutants(script: str, text: str) -> Iterator[Mutant]:
    """Every mutant of a script."""
    keys = sorted({*_KEYS.findall(text)})
    for number, line in enumerate(text.splitlines(), 1):
        seen = {line}
        for after in (*_changes(line), *_with_other_keys(line, keys)):
            if after not in seen:
                seen.add(after)
                yield Mutant(script, number, line, after)


def _changes(line: str) -> Iterator[str]:
    for pattern, instead in _SWAPS:
        yield from _in_code(line, pattern, lambda _, instead=instead: instead)  # type: ignore[misc]
    yield from _in_code(line, _NUMBER.pattern, lambda number: str(int(number) + 1))
    yield from _in_code(line, _NUMBER.pattern, lambda number: str(int(number) - 1))
    if (condition := _CONDITION.match(_bare(line))) is not None:
        yield f"{condition[1]}not ({condition[2]}){condition[3]}"
    if _is_statement(line):
        yield ""  # a write that is not made, a key that is not freed
    yield from _with_other_words(line)


def _in_code(line: str, pattern: str, instead: Callable[[str], str]) -> Iterator[str]:
    """The line with one match replaced, where that is neither in a string nor in a comment."""
    for found in re.finditer(pattern, _blanked(line)):
        yield line[: found.start()] + instead(line[found.start() : found.end()]) + line[found.end() :]


def _blanked(line: str) -> str:
    """The line with what is no code as question marks, everything in its place."""
    return "".join(
        piece[0] if piece["code"] is not None else "?" * len(piece[0]) for piece in _PIECE.finditer(line)
    )


def _bare(line: str) -> str:
    """The line without a comment at its end."""
    kept = [piece[0] for piece in _PIECE.finditer(line) if piece["comment"] is None]
    return "".join(kept).rstrip()


def _is_statement(line: str) -> bool:
    """Whether the line is a call whose reply is dropped."""
    text = _blanked(line).rstrip("? ")
    return bool(re.fullmatch(r"\s+[\w.]+\(.*\)?|[\w.]+\(.*\)", text)) and text.count("(") == text.count(")")


def _with_other_keys(line: str, keys: list[str]) -> Iterator[str]:
    """Another key of the script in place of one."""
    for found in _KEYS.finditer(_bare(line)):
        other = keys[(keys.index(found[0]) + 1) % len(keys)]
        yield f"{line[: found.start()]}{other}{line[found.end() :]}"


def _with_other_words(line: str) -> Iterator[str]:
    """A word that the scripts answer with, or a name they write, spelt otherwise."""
    for piece in _PIECE.finditer(line):
        word, ahead = piece["string"], line[: piece.start()]
        is_command = ahead.endswith("call(")
        if word is not None and re.fullmatch(r"'\w[\w ]*'", word) and not is_command:
            yield f"{ahead}'{word[1:-1]}_'{line[piece.end() :]}"


def scripts(only: list[str]) -> dict[str, str]:
    """The scripts by name, includes among them; those of `only` if it names any."""
    folder = ROOT / "lua"
    found = {
        str(path.relative_to(folder).with_suffix("")): path.read_text("utf-8")
        for path in sorted(folder.rglob("*.lua"))
    }
    for name in only:
        if name not in found:
            sys.exit(f"there is no script '{name}'; there are: {', '.join(found)}")
    return {name: text for name, text in found.items() if not only or name in only}


class Bench:
    """A copy of the checkout, in which the tests are run. A context manager that takes it away.

    Args:
        tests: The arguments of pytest.
        limit: Seconds that it may take; None: not known yet.
    """

    def __init__(self, tests: list[str], limit: float | None = None) -> None:
        self.limit = limit
        self._tests = tests
        self._scratch = tempfile.TemporaryDirectory(prefix="redisjobs-mutants-")
        self._copy = Path(self._scratch.name)

    def __enter__(self) -> "Bench":
        skipped = shutil.ignore_patterns("__pycache__", ".*_cache")
        for name in _COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, self._copy / name, ignore=skipped)
            else:
                shutil.copy(source, self._copy / name)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._scratch.cleanup()

    def survives(self, mutant: Mutant) -> bool:
        """Whether the tests pass with this mutant."""
        path = self._copy / "lua" / f"{mutant.script}.lua"
        whole = path.read_text("utf-8")
        lines = whole.split("\n")
        lines[mutant.line - 1] = mutant.after
        path.write_text("\n".join(lines), "utf-8")
        try:
            return self.passes()
        finally:
            path.write_text(whole, "utf-8")

    def passes(self, *, loud: bool = False) -> bool:
        """Whether the tests pass, in time."""
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", *self._tests]
        environment = os.environ | {"PYTHONPATH": str(self._copy)}
        out = None if loud else subprocess.DEVNULL
        # A session of its own: what hangs is ended together with the servers that it started.
        process = subprocess.Popen(
            command, cwd=self._copy, env=environment, stdout=out, stderr=out, start_new_session=True
        )
        try:
            return process.wait(self.limit) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 9)
                process.wait()


def main() -> int:
    """Run it; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, help="how many mutants to draw; by default all, which takes hours")
    parser.add_argument("--seed", type=int, default=0, help="of the drawing")
    parser.add_argument("--only", action="append", default=[], metavar="SCRIPT", help="push, include/identify")
    parser.add_argument("--tests", nargs="+", default=list(TESTS), help="what pytest is to run")
    parser.add_argument("--list", action="store_true", help="print the mutants, and run nothing")
    arguments = parser.parse_args()

    made = [mutant for name, text in scripts(arguments.only).items() for mutant in mutants(name, text)]
    if arguments.count is not None and arguments.count < len(made):
        made = random.Random(arguments.seed).sample(made, arguments.count)
    if arguments.list:
        print("\n".join(map(str, made)))
        return 0
    with Bench(arguments.tests) as bench:
        began = time.monotonic()
        if not bench.passes(loud=True):
            print("the tests fail as it is: there is nothing to compare mutants with", file=sys.stderr)
            return 1
        took = time.monotonic() - began
        bench.limit = max(30.0, _SLACK * took)
        print(f"{len(made)} mutants; the tests take {took:.0f} s where nothing fails", flush=True)
        survivors = []
        for number, mutant in enumerate(made, 1):
            survived = bench.survives(mutant)
            survivors += [mutant] * survived
            print(f"[{number}/{len(made)}] {'SURVIVED' if survived else 'killed'}  {mutant}", flush=True)
    print(f"\n{len(survivors)} of {len(made)} survived" + (":" if survivors else ""))
    print("\n".join(map(str, survivors)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
