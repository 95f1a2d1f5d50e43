-- line: the place of a job among those due at the same time: µs of its arrival, and its number in the call.
local function line(exact_ms, number)
  return string.format('%016.0f-%04d', exact_ms * 1000, number)
end
