-- whole: an integer as text; tostring would turn 1795560474974 into 1.795560474974e+12.
local function whole(number)
  return string.format('%.0f', number)
end
