-- make_group: make a ready stream's group, and the stream. From its start: `$` would skip what was pushed before any
-- worker came.
local function make_group(stream)
  redis.call('XGROUP', 'CREATE', stream, 'workers', '0', 'MKSTREAM')
end
