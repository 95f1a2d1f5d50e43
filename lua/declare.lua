#!lua flags=allow-oom
-- declare: note that a worker has set the limits and the retention of its code, or ask whether that is noted. A
-- worker whose record is gone asks. If the note is gone too, limits and retention are lost, and the worker sets
-- them again. If the note is there, an operator may have changed them since, and the worker leaves them unchanged.
--
-- ARGV[1]  declaration   hex     a hash of these limits and this retention
-- ARGV[2]  done          '1': note it; '': only ask
-- Returns  1 if it was noted before, else 0

--- @include expect
local declaration, done = ARGV[1], ARGV[2] == '1'
local most = 20
expect('hash', KEYS.layout)
local is_known, noted = 0, {declaration}
for each in string.gmatch(redis.call('HGET', KEYS.layout, 'declared') or '', '%x+') do
  if each == declaration then
    is_known = 1
  elseif #noted < most then
    noted[#noted + 1] = each
  end
end

if done then redis.call('HSET', KEYS.layout, 'declared', table.concat(noted, ' ')) end
return is_known
