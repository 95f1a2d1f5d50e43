-- emit_chunks: add chunks to a job, and drop the oldest ones if it has too many. `words` has from `first` to
-- `last` a kind (`json`, `bytes`) and the data of each. `wait` comes with the first chunks of a run: the number of
-- the last wait that was over when the run began; '' for later ones. With it, a run that emits again the chunks of
-- an earlier run gets the next number. An entry has the number of its run, that wait, and the number of bytes
-- emitted before it.
--- @include field whole
local function emit_chunks(job, wait, words, first, last, now_ms)
  local most, most_bytes, key = 10000, 4194304, KEYS['chunks:'] .. job

  local function read(from, to)
    local found = redis.call('XRANGE', key, from, to, 'COUNT', 1)[1] or {'', {}}
    local fields = found[2]
    return tonumber(string.match(found[1], '-(%d+)$')), fields, tonumber(field(fields, 'at')),
      string.match(found[1], '^(%d+)-')
  end

  -- The numbers have no gaps, so the newest one follows from the oldest.
  local oldest, _, before, began = read('-', '+')
  local number, fields, at = oldest and oldest + redis.call('XLEN', key) - 1, {}, nil
  if number then
    local newest = began .. '-' .. whole(number)
    _, fields, at = read(newest, newest)
  end
  local run, waited = tonumber(field(fields, 'run')), tonumber(field(fields, 'wait'))
  if not (run and waited and at and before) then -- the first one; or another program has added or deleted an entry
    redis.call('DEL', key)
    oldest, before, began, number, run, waited, at = 1, 0, whole(now_ms), 0, 0, 0, 0
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

  -- Return the number of the oldest chunk to keep, once only the last one is still to be added.
  local function oldest_to_keep()
    local low, high = math.max(oldest, count - most + 1), count
    if total - before <= most_bytes then return low end
    while low < high do
      local middle = math.floor((low + high) / 2)
      local id = began .. '-' .. whole(middle)
      local _, _, there = read(id, id)
      if total - (there or 0) > most_bytes then low = middle + 1 else high = middle end
    end
    return low
  end

  local function add(...)
    if type(redis.pcall('XADD', key, ...)) ~= 'table' then return end
    redis.call('DEL', key) -- another program has added or deleted an entry
    redis.call('XADD', key, ...)
  end

  for i = first, last, 2 do
    number = number + 1
    local id = began .. '-' .. whole(number)
    local entry = {'run', whole(run), 'wait', whole(waited), 'at', whole(at), words[i], words[i + 1]}
    if number < count then
      add(id, unpack(entry))
    else -- it drops the oldest ones, too
      add('MINID', began .. '-' .. whole(oldest_to_keep()), id, unpack(entry))
    end
    at = at + #words[i + 1]
  end
  redis.call('PEXPIRE', key, 86400000)
end
