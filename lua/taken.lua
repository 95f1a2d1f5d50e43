#!lua flags=no-writes,allow-oom
-- taken: list jobs in transit to another store, in the order in which they were taken: up to 500, or about 1 MB.
-- Writes nothing.
--
-- ARGV[1]  after         the entry after which to begin; '' = at the first
-- ARGV[2]  limit         int     the most jobs to list
-- ARGV[3]  now_ms        int ms; '' = the server's clock
-- Returns  {name, total, row, ...}: the name of this queue among those of all stores, '' if it has none yet; the
--          number of jobs in transit in all; and the rows, {name, value, ...}, with '' for a value that its job
--          lacks
--          entry, id, state, priority
--          due       ms
--          held      1 if it is held
--          since     since when it was in its state, ms
--          taken     when it was taken, ms
--          fields    {name, value, ...} of its entry
--          window    until when it holds the unique key that it has for a time, ms
--          outcome, result, and until when they are kept, ms: outcome_until, result_until
--          steps     {name, value, ...}, see `steps:<id>` in lua/README.md
--          signals   {name, value, ...}
--          children  of each group its token, the number of children, and how each has ended, see find_children

--- @include now checked field page bytes_of whole
local after, limit, now_ms = ARGV[1], tonumber(ARGV[2]), now(ARGV[3])

local function until_ms(key)
  local left_ms = redis.call('PTTL', key)
  return left_ms > 0 and whole(now_ms + left_ms) or ''
end

local function window(id, fields)
  local key = KEYS['unique:'] .. (field(fields, 'window') or '')
  return field(fields, 'window') and redis.call('GET', key) == id and until_ms(key) or ''
end

-- Return the outcome and the result of a job that has ended, if no other job has its id now.
local function ending(id, state)
  if state == 'ready' or state == 'delayed' or state == 'suspended' or redis.call('HGET', KEYS.jobs, id) then
    return '', '', '', ''
  end
  local outcome, result = KEYS['outcome:'] .. id, KEYS['result:'] .. id
  return redis.call('GET', outcome) or '', redis.call('GET', result) or '', until_ms(outcome), until_ms(result)
end

local function list(taken, name)
  return cjson.decode(field(taken, name) or '[]')
end

local function row(entry, taken)
  local id, state, fields = field(taken, 'id'), field(taken, 'state'), cjson.decode(field(taken, 'fields'))
  local outcome, result, until_outcome, until_result = ending(id, state)
  return {
    'entry', entry, 'id', id, 'state', state, 'priority', field(taken, 'priority'),
    'due', field(taken, 'due') or '', 'held', field(taken, 'held') or '', 'since', field(taken, 'since'),
    'taken', field(taken, 'taken_at'), 'fields', fields, 'window', window(id, fields),
    'outcome', outcome, 'result', result, 'outcome_until', until_outcome, 'result_until', until_result,
    'steps', list(taken, 'steps'), 'signals', list(taken, 'signals'), 'children', list(taken, 'children'),
  }, #outcome + #result
end

local rows, bytes, many, most_bytes = {}, 0, 1, 1048576
while many > 0 do
  local found = redis.pcall('XRANGE', KEYS.taken, after == '' and '-' or '(' .. after, '+', 'COUNT', many)
  for _, one in ipairs(checked('stream', KEYS.taken, found)) do
    local read, of_its_end = row(one[1], one[2])
    bytes = bytes + bytes_of(one[2]) + of_its_end
    if #rows > 0 and bytes > most_bytes then break end
    rows[#rows + 1], after = read, one[1]
  end
  many = #found < many and 0 or math.min(limit - #rows, page(#rows, bytes))
end
return {redis.call('HGET', KEYS.layout, 'name') or '', redis.call('XLEN', KEYS.taken), unpack(rows)}
