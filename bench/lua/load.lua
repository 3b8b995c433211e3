-- A load for wrk, which checks every answer and prints what it has counted as one line of JSON.
--
--   wrk ... --script load.lua URL -- SCRIPTS DIALECT KIND INPUTS FIRST BULK MIXED_READS
--
-- DIALECT.lua in the directory SCRIPTS knows the requests and answers of a system; INPUTS is the file that
-- bench/inputs.py writes; FIRST the number of the first write. There is one thread, so that all counts are in one place.

local threads = {}

function setup(thread)
  threads[#threads + 1] = thread
end

-- Counted in the thread. Globals, because done() asks for them by name.
sent, answered, writes_sent, writes_answered = 0, 0, 0, 0
first_wrong = ""
wrong = {}

local dialect, kind, inputs, number, bulk, mixed_reads
local keys, digits, paddings = {}, {}, {} -- as the dialect encodes them
local digits_back, key_number = {}, {}
local reading, writing = {}, {} -- by key: how many requests for it are under way
local turn = 0
local verified = false

local HEAD = 24 -- bytes: key and number
local GROUP = 3 -- digits at a time are encoded

function init(args)
  package.path = args[1] .. "/?.lua;" .. package.path
  dialect = require(args[2])
  kind = args[3]
  inputs = dofile(args[4])
  number = tonumber(args[5]) - 1
  bulk, mixed_reads = tonumber(args[6]), tonumber(args[7])
  dialect.host = wrk.headers["Host"] or (wrk.host .. ":" .. wrk.port)
  for i, key in ipairs(inputs.keys) do
    keys[i] = dialect.encode(key)
    key_number[keys[i]] = i
    reading[i], writing[i] = 0, 0
  end
  for i, padding in ipairs(inputs.paddings) do
    paddings[i] = dialect.encode(padding)
  end
  for group = 0, 999 do
    local text = string.format("%03d", group)
    digits[group] = dialect.encode(text)
    digits_back[digits[group]] = group
  end
end

local function value(i, of)
  local rest = of % 1e9
  return keys[i] .. digits[math.floor(of / 1e9)] .. digits[math.floor(rest / 1e6)]
    .. digits[math.floor(rest % 1e6 / 1e3)] .. digits[rest % 1e3] .. paddings[of % #paddings + 1]
end

-- The key (its place in the inputs) that an encoded value belongs to; nil if it is not one of ours.
local function key_of(text)
  local size, group = #keys[1], #digits[0]
  local i = key_number[text:sub(1, size)]
  if not i then
    return nil
  end
  local of = 0
  for at = size + 1, size + 4 * group, group do
    local found = digits_back[text:sub(at, at + group - 1)]
    if not found then
      return nil
    end
    of = of * 1000 + found
  end
  return text == value(i, of) and i or nil
end

local function next_write()
  number = number + 1
  return inputs.order[(number - 1) % #inputs.order + 1] + 1, number
end

local function read_request(make)
  turn = turn + 1
  local i = inputs.reads[(turn - 1) % #inputs.reads + 1] + 1
  reading[i] = reading[i] + 1
  return make(inputs.keys[i], keys[i])
end

local function put_request()
  local i, of = next_write()
  writes_sent = writes_sent + 1
  writing[i] = writing[i] + 1
  return dialect.put(inputs.keys[i], keys[i], value(i, of))
end

local function bulk_request()
  local puts = {}
  for place = 1, bulk do
    local i, of = next_write()
    puts[place] = dialect.one_of_bulk(keys[i], value(i, of))
  end
  writes_sent = writes_sent + 1
  return dialect.bulk(puts)
end

local function next_request()
  if kind == "read" then
    return read_request(dialect.read)
  elseif kind == "linearizable" then
    return read_request(dialect.linearizable)
  elseif kind == "put" then
    return put_request()
  elseif kind == "bulk" then
    return bulk_request()
  end
  if sent % (mixed_reads + 1) == mixed_reads then
    return put_request()
  end
  return read_request(dialect.read)
end

function request()
  if not verified then -- wrk asks for one before it begins, to see how many requests are in it, and does not send it
    verified = true
    return dialect.read(inputs.keys[1], keys[1])
  end
  local made = next_request()
  sent = sent + 1
  return made
end

local function note_wrong(what, body)
  wrong[what] = (wrong[what] or 0) + 1
  if first_wrong == "" then
    first_wrong = what .. ": " .. body:sub(1, 200)
  end
end

local function check_read(status, body)
  local text = status == 200 and dialect.value_in(body)
  local i = text and key_of(text)
  if not i then
    note_wrong(status == 200 and "a value that nobody wrote" or "status " .. status, body)
  elseif reading[i] == 0 then
    note_wrong("the value of a key that was not asked for", body)
  else
    reading[i] = reading[i] - 1
  end
end

local function check_write(status, body)
  writes_answered = writes_answered + 1
  if status ~= 200 and status ~= 201 then
    note_wrong("status " .. status, body)
  elseif kind == "bulk" then
    if not dialect.bulk_done(body, bulk) then
      note_wrong("a bulk write that is not done", body)
    end
  else
    local key = dialect.key_written(body)
    local i = key and key_number[key]
    if key == nil or (key ~= "" and (i == nil or writing[i] == 0)) then
      note_wrong("a write that is not done", body)
    elseif i then
      writing[i] = writing[i] - 1
    end
  end
end

function response(status, headers, body)
  answered = answered + 1
  if kind == "put" or kind == "bulk" or (kind == "mixed" and dialect.is_write(body)) then
    check_write(status, body)
  else
    check_read(status, body)
  end
end

local function quoted(text)
  return '"' .. text:gsub('[%c"\\\128-\255]', function(c) return string.format("\\u%04x", c:byte()) end) .. '"'
end

local function object(counts)
  local members = {}
  for name, count in pairs(counts) do
    members[#members + 1] = quoted(name) .. ": " .. count
  end
  return "{" .. table.concat(members, ", ") .. "}"
end

function done(summary, latency, requests)
  local thread, errors = threads[1], summary.errors
  local sockets = { connect = errors.connect, read = errors.read, write = errors.write, timeout = errors.timeout }
  io.write(string.format(
    '\nresult: {"requests": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, "longest_ms": %.3f, "sent": %d, '
      .. '"answered": %d, "writes_sent": %d, "writes_answered": %d, "sockets": %s, "wrong": %s, "first_wrong": %s}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    latency.max / 1e3, thread:get("sent"), thread:get("answered"), thread:get("writes_sent"),
    thread:get("writes_answered"), object(sockets), object(thread:get("wrong")), quoted(thread:get("first_wrong"))
  ))
end
