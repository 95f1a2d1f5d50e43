-- push_of: the name under which an ended job's push is remembered: its id, after its nonce if the push had one.
local function push_of(job, nonce)
  return (nonce or '') == '' and job or nonce .. ' ' .. job
end
