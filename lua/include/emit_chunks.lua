-- emit_chunks: add chunks to a job, and drop the oldest ones if it has too many. In `words`, from `first` to `last`, are a kind
-- (`json`, `bytes`) and the data of each. `wait`: of the first chunks of a run, the number of the last wait that was over when it
-- began; '' for later ones. So a run that emits again what an earlier one has emitted gets the next number. An entry has the
-- number of its run, that wait, and how many bytes were emitted before it.
--- @include field whole
local function emit_chunks(job, wait, words, first, last, now_ms)
  local most, most_bytes, key = 10000, 4194304, KEYS['chunks:'] .. job

  local function read(entry)
    local found = entry and redis.call('XRANGE', key, entry, entry)[1] or redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
    return tonumber(string.match(found and found[1] or '', '-(%d+)$')), tonumber(found and field(found[2], 'at'))
  end

  local newest = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1] or {'', {}}
  local began, number, fields = string.match(newest[1], '^(%d+)-'), tonumber(string.match(newest[1], '-(%d+)$')), newest[2]
  local run, waited, at = tonumber(field(fields, 'run')), tonumber(field(fields, 'wait')), tonumber(field(fields, 'at'))
  if not (run and waited and at and number < 1e15) then -- the first one; or someone has added an entry
    redis.call('DEL', key)
    began, number, run, waited, at = whole(now_ms), 0, 0, 0, 0
  else
    at = at + #(field(fields, 'json') or field(fields, 'bytes') or '')
  end
  if wait ~= '' or run == 0 then
    local since = tonumber(wait) or 0
    if run == 0 or since <= waited then run = run + 1 end
    waited = since
  end
  local total, count = at, number + (last - first + 1) / 2
  for i = first + 1, last, 2 do total = total + #words[i] end

  -- The number of the oldest chunk to keep, once only the last one is still to be added.
  local function oldest_to_keep()
    local oldest, before = read()
    local low, high = math.max(oldest or count, count - most + 1), count
    if total - (before or at) <= most_bytes then return low end
    while low < high do
      local middle = math.floor((low + high) / 2)
      local _, there = read(began .. '-' .. whole(middle))
      if total - (there or 0) > most_bytes then low = middle + 1 else high = middle end
    end
    return low
  end

  for i = first, last, 2 do
    number = number + 1
    local id = began .. '-' .. whole(number)
    local entry = {'run', whole(run), 'wait', whole(waited), 'at', whole(at), words[i], words[i + 1]}
    if number < count then
      redis.call('XADD', key, id, unpack(entry))
    else -- it drops the oldest ones, too
      redis.call('XADD', key, 'MINID', began .. '-' .. whole(oldest_to_keep()), id, unpack(entry))
    end
    at = at + #words[i + 1]
  end
  redis.call('PEXPIRE', key, 86400000)
end
