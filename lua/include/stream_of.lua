-- stream_of: the stream of each place of a ready job, as a locator names it.
local stream_of = {high = KEYS['ready:high'], normal = KEYS['ready:normal'], low = KEYS['ready:low']}
