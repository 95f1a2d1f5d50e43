#!lua flags=no-writes,allow-oom
-- jobs: list jobs of one state: ready and running by priority and age, delayed by due time, dead letters
-- and those that have ended newest first. Writes nothing.
--
-- KEYS[1]  ready:high    stream  jobs to run and running; group `workers`
-- KEYS[2]  ready:normal  stream
-- KEYS[3]  ready:low     stream
-- KEYS[4]  jobs          hash    the locator: job id -> where it is
-- KEYS[5]  due           zset    delayed jobs by due time, ms: place in line, job id
-- KEYS[6]  delayed       hash    delayed job id -> JSON list: priority, then names and values
-- KEYS[7]  dead          stream  dead letters
-- KEYS[8]  completed     stream  jobs that are done, where they are kept
-- KEYS[9]  cancelled     stream  jobs that were cancelled, where they are kept
-- KEYS[10] held          hash    ids of jobs that are held -> since when, ms
-- KEYS[11] lines         zset    names and keys that have a waiting line, in alphabetical order
--
-- ARGV[1]  state         ready, running, delayed, dead, completed or cancelled
-- ARGV[2]  limit         int     most jobs to list; at most 500
--
-- Returns  a list of {job id, place, entry, due ms, consumer, deliveries, mark, held, {name, value, ...}}, as find does

--- @include "include/leases"
--- @include "include/is_waiting"
--- @include "include/field"
--- @include "include/group"
--- @include "include/entry_at"
--- @include "include/identify"
--- @include "include/unpacked"
--- @include "include/stored"
--- @include "include/parted"
--- @include "include/is_held"

local streams = {KEYS[1], KEYS[2], KEYS[3]}
local jobs, due, delayed, held, lines = KEYS[4], KEYS[5], KEYS[6], KEYS[10], KEYS[11]
local aside = {dead = KEYS[7], completed = KEYS[8], cancelled = KEYS[9]}
local places = {['ready:high'] = KEYS[1], ['ready:normal'] = KEYS[2], ['ready:low'] = KEYS[3]}
local state, limit = ARGV[1], math.min(tonumber(ARGV[2]), 500)

local rows = {}

local function add(stream, entry, consumer, deliveries)
  local place = string.match(stream, '}:(.+)$')
  local id, mark, address = identify(places, jobs, place, entry[1], entry[2])
  rows[#rows + 1] = {address, place, entry[1], '', consumer, deliveries, mark or '', is_held(held, id), entry[2]}
end

local function add_page(stream, page)
  for _, lease in ipairs(page) do
    local waits = is_waiting(lease[2])
    local found = waits == (state == 'ready') and #rows < limit and redis.call('XRANGE', stream, lease[1], lease[1])[1]
    if found then add(stream, found, waits and '' or lease[2], lease[4]) end
  end
end

local function add_pending(stream)
  local from, pages = '-', 0
  repeat -- a page may hold nothing but jobs that run, of which there can be many
    local page = leases(stream, from, '+', 500) or {}
    add_page(stream, page)
    from, pages = '(' .. (page[#page] or {'0'})[1], pages + 1
  until #page < 500 or #rows >= limit or pages == 20
end

-- The oldest of those that these consumers have.
local function add_of(stream, consumers)
  local page, ages = {}, {}
  for _, consumer in ipairs(consumers) do
    for _, lease in ipairs(leases(stream, '-', '+', limit, consumer) or {}) do
      local ms, sequence = string.match(lease[1], '^(%d+)-(%d+)$') -- they may be too large for numbers of Lua
      ages[lease[1]] = string.rep('0', 20 - #ms) .. ms .. string.rep('0', 20 - #sequence) .. sequence
      page[#page + 1] = lease
    end
  end
  table.sort(page, function(one, other) return ages[one[1]] < ages[other[1]] end)
  add_page(stream, page)
end

-- By those who run them: what waits may be very much more. Where 5,000 or more had to be put in order, all that is pending
-- is gone through.
local function add_running(stream)
  local running, total = {}, 0
  for _, consumer in ipairs((leases(stream) or {})[4] or {}) do
    if not is_waiting(consumer[1]) then
      running[#running + 1], total = consumer[1], total + math.min(tonumber(consumer[2]), limit)
    end
  end
  if total < 5000 then add_of(stream, running) else add_pending(stream) end
end

-- What the group has not read yet begins after its last delivered id; with no group, at the start.
local function add_unread(stream)
  local ours = group(stream)
  local start = ours and '(' .. field(ours, 'last-delivered-id') or '-'
  local unread = redis.pcall('XRANGE', stream, start, '+', 'COUNT', limit - #rows)
  if unread.err then -- nothing comes after the largest entry id there is
    if string.find(unread.err, 'invalid start ID', 1, true) then return end
    return error(unread)
  end
  for _, found in ipairs(unread) do add(stream, found, '', '') end
end

if state == 'ready' or state == 'running' then
  for _, stream in ipairs(streams) do
    if state == 'running' then
      add_running(stream)
    elseif redis.call('ZCARD', lines) > 0 then -- of which each has a consumer: all that is pending is gone through
      add_pending(stream)
    else
      add_of(stream, {'released', 'parked'})
    end
    if state == 'ready' and #rows < limit then add_unread(stream) end
  end
elseif state == 'delayed' then
  local members = redis.call('ZRANGE', due, 0, limit - 1, 'WITHSCORES')
  for i = 1, #members, 2 do
    local _, job = parted(members[i])
    local fields, priority = stored(places, delayed, job, 'delayed')
    if fields then rows[#rows + 1] = {job, 'delayed:' .. priority, '', members[i + 1], '', '', '', is_held(held, job), fields} end
  end
elseif aside[state] then
  for _, found in ipairs(redis.call('XREVRANGE', aside[state], '+', '-', 'COUNT', limit)) do
    add(aside[state], found, '', '')
  end
end
return rows
