-- before: up to `many` entries of a stream that come before `last`, newest first; '' starts at the newest. `first` is the
-- smallest id: Redis would walk the whole stream to find out that nothing comes before it. An error reply is returned.
--- @include is_older
local function before(stream, first, last, many)
  if last == '' then return redis.pcall('XREVRANGE', stream, '+', '-', 'COUNT', many) end
  if not first or not is_older(first, last) then return {} end
  return redis.pcall('XREVRANGE', stream, '(' .. last, '-', 'COUNT', many)
end
