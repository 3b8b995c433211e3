-- The requests and answers of bench/peers/course_node.py.

local dialect = {}

function dialect.encode(text)
  return text
end

function dialect.read(key)
  return "GET /read?key=" .. key .. " HTTP/1.1\r\nHost: " .. dialect.host .. "\r\n\r\n"
end

function dialect.put(key, _, value)
  local body = '{"key": "' .. key .. '", "value": "' .. value .. '"}'
  return "POST /update HTTP/1.1\r\nHost: " .. dialect.host .. "\r\nContent-Type: application/json\r\nContent-Length: "
    .. #body .. "\r\n\r\n" .. body
end

function dialect.is_write(body)
  return body:find('"status"', 1, true)
end

function dialect.value_in(body)
  return body:match('"value": ?"([^"]*)"')
end

function dialect.key_written(body)
  return body:find('"status": ?"ok"') and body:match('"key": ?"([^"]*)"')
end

return dialect
