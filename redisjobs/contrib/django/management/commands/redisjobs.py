"""The management command: the command line of redisjobs, with the settings of the project loaded."""

import os
import sys
from argparse import REMAINDER, ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.tasks import task_backends

from redisjobs.__main__ import main
from redisjobs.contrib.django.backend import Backend


class Command(BaseCommand):
    """`manage.py redisjobs worker`, and the other commands of redisjobs."""

    help = (
        "Run a command of redisjobs. `manage.py redisjobs worker` runs the jobs of all queues in TASKS, or of the "
        "ones given by --queue NAME or --queue NAME=WEIGHT. It takes all options of `redisjobs worker`."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take all that follows."""
        parser.add_argument("arguments", nargs=REMAINDER, metavar="COMMAND ...")

    def handle(self, *args: Any, arguments: list[str], **options: Any) -> None:
        """Run the command, and exit with its status."""
        _, arguments = _parser("--settings", "--pythonpath").parse_known_args(arguments)  # Django has used these
        if arguments[:1] == ["worker"] and "--help" not in arguments:
            arguments = _with_queues(arguments)
        # The processes of a supervisor are not started by manage.py: they need its folder, and find the settings
        # in the environment.
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, sys.path)))
        typed, sys.argv = sys.argv, ["redisjobs", *(arguments or ["--help"])]
        try:
            main()
        finally:
            sys.argv = typed


def _with_queues(arguments: list[str]) -> list[str]:
    """Return a worker's arguments with the queues of its --queue. All queues of TASKS become the default."""
    given, rest = _parser("--queue").parse_known_args(arguments)
    there = _places()
    if there:  # only the command line knows whether MODULE:QUEUE is among the arguments
        os.environ["REDISJOBS_APP"] = " ".join(place for places in there.values() for place in places)
    found = list[str]()
    for each in given.queue or ():
        name, equals, weight = each.partition("=")
        if name not in there:
            raise CommandError(
                f"no redisjobs backend in TASKS has a queue '{name}'; there are {', '.join(there) or 'none'}"
            )
        found += [place + equals + weight for place in there[name]]
    return [rest[0], *found, *rest[1:]]


def _places() -> dict[str, list[str]]:
    """Return the places of the project's queues for the command line, by the queues' names."""
    there = dict[str, list[str]]()
    for alias in task_backends:
        if isinstance(task_backends[alias], Backend):
            for name in sorted(task_backends[alias].queues):
                there.setdefault(name, []).append(f"redisjobs.contrib.django.worker:{alias}.{name}")
    return there


def _parser(*options: str) -> ArgumentParser:
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    for option in options:
        parser.add_argument(option, action="append")
    return parser
