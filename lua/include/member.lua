-- member: the member of `due` of a delayed job: its place in line and its id; the id alone if it has no place.
local function member(line, job)
  return line == '' and job or line .. ' ' .. job
end
