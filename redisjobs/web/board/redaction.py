"""Hides what a viewer must not see: in parameters and results, and in the errors that repeat them."""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace

from redisjobs.base.logger import Log
from redisjobs.model.info import DeadGroup, JobInfo

logger = Log("redisjobs")

Redact = Callable[[str, str, str], str]
"""Gets a job's name, which text it is, and the text; returns the text to show. See `Dashboard`."""

HIDDEN = "•••"
_SCALAR = r'"(?:[^"\\]|\\.)*"|[^\s,\]}\[{]+'


class Redaction:
    """What to hide: by the names of JSON keys, or by a function."""

    def __init__(self, redact: Redact | Iterable[str] | None) -> None:
        if isinstance(redact, str):
            raise TypeError(f"redact={redact!r}: give several keys as ['password', 'token'], or a function")
        self._redact = redact if redact is None or callable(redact) else None
        keys = [] if redact is None or callable(redact) else list(redact)
        names = "|".join(re.escape(key) for key in keys)
        self._keys = re.compile(rf'("(?:{names})"\s*:\s*)({_SCALAR}|[\[{{])', re.IGNORECASE) if keys else None

    @property
    def hides(self) -> bool:
        """Whether it may hide something."""
        return self._redact is not None or self._keys is not None

    def job(self, job: JobInfo) -> JobInfo:
        """Return a job as it may be shown."""
        if not self.hides:
            return job
        secrets = self._secrets(job.parameters)

        def shown(field: str, text: str) -> str:
            return self._text(job.name, field, text, secrets)

        progress = job.progress and replace(job.progress, note=shown("progress", job.progress.note))
        return replace(
            job,
            parameters=shown("parameters", job.parameters),
            error=shown("error", job.error),
            traceback=shown("traceback", job.traceback),
            unique=shown("unique", job.unique),
            headers=job.headers and {key: shown("headers", value) for key, value in job.headers.items()},
            progress=progress,
        )

    def group(self, group: DeadGroup) -> DeadGroup:
        """Return a group of dead letters as it may be shown."""
        if not self.hides:
            return group
        name = group.names[0] if group.names else ""
        # The parameters are not known here, so an error may repeat a value of a hidden key.
        error = HIDDEN if self._keys is not None else self._text(name, "error", group.error, ())
        return replace(group, error=error if group.error else "")

    def result(self, name: str, text: str, parameters: str) -> str:
        """Return the JSON text of a result as it may be shown."""
        return self._text(name, "result", text, self._secrets(parameters)) if self.hides else text

    def message(self, text: str) -> str:
        """Return an error of a job whose parameters are not known, as it may be shown."""
        return HIDDEN if self._keys is not None else self._text("", "error", text, ())

    def parameters(self, name: str, text: str) -> str:
        """Return the JSON text of parameters as it may be shown."""
        return self._text(name, "parameters", text, ()) if self.hides else text

    def _text(self, name: str, field: str, text: str, secrets: Iterable[str]) -> str:
        if not text:
            return text
        try:
            if self._redact is not None:
                return str(self._redact(name, field, text))
        except Exception:  # the application's code; what it should have hidden must not be shown
            logger.exception("redact= raised for the %s of a job '%s'; it is hidden", field, name)
            return HIDDEN
        if self._keys is None:
            return text
        text = self._without_keys(text)
        for secret in secrets:
            text = text.replace(secret, HIDDEN)
        return text

    def _without_keys(self, text: str) -> str:
        assert self._keys is not None
        shown, at = list[str](), 0
        while found := self._keys.search(text, at):
            shown += [text[at : found.start()], found[1], f'"{HIDDEN}"']
            at = _end_of(text, found.end() - 1) if found[2] in ("[", "{") else found.end()
        return "".join([*shown, text[at:]])

    def _secrets(self, parameters: str) -> list[str]:
        """Return the hidden values in parameters, the longest first, as an error may repeat them."""
        if self._keys is None:
            return []
        values, at = set[str](), 0
        while found := self._keys.search(parameters, at):
            end = _end_of(parameters, found.end() - 1) if found[2] in ("[", "{") else found.end()
            for value in re.findall(_SCALAR, parameters[found.start(2) : end]):
                bare = value[1:-1] if value.startswith('"') else value
                values |= {bare, _unescaped(bare)}
            at = end
        return sorted((value for value in values if len(value) > 2 and value not in _PLAIN), key=len, reverse=True)


_PLAIN = ("true", "false", "null")


def _unescaped(text: str) -> str:
    try:
        return re.sub(r'\\u([0-9a-fA-F]{4})|\\(["\\/])', lambda found: _char(found), text)
    except ValueError:
        return text


def _char(found: "re.Match[str]") -> str:
    return chr(int(found[1], 16)) if found[1] else found[2]


def _end_of(text: str, at: int) -> int:
    """Return where the list or object ends that begins at a place of a JSON text; the text's end if nowhere."""
    depth = 0
    for found in re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]').finditer(text, at):
        depth += (found[0] in "[{") - (found[0] in "]}") if len(found[0]) == 1 else 0
        if depth == 0:
            return found.end()
    return len(text)
