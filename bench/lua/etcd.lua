-- The requests and answers of etcd's JSON gateway. Keys and values are in base64; the parts of a value are encoded one by
-- one and put together, which is the same as long as all but the last are of three bytes or a multiple.

local bit = require("bit")

local dialect = {}

local ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

function dialect.encode(text)
  local out = {}
  for at = 1, #text, 3 do
    local a, b, c = text:byte(at, at + 2)
    local bits = bit.bor(bit.lshift(a, 16), bit.lshift(b or 0, 8), c or 0)
    for place, shift in ipairs({ 18, 12, 6, 0 }) do
      local index = bit.band(bit.rshift(bits, shift), 63) + 1
      local missing = (place == 3 and not b) or (place == 4 and not c)
      out[#out + 1] = missing and "=" or ALPHABET:sub(index, index)
    end
  end
  return table.concat(out)
end

local function post(path, body)
  return "POST " .. path .. " HTTP/1.1\r\nHost: " .. dialect.host
    .. "\r\nContent-Type: application/json\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body
end

function dialect.read(_, key)
  return post("/v3/kv/range", '{"key": "' .. key .. '", "serializable": true}')
end

function dialect.linearizable(_, key)
  return post("/v3/kv/range", '{"key": "' .. key .. '"}')
end

function dialect.put(_, key, value)
  return post("/v3/kv/put", '{"key": "' .. key .. '", "value": "' .. value .. '"}')
end

function dialect.one_of_bulk(key, value)
  return '{"requestPut": {"key": "' .. key .. '", "value": "' .. value .. '"}}'
end

function dialect.bulk(puts)
  return post("/v3/kv/txn", '{"success": [' .. table.concat(puts, ", ") .. "]}")
end

function dialect.is_write(body)
  return not body:find('"kvs"', 1, true)
end

function dialect.value_in(body)
  return body:match('"value":"([^"]*)"')
end

-- A put is answered with a revision, and not with its key; nil if it was not done.
function dialect.key_written(body)
  return body:find('"revision":"%d+"') and not body:find('"error"', 1, true) and "" or nil
end

function dialect.bulk_done(body, count)
  return body:find('"succeeded":true', 1, true) and select(2, body:gsub('"response_put"', "")) == count
end

return dialect
