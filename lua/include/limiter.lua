-- limiter: lets jobs start under the limits of their names, or wait in line. `keys` has limits, shares, holders, rate, turns,
-- lines. Needs whole, field, limit_of, arrival, room, take_share, give_up, hand_back beside it.
--
-- Returns a table:
--   start(place, fields, waited)  a share for the job of that place, if it needs one: then, and where it needs none, nil. Else
--                                 the bucket in whose line it has to wait. `waited` is true of one that was handed back:
--                                 those in line do not come before it
--   line_up(stream, deliveries, entries, bucket)  let entries wait there
--   pass(fields)                  a job that was handed back does not start: whoever is next in line may
--   has_turned                    whether anything of that changed when the next turn is
local function limiter(keys, now_ms, now_us)
  local limits, full, limiting = {}, {}, {has_turned = false}

  local function bucket_of(fields)
    local name, key = field(fields, 'name') or '', field(fields, 'limit_key') or ''
    if limits[name] == nil then
      limits[name] = not string.find(name, '%s') and limit_of(keys.limits, name) or false
    end
    return limits[name] and (key == '' and name or name .. ' ' .. key), limits[name]
  end

  local function turn(bucket, at_ms)
    if redis.call('ZADD', keys.turns, 'LT', 'CH', whole(at_ms), bucket) == 1 then limiting.has_turned = true end
  end

  -- After a start: whoever is next in line waits for a share, or for the rate.
  local function turn_on(bucket, limit)
    local free, from_us = room(keys, bucket, limit, now_us)
    if free > 0 or not redis.call('ZSCORE', keys.lines, bucket) then return end
    redis.call('ZREM', keys.turns, bucket)
    if from_us then turn(bucket, math.ceil(from_us / 1000)) end
  end

  limiting.start = function(place, fields, waited)
    local bucket, limit = bucket_of(fields)
    if not bucket then return nil end
    -- First: a job that is found again has its share, also where others find none.
    local share = redis.call('HGET', keys.shares, place)
    if share == bucket then return nil end
    if share then give_up(keys, {place}, now_ms) end -- an entry id that came again
    if full[bucket] then return bucket end
    local free, from_us = room(keys, bucket, limit, now_us)
    local is_behind = not waited and redis.call('ZSCORE', keys.lines, bucket)
    if free > 0 and not is_behind then
      take_share(keys, bucket, limit, place, now_ms, now_us)
      turn_on(bucket, limit)
      return nil
    end
    full[bucket] = true
    if free > 0 then
      turn(bucket, now_ms)
    elseif from_us then
      turn(bucket, math.ceil(from_us / 1000))
    end
    return bucket
  end

  limiting.line_up = function(stream, deliveries, entries, bucket)
    hand_back(stream, deliveries, entries, 'line:' .. bucket)
    redis.call('ZADD', keys.lines, 0, bucket)
  end

  limiting.pass = function(fields)
    local bucket = bucket_of(fields)
    if bucket and redis.call('ZSCORE', keys.lines, bucket) then turn(bucket, now_ms) end
  end

  return limiting
end
