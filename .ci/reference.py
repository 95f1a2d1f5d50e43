"""Write the pages of docs/reference/ that are generated from the code: the API and the command line.

    .venv/bin/python .ci/reference.py           # write them
    .venv/bin/python .ci/reference.py --check   # write nothing; exit code 1 if a page is out of date

The API comes from the docstrings, which griffe reads without importing anything. The command line comes from the
commands; the text above the marker on its page is kept.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import griffe
import typer

from redisjobs.cli.app import make

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs/reference"
MARKER = "<!-- What follows is written by .ci/reference.py. -->"

_TITLES = {
    "queues": ("Queues and pushing", "For developers who push jobs or register handlers."),
    "jobs": ("Names, contexts and states", "For developers who write handlers or read what is known about a job."),
    "workers": ("Workers", "For developers who run workers from their own code instead of the command line."),
    "middleware": ("Middleware", "For developers who add code before a push or around a handler."),
    "control": (
        "The control",
        "For operators: `queue.control` has these calls. Their values come from `redisjobs.control`.",
    ),
    "retries": ("Retry policies", "For developers who decide when a failed job is tried again."),
    "schedules": ("Schedules", "For developers who push jobs at fixed times."),
    "errors": (
        "Errors and steering",
        "For developers who catch errors, or raise one to choose a job's outcome: all come from "
        "`redisjobs.errors`, those that applications use most also from `redisjobs`.",
    ),
    "metrics": (
        "Metrics and tracing",
        "For operators: `from redisjobs.contrib.metrics import Metrics`, "
        "`from redisjobs.contrib.tracing import Tracing`.",
    ),
    "frameworks": (
        "Frameworks",
        "For developers: `redisjobs.contrib.django.Backend`, `redisjobs.contrib.django.Connections`, "
        "`from redisjobs.contrib.sqlalchemy import push_on_commit`, and "
        "`from redisjobs.contrib.pydantic_ai import JobDurability, signal_of`.",
    ),
    "web": ("The web page", "For operators: `from redisjobs.web import Dashboard, Verb, ALL, READ_ONLY`."),
    "sync": (
        "The sync queue",
        "For developers whose code has no event loop: `from redisjobs.sync import JobQueue`.",
    ),
    "testing": (
        "The test kit",
        "For developers who test their application: `from redisjobs.testing import Jobs`.",
    ),
}
"""The title of each page, and its first line."""

_PAGES = {
    "job": "jobs",
    "options": "jobs",
    "context": "jobs",
    "progress": "jobs",
    "worker": "workers",
    "middleware": "middleware",
    "retry": "retries",
    "schedules": "schedules",
    "scheduler": "schedules",
    "definition": "schedules",
    "stored": "schedules",
    "service": "workers",
    "errors": "errors",
}
"""The page of each module's names. The names of all other modules are on the page of the queues."""

_FIRST = (
    *("JobQueue", "JobHandle", "JobFunction", "JobInfo", "Control", "FilterOptions", "Counts"),
    *("JobContext", "current_job", "HandlerOptions", "PushOptions", "JobName", "PushedJob", "Priority", "State"),
    *("Worker", "Service", "Schedule", "exponential_jitter", "no_retry"),
    *("Retry", "Snooze", "Fail", "RedisJobsError"),
)
"""The names that stand first on their pages, in this order. The others follow by the alphabet."""

_FIRST_METHODS = (
    *("job", "register", "push", "push_many", "prepare", "run", "result", "watch"),
    *("get", "schedule", "service", "lifespan"),
)
"""The methods of a queue that stand first, in this order. The others follow as the code has them."""

_INTERNAL = {
    "JobQueue": {
        *("declared", "definition", "driver"),
    },
    "JobName": {"adapter", "round_trip"},
    "Retention": {"of"},
    "Scheduler": {"hear"},
    "JobDurability": {
        *("engine_spec", "get_default_run_id", "get_durable_operation_backend", "get_run_start_time"),
        *("in_durable_context", "wrap_run"),
    },
}
"""Members of a class that only redisjobs itself, or Pydantic AI, uses."""

_MADE_FOR_YOU = {"JobContext", "JobFunction", "PreparedJob"}
"""Classes that you never construct: their arguments are left out."""

_WIDTH = 88
_KINDS = {int: "NUMBER", float: "NUMBER", str: "TEXT", Path: "PATH"}
_PARSER: dict[str, Any] = {
    "returns_multiple_items": False,
    "returns_named_value": False,
    "warn_missing_types": False,  # of a property that is called
}
_SECTIONS = {
    griffe.DocstringSectionKind.parameters: "Arguments",
    griffe.DocstringSectionKind.returns: "Returns",
    griffe.DocstringSectionKind.raises: "Raises",
}

