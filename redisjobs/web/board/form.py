"""The form of an action, and what the action did."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from redisjobs.web.board.filters import id_from

_MOST_JOBS = 500  # in one form


class Wrong(Exception):
    """What was given can't be done; the message says why. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Form:
    """The fields of a form.

    Attributes:
        fields: The fields in order, as names and values.
    """

    fields: Sequence[tuple[str, str]]

    def get(self, name: str) -> str:
        """Return the value of a field; '' if it is not there."""
        return next((value for key, value in reversed(self.fields) if key == name), "")

    def number(self, name: str, what: str, most: float) -> float | None:
        """Return the number in a field; None if it is empty.

        Raises:
            Wrong: It is no number from 0 to `most`; the message calls it `what`.
        """
        if not (text := self.get(name).strip()):
            return None
        try:
            number = float(text)
        except ValueError:
            raise Wrong(f"{what} is a number.") from None
        if not 0 <= number <= most:
            raise Wrong(f"{what} is a number from 0 to {most:,.0f}.")
        return number

    def whole(self, name: str, what: str, most: float) -> int | None:
        """Return the whole number in a field; see `number`."""
        number = self.number(name, what, most)
        if number is not None and not number.is_integer():
            raise Wrong(f"{what} is a whole number.")
        return None if number is None else int(number)

    @property
    def ids(self) -> list[str]:
        """The ids of the chosen jobs, each once.

        Raises:
            Wrong: No job is chosen, or too many are.
        """
        found = list(dict.fromkeys(id_from(value) for key, value in self.fields if key == "id" and value))
        if not found:
            raise Wrong("No job is selected. Select jobs by the boxes in front of them.")
        if len(found) > _MOST_JOBS:
            raise Wrong(f"These are {len(found)} jobs. A form takes up to {_MOST_JOBS}.")
        return found


class UnchangedJob(NamedTuple):
    """A job that an action did not change: its id, why, and the id of the job that holds its unique key."""

    job_id: str
    why: str
    holder: str = ""


@dataclass(frozen=True, slots=True)
class ActionOutcome:
    """What an action did.

    Attributes:
        done: What happened, as a word of `DONE`.
        count: To how many jobs.
        refused: The jobs that it did not happen to, and why.
        job_id: The job to show next; '' for none.
        to: The page to show next, for example a bulk act; '' for where the viewer came from.
    """

    done: str
    count: int = 1
    refused: Sequence[UnchangedJob] = ()
    job_id: str = ""
    to: str = ""
