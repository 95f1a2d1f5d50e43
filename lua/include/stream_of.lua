-- stream_of: the stream of each place that a locator can name, except the places of ended jobs.
local stream_of = {high = KEYS['ready:high'], normal = KEYS['ready:normal'], low = KEYS['ready:low'], dead =
  KEYS.dead}
