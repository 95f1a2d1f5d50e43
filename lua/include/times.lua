-- times: the times of pushes and schedulers, in ms. `redisjobs/model/times.py` has the reasons.
local first_try_ms = 30000 -- a push that arrives later after it was sent is refused
local repetition_ms = 8000 -- the same, of one that may have been pushed before
local ahead_ms = 100 -- a client may take the server's clock to be this far ahead
local remembered_ms = 60000 -- how far back a repeated push looks for what ended
local slot_ms = 5000 -- each key `finished:` is for the jobs that ended within this
local kept_ms = remembered_ms + slot_ms -- how long such a key is kept
local there_ms = 30000 -- a scheduler that was silent for this long is gone
