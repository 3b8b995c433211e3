-- The requests and answers of kvlog.

local dialect = {}

function dialect.encode(text)
  return text
end

function dialect.read(key)
  return "GET /v1/kv/" .. key .. " HTTP/1.1\r\nHost: " .. dialect.host .. "\r\n\r\n"
end

function dialect.linearizable(key)
  return "GET /v1/kv/" .. key .. "?linearizable=true HTTP/1.1\r\nHost: " .. dialect.host .. "\r\n\r\n"
end

function dialect.put(key, _, value)
  return "PUT /v1/kv/" .. key .. "?ack=log HTTP/1.1\r\nHost: " .. dialect.host .. "\r\nContent-Length: " .. #value
    .. "\r\n\r\n" .. value
end

function dialect.one_of_bulk(key, value)
  return '{"op": "put", "key": "' .. key .. '", "value": "' .. value .. '"}'
end

function dialect.bulk(puts)
  local body = '{"then": [' .. table.concat(puts, ", ") .. "]}"
  return "POST /v1/txn?ack=log HTTP/1.1\r\nHost: " .. dialect.host
    .. "\r\nContent-Type: application/json\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body
end

-- A value is answered as it is, and begins with its key; a write with an object.
function dialect.is_write(body)
  return body:byte(1) == 123
end

function dialect.value_in(body)
  return body
end

-- The key of a put that was committed; nil if it was not.
function dialect.key_written(body)
  return body:find('"outcome": ?"committed"') and body:match('"key": ?"([^"]*)"')
end

function dialect.bulk_done(body, count)
  if not (body:find('"outcome": ?"committed"') and body:find('"succeeded": ?true')) then
    return false
  end
  return select(2, body:gsub('"op": ?"put"', "")) == count
end

return dialect
