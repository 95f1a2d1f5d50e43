"""Notifications: how a worker hears at once of what it would else learn with its next claim or its next beat.

Anybody may write to the channel, so what it says is a hint, never the truth: that is in a key.
"""

import re

from redisjobs.client.backoff import retrying
from redisjobs.model.driver import Consumer, Notification
from redisjobs.scheduler.scheduler import Scheduler
from redisjobs.worker.source.exchanger import Exchanger
from redisjobs.worker.source.heartbeat import Beats
from redisjobs.worker.source.promoter import Promoter
from redisjobs.worker.source.reclaimer import Reclaimer

_TIME = re.compile("[0-9]{1,15}")  # ms


class Subscriber:
    """Listens, on a connection of its own, and again when that breaks.

    Args:
        consumer: The worker's side of the store.
        exchanger: Is told where only a claim finds what there is.
        promoter: The timer for delayed jobs.
        beats: Learns by the next heartbeat which jobs are cancelled.
        reclaimer: Looks after other workers.
        scheduler: Fires schedules, and listens by this; None: the worker fires none.
    """

    def __init__(
        self,
        consumer: Consumer,
        exchanger: Exchanger,
        promoter: Promoter,
        beats: Beats,
        reclaimer: Reclaimer,
        scheduler: Scheduler | None,
    ) -> None:
        self._scheduler = scheduler
        self._reclaimer = reclaimer
        self._consumer = consumer
        self._exchanger = exchanger
        self._promoter = promoter
        self._beats = beats

    async def run(self) -> None:
        """Listen until cancelled."""
        while True:  # also where a handler has cancelled a task of the driver's, and the listening ended in order
            await retrying(self._listen)

    async def _listen(self) -> None:
        await self._consumer.listen(self._heard)

    def _heard(self, notification: Notification) -> None:
        if self._scheduler is not None:
            self._scheduler.hear(notification)
        match notification.kind:
            case "cancel":
                self._beats.hurry_for(notification.value)
            case "joined":
                self._reclaimer.hear_of_another()
            case "left":
                self._reclaimer.look_at = 0.0  # whoever looks next is to promote
                self._exchanger.wake()
            case "released":
                self._exchanger.fetcher.interrupt()
            case "paused":
                self._exchanger.hand_back_waiting(at_once=True)
                self._exchanger.hear_of_pause()
            case "resumed":
                self._exchanger.hear_of_pause()
            case "due" if _TIME.fullmatch(notification.value):
                self._promoter.hear(int(notification.value))
            case "subscribed":  # what was said before was missed
                self._reclaimer.hear_of_another()
                self._exchanger.hear_of_pause()
                self._beats.hurry()
