"""Turns settlements into the arguments of `settle.lua`."""

from collections.abc import Sequence

from redisjobs.drivers.redis.wire import Word, due_word, job_words, raw_id, reply_of
from redisjobs.model.emissions import EmitChunks
from redisjobs.model.transitions import (
    ACK,
    Ack,
    AddChildren,
    DeadLetter,
    Lease,
    Lingers,
    Release,
    Reply,
    ReportProgress,
    RetryLater,
    SaveStep,
    Settlement,
    Settlements,
    Suspend,
)


class Columns:
    """The arguments of `settle.lua`: first jobs that are done by their first delivery, by stream, then all others.

    A job whose entry id is greater than `cut` is young: its push may still be repeated.
    """

    def __init__(self, settlements: Settlements, cut: str) -> None:
        self._cut = cut
        self._done: list[list[int]] = [[], [], []]  # positions
        self._entries: list[list[str]] = [[], [], []]
        self._ids: list[list[bytes]] = [[], [], []]
        self._young: list[bytes] = []
        self._has_nonces = False
        self._uniques: list[bytes] = []
        self._results: list[Word] = []
        self._rest: list[int] = []  # positions
        self._others: list[Word] = []
        for position, (lease, settlement) in enumerate(settlements):
            if settlement is not ACK and (
                type(settlement) is not Ack or settlement.cancelled or settlement.stepped
            ):  # nearly all are ACK
                self._add_other(position, lease, settlement)
            elif lease.deliveries == 1 and b"child_of" not in lease.fields:
                self._add_done(position, lease, settlement)
            else:
                self._add_other(position, lease, settlement)

    def _add_done(self, position: int, lease: Lease, done: Ack) -> None:
        stream, entry = lease.token
        job_id, number = raw_id(lease.job_id), stream - 1
        self._done[number].append(position)
        self._entries[number].append(entry)
        self._ids[number].append(job_id)
        nonce, unique = lease.fields.get(b"nonce", b""), lease.fields.get(b"unique", b"")
        if entry > self._cut:
            self._young.append(b"%b %b" % (nonce, job_id) if nonce else job_id)
        if nonce:
            self._has_nonces = True
        if unique:
            self._uniques += (unique, job_id)
        if done is not ACK and (done.result is not None or done.reported):
            self._results += (str(stream), str(len(self._ids[number])), *_result(done))

    def _add_other(self, position: int, lease: Lease, settlement: Settlement) -> None:
        self._rest.append(position)
        self._others += settlement_words(lease, settlement)

    def arguments(self) -> list[Word]:
        """Return the arguments: the number of values of each kind, then the values."""
        plain = len(self._young) == sum(map(len, self._ids)) and not self._has_nonces
        young = "ids" if plain else str(len(self._young))
        arguments: list[Word] = [*(str(len(entries)) for entries in self._entries), young]
        arguments += [str(len(self._uniques) // 2), str(len(self._results) // 5)]
        for entries, ids in zip(self._entries, self._ids, strict=True):
            arguments += entries
            arguments += ids
        return [*arguments, *(() if plain else self._young), *self._uniques, *self._results, *self._others]

    def replies(self, words: Sequence[bytes]) -> list[Reply]:
        """Return a reply for each settlement, in their order; the script's one OK may stand for all."""
        order = [*self._done[0], *self._done[1], *self._done[2], *self._rest]
        replies = [Reply.OK] * len(order)
        if words != [b"OK"]:
            for position, raw in zip(order, words, strict=True):
                replies[position] = reply_of(raw)
        return replies


def settlement_words(lease: Lease, settlement: Settlement) -> list[Word]:
    """Return the arguments for a settlement that does not go in columns."""
    verb, values = _settlement(lease, settlement)
    return [verb, *token_words(lease), str(lease.deliveries), raw_id(lease.job_id), str(len(values)), *values]


def token_words(lease: Lease) -> tuple[str, str]:
    """Return the stream and the entry of a lease as arguments of a script."""
    stream, entry = lease.token
    return str(stream), entry


def _settlement(lease: Lease, settlement: Settlement) -> tuple[str, list[Word]]:
    """Return the name of a settlement in `settle.lua`, and its values."""
    match settlement:
        case Ack(cancelled, _, pushes):
            values: list[Word] = [lease.unique, lease.nonce, *_result(settlement)]
            values[2] = values[2] or lease.fields.get(
                b"keep_result", b""
            )  # so that the script need not read the entry
            if pushes:
                return "pushes", [*values, str(len(pushes)), *(word for job in pushes for word in job_words(job))]
            verb = "cancelled" if cancelled else "done"
            return verb, [*values, lease.fields.get(b"child_of", b"")]
        case RetryLater(due, changes):
            return "retry", [due_word(due), *(text for change in changes.items() for text in change)]
        case Suspend(wait, due, changes, version, group, pushes):
            until = "" if due is None else due_word(due) or "+0"
            children = (group.token, str(group.total)) if group else ("", "0")
            values = [str(wait), until, str(version), *children]
            values += [
                str(len(pushes)),
                str(2 * len(changes)),
                *(text for each in changes.items() for text in each),
            ]
            return "suspend", [*values, *(word for job in pushes for word in job_words(job))]
        case AddChildren(group, pushes, version):
            values = [raw_id(group.key), group.token, str(group.total), str(version), str(len(pushes))]
            return "children", [*values, *(word for job in pushes for word in job_words(job))]
        case EmitChunks(chunks, wait):
            words: list[Word] = [text for chunk in chunks for text in (chunk.kind, chunk.data)]
            return "emit", ["" if wait is None else str(wait), *words]
        case SaveStep(key, number, value, version):
            return "save", [raw_id(key), str(number), value, str(version)]
        case Release(refund):
            return "release", ["1" if refund else "0"]
        case DeadLetter(reason, error, traceback, error_type, fingerprint, reported, cancels):
            flags = ["1" if reported else "", "1" if cancels else ""]
            return "fail", [reason, error, traceback, error_type, fingerprint, *flags]
        case ReportProgress(progress):
            return "report", [progress]
        case Lingers():
            return "lingers", []


def _result(done: Ack) -> tuple[str, str, Word]:
    """Return what to keep of the result of a job that has run: for how many ms, a word, and a text."""
    result = done.result
    if result is None:
        return "", "reported" if done.reported else "", ""
    if result.refused:
        return str(result.keep_ms), "refused", result.refused
    return str(result.keep_ms), *(("", "") if result.value is None else ("completed", result.value))
