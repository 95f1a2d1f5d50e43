"""The filters of a list of jobs, as they stand in a link. Every value is checked here, on the server."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlencode

from redisjobs.base.arguments import is_text
from redisjobs.control.filters import FilterOptions
from redisjobs.model.job import WAITING, State

AGES = {"": "any age", "60": "1 min", "3600": "1 hour", "21600": "6 hours", "86400": "1 day", "604800": "7 days"}
"""The ages to choose from, in seconds."""

_TEXTS = ("name", "text", "worker", "fingerprint", "reason")
_MOST_FIELDS = 2_000
_MOST_CURSOR = 500


def parsed(query: str | bytes) -> list[tuple[str, str]]:
    """Return the fields of a query string or a form; a ValueError if there are too many."""
    text = query.decode("latin-1") if isinstance(query, bytes) else query
    return parse_qsl(text, keep_blank_values=True, errors="surrogateescape", max_num_fields=_MOST_FIELDS)


def query_of(fields: Mapping[str, str]) -> str:
    """Return fields as a query string, without the empty ones."""
    return urlencode({key: value for key, value in fields.items() if value}, errors="surrogateescape")


def key_of(job_id: str) -> str:
    """Return an id as a value for a form; `id_from` returns the id. An id may hold bytes that are not UTF-8."""
    return quote(job_id, safe="!#$&'()*+,-./:;<=>?@[]^_`{|}~ ", errors="surrogateescape")


def id_from(key: str) -> str:
    """Return the id in a form's value."""
    return unquote(key, errors="surrogateescape")


@dataclass(frozen=True, slots=True)
class Filters:
    """Which jobs a list shows.

    Attributes:
        state: Their state.
        chosen: What was chosen, by the name of the field; only what is in use.
        after: Where the page begins; '' for the first one.
    """

    state: State
    chosen: Mapping[str, str]
    after: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str], default: State = State.READY) -> "Filters":
        """Return the filters in a query. A value that can't be meant counts as none."""
        named = query.get("state", "")
        state = State(named) if named in {*State} else default
        chosen = {key: query[key] for key in _TEXTS if is_text(query.get(key, ""), r"(?s:.{1,1000})")}
        if state in WAITING:
            chosen.pop("worker", None)
        if state is not State.DEAD:
            chosen.pop("fingerprint", None)
            chosen.pop("reason", None)
        age = query.get("age", "")
        if age in AGES and age:
            chosen["age"] = age
        after = query.get("after", "")
        return cls(state, chosen, after if is_text(after, rf"[\x20-\x7e]{{1,{_MOST_CURSOR}}}") else "")

    def left_out(self, query: Mapping[str, str]) -> str:
        """Return the name of a field of the query that can't be meant; '' if there is none."""
        return next((key for key in (*_TEXTS, "age") if query.get(key) and key not in self.chosen), "")

    @property
    def options(self) -> FilterOptions:
        """The options for a queue's methods."""
        options = FilterOptions()
        for key in _TEXTS:
            if key in self.chosen:
                options[key] = self.chosen[key]  # type: ignore[literal-required]
        if "age" in self.chosen:
            options["older_than"] = float(self.chosen["age"])
        return options

    def query(self, **changes: str) -> str:
        """Return the query string of a link to such a list, with changes. It begins with the first page."""
        return query_of({"state": self.state, **self.chosen, **changes})

    @property
    def in_words(self) -> str:
        """The filters in a few words: `dead, named SendEmail, with "joe@…"`."""
        chosen = self.chosen
        parts = [str(self.state)]
        parts += [f"named {chosen['name']}"] if "name" in chosen else []
        parts += [f'with "{chosen["text"]}"'] if "text" in chosen else []
        parts += [f"of the worker {chosen['worker']}"] if "worker" in chosen else []
        parts += [f"with the cause {chosen['fingerprint']}"] if "fingerprint" in chosen else []
        parts += [f"because: {chosen['reason']}"] if "reason" in chosen else []
        parts += [f"older than {AGES[chosen['age']]}"] if "age" in chosen else []
        return ", ".join(parts)
