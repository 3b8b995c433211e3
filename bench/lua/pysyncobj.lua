-- The requests and answers of the front that bench/peers/pysyncobj_node.py has.

local dialect = {}

function dialect.encode(text)
  return text
end

function dialect.read(key)
  return "GET /kv/" .. key .. " HTTP/1.1\r\nHost: " .. dialect.host .. "\r\n\r\n"
end

function dialect.put(key, _, value)
  return "PUT /kv/" .. key .. " HTTP/1.1\r\nHost: " .. dialect.host .. "\r\nContent-Length: " .. #value .. "\r\n\r\n"
    .. value
end

function dialect.one_of_bulk(key, value)
  return '"' .. key .. '": "' .. value .. '"'
end

function dialect.bulk(puts)
  local body = "{" .. table.concat(puts, ", ") .. "}"
  return "POST /bulk HTTP/1.1\r\nHost: " .. dialect.host .. "\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body
end

-- A value is answered as it is, and begins with its key; a write with an object.
function dialect.is_write(body)
  return body:byte(1) == 123
end

function dialect.value_in(body)
  return body
end

function dialect.key_written(body)
  return body:match('"key": "([^"]*)"')
end

function dialect.bulk_done(body, count)
  return tonumber(body:match('"count": (%d+)')) == count
end

return dialect
