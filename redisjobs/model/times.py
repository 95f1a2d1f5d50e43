"""The times of a push, each with the reason for its value. `lua/include/times.lua` has the same ones.

A push without an answer is sent again. The store must tell that from a new push, even if the first try arrives
late, or if its job has ended meanwhile. So it remembers what ended for a while, and producers stop earlier.
"""

LONGEST_TRY = 10.0
"""Seconds that one try of a push takes at most, so that a caller's deadline needs no timer of its own."""

REMEMBERED_MS = 60_000
"""How far back the store looks for a job that has ended, so that a repeated push of it adds nothing. The keys
that it looks into live 5 s longer, as each is for jobs that ended within 5 s."""

REPEATABLE = 50.0
"""Seconds from a push's first try within which it may be sent again. The last repetition may be on its way for
8 s, as the scripts refuse an older one. All that is within `REMEMBERED_MS`, with 2 s to spare."""

YOUNG_MS = REMEMBERED_MS + 5_000
"""The age up to which a worker tells the store by which push a job that it settles was made: no push of an older
job can be repeated. The 5 s make up for a client's clock that is behind the server's."""
