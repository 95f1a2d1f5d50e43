-- note_event: add a line to the history of entries that stay where they are. `places` are as in the locator. It
-- never fails.
--- @include add_line
local function note_event(places, one)
  if #places == 0 then return end
  local noted = redis.pcall('HMGET', KEYS.history, unpack(places))
  if noted.err then return end
  local changed = {}
  for i, place in ipairs(places) do
    changed[#changed + 1], changed[#changed + 2] = place, add_line(noted[i] or '', one)
  end
  redis.call('HSET', KEYS.history, unpack(changed))
end