Documented = griffe.Class | griffe.Function


def api() -> dict[Path, str]:
    """Return the pages of the API: path and text."""
    package = griffe.load("redisjobs", search_paths=[ROOT], docstring_parser="google")
    groups: dict[str, list[Documented]] = {page: [] for page in _TITLES}
    front, control = _exported(package), _exported(package["control"])
    for found in (*front, package["queue.JobFunction"], package["worker.service.Lifespan"]):
        _, *rooms, _ = found.path.split(".")
        groups[next((_PAGES[room] for room in reversed(rooms) if room in _PAGES), "queues")].append(found)
    groups["errors"] = [each for each in package["errors"].classes.values() if not each.is_alias]
    groups["control"] = [each for each in control if each not in front and each.name != "SyncControl"]
    sync = package["sync"]
    contrib = package["contrib"]
    groups["metrics"] = [contrib["metrics"][name] for name in ("Metrics", "QueueMetrics")]
    groups["metrics"].append(contrib["tracing"]["Tracing"])
    django, database, agents = contrib["django"], contrib["sqlalchemy"], contrib["pydantic_ai"]
    groups["frameworks"] = [
        django["backend.Backend"],
        django["connections.Connections"],
        database["push_on_commit"],
        agents["JobDurability"],
        agents["signal_of"],
    ]
    groups["web"] = [package["web"]["dashboard"]["Dashboard"], package["web"]["board"]["access"]["Verb"]]
    groups["sync"] = [each for each in sync.classes.values() if not (each.is_alias or _is_protocol(each))]
    groups["sync"].append(_documented(sync["JobContext"]))
    groups["testing"] = [_documented(package["testing"][name]) for name in package["testing"].exports or ()]
    for members in groups.values():
        members.sort(key=lambda each: _FIRST.index(each.name) if each.name in _FIRST else len(_FIRST))
    pages = {DOCS / f"api/{page}.md": _api_page(page, members) for page, members in groups.items()}
    return pages | {DOCS / "api/index.md": _index(groups)}


def _exported(package: griffe.Object | griffe.Alias) -> list[Documented]:
    """Return what a package exports: what it imports as itself."""
    own = [each for name, each in package.members.items() if isinstance(each, griffe.Alias) and name[0] != "_"]
    return [_documented(each) for each in own if each.target_path.startswith("redisjobs.")]


def _documented(alias: griffe.Object | griffe.Alias) -> Documented:
    found = alias.final_target if isinstance(alias, griffe.Alias) else alias
    assert isinstance(found, griffe.Class | griffe.Function), alias.path
    return found


def _is_protocol(kind: griffe.Class) -> bool:
    return any(str(base).startswith("Protocol") for base in kind.bases)


def _index(groups: dict[str, list[Documented]]) -> str:
    lines = [
        "# The API",
        "For developers: every public name with its docstring. Import names from `redisjobs`, those of the sync "
        "queue from `redisjobs.sync`, and the others as their pages say.",
    ]
    for page, members in groups.items():
        rows = [f"| [`{each.name}`]({page}.md#{each.name.lower()}) | {_summary(each)} |" for each in members]
        lines += [f"## {_TITLES[page][0]}", "\n".join(["| name | what |", "|---|---|", *rows])]
    return _joined(lines)


def _summary(member: Documented) -> str:
    text = member.docstring.value if member.docstring else ""
    return " ".join(text.partition("\n\n")[0].split()).replace("|", "\\|")


def _api_page(page: str, members: Iterable[Documented]) -> str:
    lines = [f"# {_TITLES[page][0]}", _TITLES[page][1]]
    for member in members:
        if isinstance(member, griffe.Class):
            lines += _class(member, inherited=page != "sync")  # the async page has what both queues inherit
        else:
            lines += _function(member, "##")
    return _joined(lines)


