"""The times of a push, with a reason for each. Those that scripts need stand in `lua/include/times.lua`, too.

A queue repeats a push that got no answer. The store must not take the repetition for a new push, even if the first
try arrives late, or if the job has ended meanwhile. So the store remembers ended jobs for a while, and producers
stop repeating before it forgets them.
"""

LONGEST_TRY = 10.0
"""The most seconds that one try of a push takes. With a deadline from 10 s up, the first try needs no timer."""

REMEMBERED_MS = 60_000
"""How long the store remembers that a job has ended, so that a repeated push does not add the job again. Each key
for this holds the jobs that ended within 5 s, so it lives 5 s longer."""

REPEATABLE = 50.0
"""For how many seconds after its first try a push may be repeated. The last repetition may arrive 8 s later; the
scripts refuse older ones. 50 s and 8 s are less than `REMEMBERED_MS`, with 2 s to spare."""

YOUNG_MS = REMEMBERED_MS + 5_000
"""When a worker settles a job younger than this, it also sends the store the nonce of the job's push. Pushes of
older jobs can't be repeated. The 5 s allow for a client's clock that is behind the server's."""
