-- streams: the ready streams, highest priority first.
local streams = {KEYS['ready:high'], KEYS['ready:normal'], KEYS['ready:low']}
