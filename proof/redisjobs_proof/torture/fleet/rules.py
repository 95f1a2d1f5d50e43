"""The rules of the schedule that the torture's workers declare, now and in the release before."""

from datetime import UTC, datetime, timedelta

from redisjobs.schedules.schedule import Schedule

SPAN = timedelta(seconds=1)
"""From one slot of a rule to the next."""
RULE = Schedule.every(SPAN)
"""The rule of the schedule that the torture's workers declare."""
OTHER_RULE = Schedule.every(SPAN, datetime(1970, 1, 1, microsecond=500_000, tzinfo=UTC))
"""Its rule in a release that is rolled back: half a second off, so that each slot shows its rule."""


def is_of_other_rule(slot: datetime) -> bool:
    """Whether a slot is one of `OTHER_RULE`."""
    return slot.microsecond > 0
