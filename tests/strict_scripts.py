"""Scripts that refuse each key and channel that they have not declared, as no server of the tests does."""

from functools import cache
from typing import Any

from redisjobs.drivers.redis import scripts

# A declared name that ends with a colon stands for all names that begin so.
_STRICT = """
local redis = (function(redis)
  local declared = {}
  for _, name in ipairs(KEYS) do declared[name] = true end
  local function is_declared(word)
    if declared[word] then return true end
    for at = 1, #word do
      if word:sub(at, at) == ':' and declared[word:sub(1, at)] then return true end
    end
  end
  local second = {XGROUP = true, XINFO = true}
  local all = {DEL = true, UNLINK = true, EXISTS = true}
  local function checked(call)
    return function(command, ...)
      local words = {...}
      for at, word in ipairs(words) do
        local is_key = all[command] or at == (second[command] and 2 or 1)
        if command == 'TIME' or command == 'XREADGROUP' then is_key = false end
        word = tostring(word)
        if (is_key or word:sub(1, 10) == 'redisjobs:') and not is_declared(word) then
          error('undeclared: ' .. command .. ' ' .. word)
        end
      end
      return call(command, ...)
    end
  end
  return setmetatable({call = checked(redis.call), pcall = checked(redis.pcall)}, {__index = redis})
end)(redis)
"""


def strict(script: scripts.Script) -> scripts.Script:
    """Return a script that fails when it names a key or a channel that it has not declared."""
    first, _, rest = script.source.partition("\n")
    prelude = " ".join(_STRICT.split())  # one line, so that the numbers of the others stay
    return scripts._script(script.name, f"{first}\n{prelude} {rest}", script.keys)


_usual = scripts.script


@cache
def _strict_by_name(name: str) -> scripts.Script:
    return strict(_usual(name))


def be_strict(patch: Any) -> None:
    """Let all scripts of this process be strict, as long as the patch lasts."""
    patch.setattr(scripts, "script", _strict_by_name)