def _class(found: griffe.Class, *, inherited: bool) -> Iterator[str]:
    bases = [str(base) for base in found.bases if not str(base).startswith(("Generic", "Protocol"))]
    init = found.members.get("__init__") or _inherited_init(found)
    yield f"## {found.name}"
    if isinstance(init, griffe.Function) and not (found.labels & {"dataclass"} or found.name in _MADE_FOR_YOU):
        yield _block(_signature(init, found.name))
    else:
        yield _block(f"class {found.name}({', '.join(bases)})" if bases else f"class {found.name}")
    yield from _prose(found)
    if attributes := list(_attributes(found, inherited=inherited)):
        yield "**Attributes**"
        yield "\n".join(attributes)
    for name, member in _members(found, inherited=inherited):
        if isinstance(member, griffe.Function) and member.docstring:
            yield from _function(member, "###", f"{found.name}.{name}")
        elif isinstance(member, griffe.Attribute) and _is_decorator(member):
            yield f"### {found.name}.{name}"
            yield _block(f"{name}: " + str(member.annotation).strip("'\""))
            yield from _prose(member)


def _inherited_init(found: griffe.Class) -> griffe.Object | None:
    """Return what makes a queue: both queues inherit it."""
    init = found.all_members.get("__init__") if found.name == "JobQueue" else None
    return init.final_target if isinstance(init, griffe.Alias) else init


def _members(found: griffe.Class, *, inherited: bool) -> Iterator[tuple[str, griffe.Object]]:
    """Yield the public members of a class in reading order: those to know first, its own, those of its bases."""
    own = {**found.members}
    for name, member in found.all_members.items():
        parent = member.final_target.parent if isinstance(member, griffe.Alias) else member.parent
        if inherited or (parent is not None and parent.name.startswith("Sync")):
            own.setdefault(name, member)
    names = [name for name in own if not (name.startswith("_") or name in _INTERNAL.get(found.name, ()))]
    if found.name == "JobQueue":
        names.sort(key=lambda name: _FIRST_METHODS.index(name) if name in _FIRST_METHODS else len(_FIRST_METHODS))
    for name in names:
        member = own[name]
        yield name, member.final_target if isinstance(member, griffe.Alias) else member


def _is_decorator(attribute: griffe.Attribute) -> bool:
    """Return whether a property is called as a method is: it documents arguments."""
    return any(section.kind is griffe.DocstringSectionKind.parameters for section in _parsed(attribute))


def _attributes(found: griffe.Class, *, inherited: bool) -> Iterator[str]:
    """Yield the attributes that the class or a private base documents, then those with a docstring."""
    documented = set(_INTERNAL.get(found.name, ()))
    for kind in (found, *(base for base in found.mro() if inherited and not _is_public(base))):
        for section in _parsed(kind):
            if section.kind is griffe.DocstringSectionKind.attributes:
                for each in section.value:
                    if each.name not in documented:
                        yield _item(f"`{each.name}`", each.description)
                    documented.add(each.name)
    for name, member in _members(found, inherited=inherited):
        if not isinstance(member, griffe.Attribute) or name in documented or _is_decorator(member):
            continue
        if member.parent is not found and isinstance(member.parent, griffe.Class) and _is_public(member.parent):
            continue
        if found.bases and str(found.bases[0]) == "StrEnum":
            yield f"- `{name}` = `{member.value}`"
        elif member.docstring:
            yield _item(f"`{name}`", member.docstring.value)


def _is_public(kind: griffe.Class) -> bool:
    return kind.name in kind.package.members


def _function(function: griffe.Function, heading: str, title: str = "") -> Iterator[str]:
    yield f"{heading} {title or function.name}"
    word = "async def " if "async" in function.labels else "def "
    returned = f" -> {function.returns}" if function.returns is not None else ""
    yield _block(_signature(function, word + function.name) + returned)
    yield from _prose(function)


def _prose(found: griffe.Object) -> Iterator[str]:
    for section in _parsed(found):
        if section.kind is griffe.DocstringSectionKind.text:
            yield section.value.strip()
        elif title := _SECTIONS.get(section.kind):
            yield f"**{title}**"
            yield "\n".join(_items(section, str(getattr(found, "returns", ""))))


def _items(section: griffe.DocstringSection, returned: str) -> Iterator[str]:
    for each in section.value:
        if section.kind is griffe.DocstringSectionKind.returns:
            begin = (
                "" if str(each.annotation) == returned else f"{each.annotation}: "
            )  # words that griffe takes for a type
            yield " ".join(f"{begin}{each.description}".split())
        elif section.kind is griffe.DocstringSectionKind.raises:
            yield _item(f"`{each.annotation}`", each.description)
        else:
            yield _item(f"`{each.name}`", each.description)


def _parsed(found: griffe.Object) -> list[griffe.DocstringSection]:
    return found.docstring.parse(griffe.Parser.google, **_PARSER) if found.docstring else []


