-- stream_of: the stream of each place that a locator names, but for jobs that have ended.
local stream_of = {high = KEYS['ready:high'], normal = KEYS['ready:normal'], low = KEYS['ready:low'], dead = KEYS.dead}
