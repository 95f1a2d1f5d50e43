-- times: the times of pushes and schedulers, in ms. `redisjobs/model/times.py` explains the times of pushes.
local first_try_ms = 30000 -- refuse a first try that arrives later than this after it was sent
local repetition_ms = 8000 -- the same for a repetition
local ahead_ms = 100 -- a client may believe that the server's clock is this far ahead
local remembered_ms = 60000 -- how far back a repeated push looks for jobs that ended
local slot_ms = 5000 -- each `finished:` key is for the jobs that ended within this time
local kept_ms = remembered_ms + slot_ms -- how long such a key is kept
local there_ms = 30000 -- a scheduler that was silent for this long is gone
