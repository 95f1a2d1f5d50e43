"""Hides what a viewer must not see: in parameters and results, and in the errors that repeat them."""

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace

from redisjobs.base.logger import Log
from redisjobs.base.visible import visible
from redisjobs.errors import DecodeError
from redisjobs.model.health import Finding
from redisjobs.model.info import DeadGroup, JobInfo
from redisjobs.model.payload import decode_untyped

logger = Log("redisjobs")

Redact = Callable[[str, str, str], str]
"""Gets a job's name, which text it is, and the text; returns the text to show. See `Dashboard`."""

HIDDEN = "•••"
_OF_KEYS = ("unique", "no ttl", "unknown key")  # the checks whose examples are keys
_LONGEST = 1_000  # characters of a hidden value; what follows a longer one is hidden, too
_SCALAR = r'"(?:[^"\\]|\\.)*"|[^\s,\]}\[{]+'


class Redaction:
    """What to hide: by the names of JSON keys, or by a function."""

    def __init__(self, redact: Redact | Iterable[str] | None) -> None:
        if isinstance(redact, str):
            raise TypeError(f"redact={redact!r}: give several keys as ['password', 'token'], or a function")
        self._redact = redact if redact is None or callable(redact) else None
        keys = [] if redact is None or callable(redact) else list(redact)
        self._names = {key.lower() for key in keys}
        names = "|".join(re.escape(key) for key in keys)
        self._keys = re.compile(rf'("(?:{names})"\s*:\s*)({_SCALAR}|[\[{{])', re.IGNORECASE) if keys else None

    @property
    def needs_jobs(self) -> bool:
        """Whether `group` needs the newest letters."""
        return self._keys is not None

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
            history=tuple(
                replace(event, note=shown("parameters" if event.what == "edited" else "error", event.note))
                for event in job.history
            ),
            headers=job.headers
            and {
                key: HIDDEN if key.lower() in self._names else shown("headers", value)
                for key, value in job.headers.items()
            },
            progress=progress,
        )

    def group(self, group: DeadGroup, newest: JobInfo | None) -> DeadGroup:
        """Return a group of dead letters as it may be shown, given its newest letter if that is known."""
        if not self.hides or not group.error:
            return group
        if self._redact is not None:
            return replace(
                group, error=self._text(group.names[0] if group.names else "", "error", group.error, ())
            )
        # Only its parameters tell which values of hidden keys the error may repeat.
        return replace(group, error=self.job(newest).error if newest is not None else HIDDEN)

    def finding(self, finding: Finding) -> Finding:
        """Return a finding of the doctor as it may be shown: without unique keys, which may be what is hidden."""
        if not self.hides or not finding.examples or finding.check not in _OF_KEYS:
            return finding
        head = finding.sentence.partition(f" ({visible(finding.examples[0], 60)}")[0]
        return replace(finding, sentence=f"{head} ({HIDDEN}).", examples=())

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
            text = re.sub(_pattern(secret), HIDDEN, text)
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
                values.add(_decoded(value))
            at = end
        return sorted((value for value in values if len(value) > 2 and value not in _PLAIN), key=len, reverse=True)


_PLAIN = ("true", "false", "null")


def _decoded(value: str) -> str:
    """Return a text of a JSON text, or another value as it stands there."""
    with suppress(DecodeError):
        if isinstance(text := decode_untyped("a value", value.encode("utf-8", "replace")), str):
            return text
    return value


def _pattern(secret: str) -> str:
    """Return a pattern for a text in any form: as it is, in one line, or with the escapes of JSON or Python."""
    once = re.sub(r"(\s)\s+|(\\)\\+", r"\1\2", secret[:_LONGEST])  # two repetitions in a row would take too long
    return "".join(map(_of_character, once)) + (r"(?s:.*)" if len(secret) > _LONGEST else "")


def _of_character(char: str) -> str:
    if char.isspace():
        return r"(?:\s|\\[nrtvf]|\\x..|\\u....)+"
    if char == "\\":
        return r"\\+"
    escaped = rf"\\*{re.escape(char)}" if char in "\"'/" else re.escape(char)
    code = f"{ord(char):04x}"
    return escaped if char.isascii() and char.isprintable() else rf"(?:{escaped}|(?i:\\u{code}|\\x{code[-2:]}))"


def _end_of(text: str, at: int) -> int:
    """Return where the list or object ends that begins at a place of a JSON text; the text's end if nowhere."""
    depth = 0
    for found in re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]').finditer(text, at):
        depth += (found[0] in "[{") - (found[0] in "]}") if len(found[0]) == 1 else 0
        if depth == 0:
            return found.end()
    return len(text)
