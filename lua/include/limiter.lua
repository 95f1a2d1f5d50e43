-- limiter: lets jobs start under the limits of their names, or puts them in a waiting line. Returns a table:
--   start(place, fields, waited)  take a share for the job of that place, if it needs one. Returns nil if it may
--                                 start, else the bucket in whose line it has to wait. `waited`: it was handed
--                                 back, so it goes before the line
--   line_up(stream, deliveries, entries, bucket)  put entries in the line of this bucket
--   pass(fields)                  give the next in line a turn, because a job that was handed back does not start
--   has_turned                    whether the time of the next turn has changed
-- A job that continues after a wait has started before. It needs a free share, but it spends nothing of the rate.
-- It does not wait for the rate, nor behind jobs that do.
--- @include field limit_of whole room goes_on give_up arrival hand_back
local function limiter(now_ms, now_us)
  local limits, full, limiting = {}, {}, {has_turned = false}

  local function bucket_of(fields)
    local name, key = field(fields, 'name') or '', field(fields, 'limit_key') or ''
    if limits[name] == nil then
      limits[name] = not string.find(name, '%s') and limit_of(name) or false
    end
    return limits[name] and (key == '' and name or name .. ' ' .. key), limits[name]
  end

  local function turn(bucket, at_ms)
    if redis.call('ZADD', KEYS.turns, 'LT', 'CH', whole(at_ms), bucket) == 1 then limiting.has_turned = true end
  end

  local function take_share(bucket, limit, place, has_begun)
    redis.call('HSET', KEYS.shares, place, bucket)
    redis.pcall('ZADD', KEYS['holders:'] .. bucket, whole(now_ms), place)
    if not limit.every_us or has_begun then return end
    local next_us = arrival(bucket, limit, now_us) + limit.every_us
    redis.call('SET', KEYS['rate:'] .. bucket, whole(next_us), 'PX', whole(math.ceil((next_us - now_us) / 1000)))
  end

  -- After a start the next in line waits for a share, or for the rate. If this job has not spent its turn, the
  -- next in line may start.
  local function turn_on(bucket, limit, has_begun)
    local free, from_us = room(bucket, limit, now_us)
    if free > 0 and not has_begun or not redis.call('ZSCORE', KEYS.lines, bucket) then return end
    if free > 0 then return turn(bucket, now_ms) end
    redis.call('ZREM', KEYS.turns, bucket)
    if from_us then turn(bucket, math.ceil(from_us / 1000)) end
  end

  limiting.start = function(place, fields, waited)
    local bucket, limit = bucket_of(fields)
    if not bucket then return nil end
    -- Checked first: a job that is delivered again has its share already.
    local share = redis.call('HGET', KEYS.shares, place)
    if share == bucket then return nil end
    if share then give_up({place}, now_ms) end -- another job had this entry id
    local has_begun = limit.every_us and goes_on(fields)
    if full[bucket] and not has_begun then return bucket end
    local free, from_us = room(bucket, has_begun and {most = limit.most} or limit, now_us)
    local is_behind = not waited and not has_begun and redis.call('ZSCORE', KEYS.lines, bucket)
    if free > 0 and not is_behind then
      take_share(bucket, limit, place, has_begun)
      turn_on(bucket, limit, has_begun)
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
    redis.call('ZADD', KEYS.lines, 0, bucket)
  end

  limiting.pass = function(fields)
    local bucket = bucket_of(fields)
    if bucket and redis.call('ZSCORE', KEYS.lines, bucket) then turn(bucket, now_ms) end
  end

  return limiting
end
