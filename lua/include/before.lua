-- before: up to `many` entries of a stream that come before `last`, the newest first; '' for the newest of all. `first` is the
-- smallest id there is. Where nothing comes before `last`, the server would find that by going through the whole stream from its
-- end: so it is not asked. What it refuses is answered, not raised. Needs is_older beside it.
local function before(stream, first, last, many)
  if last == '' then return redis.pcall('XREVRANGE', stream, '+', '-', 'COUNT', many) end
  if not first or not is_older(first, last) then return {} end
  return redis.pcall('XREVRANGE', stream, '(' .. last, '-', 'COUNT', many)
end
