"""Hides what a viewer must not see: in parameters and results, and in the errors that repeat them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from redisjobs.base.logger import Log
from redisjobs.base.visible import visible
from redisjobs.model.health import Finding
from redisjobs.model.info import ChildGroup, ChildInfo, DeadGroup, JobInfo, LimitedKey, LimitInfo
from redisjobs.model.steps import StepInfo
from redisjobs.model.why import Why
from redisjobs.web.board.hidden import HIDDEN, Keys, Secret

logger = Log("redisjobs")

Redact = Callable[[str, str, str], str]
"""Gets a job's name, which text it is, and the text; returns the text to show. See `Dashboard`."""

_OF_KEYS = ("unique", "no ttl", "unknown key", "line")  # the checks whose examples are keys
_JSON = ("parameters", "result", "step")
_MOST_SECRETS = 100  # of one job; a search for more would hold up the page
_LIMIT_KEY = "limit_key"  # the fact of `Why` that has it


class Redaction:
    """What to hide: by the names of JSON keys, or by a function."""

    def __init__(self, redact: Redact | Iterable[str] | None) -> None:
        if isinstance(redact, str):
            raise TypeError(f"redact={redact!r}: give several keys as ['password', 'token'], or a function")
        self._redact = redact if redact is None or callable(redact) else None
        names = [] if redact is None or callable(redact) else list(redact)
        self._keys = Keys(names) if names else None

    @property
    def needs_jobs(self) -> bool:
        """Whether `group` needs the newest letters."""
        return self._keys is not None

    @property
    def hides(self) -> bool:
        """Whether it may hide something."""
        return self._redact is not None or self._keys is not None

    def may_hide(self, shown: str) -> bool:
        """Whether a text that is shown may differ from the stored one."""
        return self._redact is not None or HIDDEN in shown

    def job(self, job: JobInfo) -> JobInfo:
        """Return a job as it may be shown."""
        if not self.hides:
            return job
        secrets = self._secrets(job)

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
                key: HIDDEN if self._keys and key.lower() in self._keys.names else shown("headers", value)
                for key, value in job.headers.items()
            },
            progress=progress,
            waits_for=job.waits_for and replace(job.waits_for, key=shown("step", job.waits_for.key)),
            child_of=job.child_of and replace(job.child_of, step=self._step_of_parent(job.child_of.step)),
        )

    def story(
        self, steps: Sequence[StepInfo], groups: Sequence[ChildGroup], stored: JobInfo
    ) -> tuple[list[StepInfo], list[ChildGroup]]:
        """Return the steps and children of a job as they may be shown, given the job as it is stored."""
        secrets = self._secrets(stored)

        def shown(text: str) -> str:
            return self._text(stored.name, "step", text, secrets)

        return (
            [replace(step, key=shown(step.key), value=shown(step.value)) for step in steps],
            [
                replace(group, step=shown(group.step), children=[*map(self._child, group.children)])
                for group in groups
            ],
        )

    def _step_of_parent(self, key: str) -> str:
        return "" if self._keys else self._text("", "step", key, None)  # it may be made of the parent's parameters

    def _child(self, child: ChildInfo) -> ChildInfo:
        result, error = self.result("", child.result), self.message(child.error)
        return replace(child, result=result, error=error, job=child.job and self.job(child.job))

    def why(self, known: Why, stored: JobInfo | None) -> Why:
        """Return why a job does not run as it may be shown, given the job as it is stored."""
        key = known.facts.get(_LIMIT_KEY)
        if not self.hides or not key or stored is None:
            return known
        shown = self._text(stored.name, "limit_key", key, self._secrets(stored))
        return replace(known, facts={**known.facts, _LIMIT_KEY: shown})

    def limit(self, limit: LimitInfo) -> LimitInfo:
        """Return a limit as it may be shown. Its keys may be made of what is hidden."""
        if not self.hides:
            return limit
        keys = dict[str, LimitedKey]()
        for key, one in limit.keys.items():
            shown = self._text(limit.name, "limit_key", key, None)
            shown = key if shown == key else f"{shown} {len(keys) + 1}"
            keys[shown] = replace(one, key=shown)
        return replace(limit, keys=keys)

    def group(self, group: DeadGroup, newest: JobInfo | None) -> DeadGroup:
        """Return a group of dead letters as it may be shown, given its newest letter if that is known."""
        if not self.hides or not group.error:
            return group
        if newest is not None and self._keys is not None:
            return replace(group, error=self.job(newest).error)
        return replace(group, error=self.message(group.error, group.names[0] if group.names else ""))

    def finding(self, finding: Finding) -> Finding:
        """Return a finding of the doctor as it may be shown: without keys, which may be what is hidden."""
        if not self.hides or not finding.examples or finding.check not in _OF_KEYS:
            return finding
        head = finding.sentence.partition(f" ({visible(finding.examples[0], 60)}")[0]
        return replace(finding, sentence=f"{head} ({HIDDEN}).", examples=())

    def result(self, name: str, text: str) -> str:
        """Return the JSON text of a result as it may be shown."""
        return self._text(name, "result", text, ())

    def message(self, text: str, name: str = "") -> str:
        """Return an error of a job whose parameters are not known, as it may be shown."""
        return self._text(name, "error", text, None)

    def parameters(self, name: str, text: str) -> str:
        """Return the JSON text of parameters as it may be shown."""
        return self._text(name, "parameters", text, ())

    def _text(self, name: str, field: str, text: str, secrets: Iterable[Secret] | None) -> str:
        """Return a text as it may be shown; `secrets` is None if it is not known what it may repeat."""
        if not text or not self.hides:
            return text
        try:
            if self._redact is not None:
                return str(self._redact(name, field, text))
        except Exception:  # the application's code; what it should have hidden must not be shown
            logger.exception("redact= raised for the %s of a job '%s'; it is hidden", field, visible(name))
            return HIDDEN
        assert self._keys is not None
        if secrets is None and field not in _JSON:
            return HIDDEN
        text = self._keys.without(text)
        for secret in secrets or ():
            text = secret.hidden_in(text)
        return text

    def _secrets(self, job: JobInfo) -> list[Secret] | None:
        """Return what is hidden of a job's parameters, the longest first; None if it is too much."""
        if self._keys is None:
            return []
        texts = [job.parameters, *(event.note for event in job.history if event.what == "edited")]
        secrets = {secret for text in texts for secret in self._keys.secrets(text)}
        return None if len(secrets) > _MOST_SECRETS else sorted(secrets, key=lambda one: -len(one.value))
