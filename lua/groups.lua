#!lua flags=no-writes,allow-oom
-- groups: count dead letters by kind of failure, newest first, a step at a time: by fingerprint, or by reason if a letter
-- has no fingerprint. Writes nothing.
--
-- ARGV[1] after where the step before stopped; '' to begin
-- Returns {after, group, ...}: where the next step goes on, '' at the end; and for each kind among these letters
--         {fingerprint, reason, error type, count, first ms, last ms, job id, error, name, ...}: when the first and the last
--         became dead letters, id and error of the newest, and up to 50 job names. A text is cut after 1,000 bytes

--- @include field time_of walk_back
local after = ARGV[1]

local groups, by_kind = {}, {}

local function text_of(fields, name)
  return string.sub(field(fields, name) or '', 1, 1000)
end

local function add(letter, fields)
  local at_ms, name = time_of(fields, 'failed_at', letter), text_of(fields, 'name')
  local fingerprint, reason = text_of(fields, 'fingerprint'), text_of(fields, 'reason')
  local kind = fingerprint ~= '' and 'f' .. fingerprint or 'r' .. reason
  if not by_kind[kind] then
    local row = {fingerprint, reason, text_of(fields, 'error_type'), 0, at_ms, at_ms, field(fields, 'id') or '', text_of(fields, 'error')}
    by_kind[kind] = {row = row, names = {}}
    groups[#groups + 1] = row
  end
  local group, row = by_kind[kind], by_kind[kind].row
  row[4], row[5], row[6] = row[4] + 1, math.min(row[5], at_ms), math.max(row[6], at_ms)
  if not group.names[name] and #row < 58 then
    group.names[name] = true
    row[#row + 1] = name
  end
end

after = walk_back(KEYS.dead, after, add)
return {after, unpack(groups)}