def _item(what: str, text: str) -> str:
    return f"- {what}: {' '.join(text.split())}"


def _signature(function: griffe.Function, name: str) -> str:
    """Return name and arguments, on one line or one argument a line."""
    parts = list(_arguments(function))
    whole = f"{name}({', '.join(parts)})"
    return whole if len(whole) <= _WIDTH else "\n".join([f"{name}(", *(f"    {part}," for part in parts), ")"])


def _arguments(function: griffe.Function) -> Iterator[str]:
    before: griffe.ParameterKind | None = None
    for each in function.parameters:
        if each.name in ("self", "cls"):
            continue
        positional, named = griffe.ParameterKind.positional_only, griffe.ParameterKind.keyword_only
        if before is positional and each.kind is not positional:
            yield "/"
        if each.kind is named and before not in (named, griffe.ParameterKind.var_positional):
            yield "*"
        before = each.kind
        stars = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}.get(
            each.kind, ""
        )
        argument = f"{stars}{each.name}" + (f": {each.annotation}" if each.annotation is not None else "")
        if each.default is not None and not stars:
            argument += f" = {each.default}" if each.annotation is not None else f"={each.default}"
        yield argument
    if before is griffe.ParameterKind.positional_only:
        yield "/"


def _block(code: str) -> str:
    return f"```pyi\n{code}\n```"


def _joined(parts: Iterable[str]) -> str:
    return "\n\n".join(parts) + "\n"


def command_line() -> dict[Path, str]:
    """Return the page of the command line, with the text above the marker kept."""
    path = DOCS / "command-line.md"
    written = path.read_text("utf-8").partition(MARKER)[0]
    root: Any = typer.main.get_command(make())
    return {path: written + MARKER + "\n\n" + _joined(_commands(root, "redisjobs"))}


def _commands(command: Any, called: str) -> Iterator[str]:
    below = getattr(command, "commands", None)
    if below is None:
        yield from _command(command, called)
        return
    if command.invoke_without_command:
        yield from _command(command, called)
    for name, each in below.items():
        yield from _commands(each, f"{called} {name}")


def _command(command: Any, called: str) -> Iterator[str]:
    shown = [each for each in command.params if not getattr(each, "hidden", False) and each.name != "help"]
    arguments = [each for each in shown if each.param_type_name == "argument"]
    options = [each for each in shown if each.param_type_name == "option"]
    usage = [called, *(["[OPTIONS]"] if options else []), *(_metavar(each) for each in arguments)]
    yield f"## {called}"
    yield f"`{' '.join(usage)}`"
    yield "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n"))
    if arguments:
        rows = [f"| `{_metavar(each)}` | {_cell(each.help)} |" for each in arguments]
        yield "\n".join(["| argument | means |", "|---|---|", *rows])
    if options:
        kinds = _kinds(command)
        rows = [
            f"| {_names(each, kinds[each.name])} | {_cell(each.help)} | {_default(each)} |" for each in options
        ]
        yield "\n".join(["| option | means | by default |", "|---|---|---|", *rows])


def _metavar(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _names(option: Any, kind: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    if option.is_flag or kind is bool:
        return names
    if issubclass(kind, Enum):
        return f"{names} {', '.join(f'`{each.value}`' for each in kind)}"
    return f"{names} {option.metavar or _KINDS[kind]}"


def _kinds(command: Any) -> dict[str, Any]:
    """Return the type of each option and argument by name; for `Annotated[list[str] | None, ...]` that is str."""
    kinds = {}
    for name, hint in get_type_hints(command.callback, include_extras=True).items():
        kind = hint
        while inner := [each for each in get_args(kind) if each is not NoneType]:
            kind = inner[0]
        kinds[name] = kind
    return kinds


def _default(option: Any) -> str:
    shown = "required" if option.required else ""
    if not (option.required or option.default is None or option.default is False or option.default == ""):
        shown = f"`{getattr(option.default, 'value', option.default)}`"
    return " or ".join(filter(None, [f"`${option.envvar}`" if option.envvar else "", shown]))


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def main() -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is not up to date")
    check = parser.parse_args().check
    pages = api() | command_line()
    stale = [path for path, text in pages.items() if not path.exists() or path.read_text("utf-8") != text]
    left = sorted(set((DOCS / "api").glob("*.md")) - set(pages))
    for path in (*stale, *left):
        print(path.relative_to(ROOT), "is not up to date" if check else "done")
    if check:
        return 1 if stale or left else 0
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(pages[path], "utf-8")
    for path in left:  # pages of removed groups
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
