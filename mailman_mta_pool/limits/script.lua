-- SPDX-License-Identifier: GPL-3.0-or-later
--
-- The use of the limits in a Redis or Valkey server.  One call does several
-- things, one after the other, at one time: nobody comes in between.
--
-- The windows are those of window.py: what is replied to within one part of a
-- period counts together.  All times are in microseconds.

local PARTS = 1000
-- A limit has at most so many periods: those of the configuration, and former
-- ones.
local WINDOWS = 8
local PREFIX = '{mta_pool}:'
local CLOCK, LEASES = PREFIX .. 'clock', PREFIX .. 'leases'
-- How long the keys outlive what they are for, in milliseconds.
local SPARE_MS = 86400000

local call = cjson.decode(ARGV[1])
local token = call.token

local function whole(number)
    return string.format('%.0f', number)
end

-- The server's clock, which does not go back though somebody may set it back.
local function clock()
    local raw = call.now
    if not raw then
        local time = redis.call('TIME')
        raw = tonumber(time[1]) * 1000000 + tonumber(time[2])
    end
    local kept = redis.call('HMGET', CLOCK, 'raw', 'ahead', 'epoch')
    local ahead = tonumber(kept[2] or nil) or 0
    local last = tonumber(kept[1] or nil) or raw
    if raw < last then
        ahead = ahead + last - raw
    end
    redis.call('HSET', CLOCK, 'raw', whole(raw), 'ahead', whole(ahead))
    -- What is stored may be lost or old once the server has been started
    -- anew.
    local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
    local epoch = kept[3]
    if not epoch then
        epoch = call.epoch
        redis.call('HSET', CLOCK, 'epoch', epoch)
    end
    return raw + ahead, epoch .. '-' .. (run or ''), not kept[3]
end

local now, epoch, is_new = clock()
if call.expected and call.expected ~= epoch then
    return cjson.encode({epoch = epoch, is_new = is_new, answers = false})
end

local function expire(key, microseconds)
    local ms = math.ceil(microseconds / 1000) + SPARE_MS
    if redis.call('PTTL', key) < ms then
        redis.call('PEXPIRE', key, ms)
    end
end

-- A window, as it is stored.
local function window_of(key, period)
    local name = PREFIX .. key .. ':' .. whole(period)
    local kept = redis.call('HMGET', name, 'total', 'oldest', 'newest', 'debt')
    return {
        name = name, period = period,
        part = math.max(1, math.ceil(period / PARTS)),
        total = tonumber(kept[1] or nil) or 0,
        oldest = tonumber(kept[2] or nil) or 0,
        newest = tonumber(kept[3] or nil) or 0,
        debt = tonumber(kept[4] or nil) or 0,
    }
end

local function keep(window)
    if window.total == 0 and window.debt == 0 then
        redis.call('DEL', window.name)
        return
    end
    redis.call('HSET', window.name, 'total', whole(window.total),
               'oldest', whole(window.oldest), 'newest', whole(window.newest),
               'debt', whole(window.debt))
    expire(window.name, window.period * (2 + window.debt))
end

local function put(window, index, amount)
    if window.total == 0 then
        window.oldest, window.newest = index, index
    end
    window.oldest = math.min(window.oldest, index)
    window.newest = math.max(window.newest, index)
    redis.call('HINCRBY', window.name, whole(index), whole(amount))
    window.total = window.total + amount
end

local function pay(window, index, count)
    local amount = math.min(window.debt, count - window.total)
    if amount > 0 then
        put(window, index, amount)
        window.debt = window.debt - amount
    end
end

-- Forget what counts no longer, and let what is owed take its place.
local function advance(window, count)
    local index = math.floor(now / window.part)
    local edge = index - PARTS - 1
    if window.debt == 0 then
        if window.newest <= edge then
            redis.call('DEL', window.name)
            window.total = 0
            return
        end
    elseif window.total == 0 then
        pay(window, math.max(index, window.newest), count)
    end
    local oldest = window.oldest
    while window.total > 0 and oldest <= edge do
        local field = whole(oldest)
        local amount = tonumber(
            redis.call('HGET', window.name, field) or nil) or 0
        if amount > 0 then
            redis.call('HDEL', window.name, field)
        end
        window.total = window.total - amount
        oldest = oldest + 1
        window.oldest = oldest
        if window.debt > 0 then
            pay(window, math.max(oldest + PARTS, window.newest), count)
        end
    end
end

-- The indices of the parts that count, the oldest first.
local function parts(window)
    local found = {}
    if window.total > 0 then
        for index = window.oldest, window.newest do
            local amount = tonumber(
                redis.call('HGET', window.name, whole(index)) or nil) or 0
            if amount > 0 then
                found[#found + 1] = {index, amount}
            end
        end
    end
    return found
end

local function free_at(window, amount)
    if window.total >= amount then
        for index = window.oldest, window.newest do
            amount = amount - (tonumber(redis.call(
                'HGET', window.name, whole(index)) or nil) or 0)
            if amount <= 0 then
                return (index + PARTS + 1) * window.part
            end
        end
    end
    return 0
end

-- The names of what belongs to a limit besides its windows.
local function flights_of(key) return PREFIX .. key .. ':flights' end
local function line_of(key) return PREFIX .. key .. ':line' end
local function periods_of(key) return PREFIX .. key .. ':periods' end

local function add_at(window, time, amount)
    local index = math.ceil(math.min(time, now) / window.part)
    if index > math.floor(now / window.part) - PARTS - 1 then
        put(window, index, amount)
    end
end

-- Begin to count for another period, with what the others know.
local function begin(key, period, known)
    local source, stalest, number = nil, nil, 0
    for other, wanted in pairs(known) do
        number = number + 1
        if not stalest or wanted < known[stalest] then
            stalest = other
        end
        if not source or (other >= period and (
                source < period or other < source)) or (
                source < period and other > source) then
            source = other
        end
    end
    if source then
        local from, window = window_of(key, source), window_of(key, period)
        advance(from, 0)
        keep(from)
        for _, found in ipairs(parts(from)) do
            add_at(window, found[1] * from.part, found[2])
        end
        keep(window)
    end
    if number >= WINDOWS then
        redis.call('HDEL', periods_of(key), whole(stalest))
        redis.call('DEL', PREFIX .. key .. ':' .. whole(stalest))
    end
end

-- All periods of a limit, those of the call among them.
local function periods(key, rates)
    local known = {}
    local kept = redis.call('HGETALL', periods_of(key))
    for place = 1, #kept, 2 do
        known[tonumber(kept[place])] = tonumber(kept[place + 1])
    end
    for _, rate in ipairs(rates) do
        if not known[rate[1]] then
            begin(key, rate[1], known)
            known = {}
            kept = redis.call('HGETALL', periods_of(key))
            for place = 1, #kept, 2 do
                known[tonumber(kept[place])] = tonumber(kept[place + 1])
            end
        end
        known[rate[1]] = now
        redis.call('HSET', periods_of(key), whole(rate[1]), whole(now))
        expire(periods_of(key), rate[1])
    end
    return known
end

-- Let something count for one period from now on.
local function count(key, amount, rates)
    local counts = {}
    for _, rate in ipairs(rates) do
        counts[rate[1]] = rate[2]
    end
    for period in pairs(periods(key, rates)) do
        local window, most = window_of(key, period), counts[period] or 0
        advance(window, most)
        local owed = 0
        if most > 0 then
            owed = math.max(0, amount - most)
        end
        window.debt = window.debt + owed
        put(window, math.ceil(now / window.part), amount - owed)
        keep(window)
    end
end

local function set_flight(key, owner, amount)
    local name = flights_of(key)
    if amount > 0 then
        redis.call('HSET', name, owner, whole(amount))
        expire(name, call.lease)
    else
        redis.call('HDEL', name, owner)
    end
end

local function flight(key)
    return tonumber(redis.call('HGET', flights_of(key), token) or nil) or 0
end

local function is_alive(owner)
    if owner == token then
        return true
    end
    local lease = tonumber(redis.call('HGET', LEASES, owner) or nil) or 0
    return lease >= now
end

-- What is in flight; that of dead processes counts as replied to now.
local function in_flight(key)
    local total, dead = 0, 0
    local kept = redis.call('HGETALL', flights_of(key))
    for place = 1, #kept, 2 do
        if is_alive(kept[place]) then
            total = total + tonumber(kept[place + 1])
        else
            dead = dead + tonumber(kept[place + 1])
            redis.call('HDEL', flights_of(key), kept[place])
        end
    end
    if dead > 0 then
        count(key, dead, {})
    end
    return total
end

-- What those wait for who have an earlier ticket.
local function earlier(key, ticket)
    local total = 0
    local kept = redis.call('HGETALL', line_of(key))
    for place = 1, #kept, 2 do
        local owner = kept[place]
        local other, need, lease = string.match(
            kept[place + 1], '^(%d+) (%d+) (%d+)$')
        other = tonumber(other)
        if tonumber(lease) < now then
            redis.call('HDEL', line_of(key), owner)
        elseif owner ~= token and (
                other < ticket or (other == ticket and owner < token)) then
            total = total + tonumber(need)
        end
    end
    return total
end

-- What is left of each rate of a limit.
local function left(limit)
    local flying = in_flight(limit.key)
    periods(limit.key, limit.rates)
    local found = {}
    for place, rate in ipairs(limit.rates) do
        local window = window_of(limit.key, rate[1])
        advance(window, rate[2])
        keep(window)
        found[place] = rate[2] - window.total - window.debt - flying
    end
    return found
end

-- When a limit has enough left for a call; nil if it has now.
local function lacks(limit, least, ahead, lefts)
    local latest = nil
    for place, rate in ipairs(limit.rates) do
        local need = math.max(1, math.min(least, rate[2])) + ahead
        local missing = need - lefts[place]
        if missing > 0 then
            local time = free_at(window_of(limit.key, rate[1]), missing)
            if time == 0 then
                time = now + rate[1]
            end
            latest = math.max(latest or 0, time, now + 1000)
        end
    end
    return latest
end

local function take(step)
    local ticket = step.ticket or now
    local recipients = step.recipients
    local lefts, aheads = {}, {}
    for place, limit in ipairs(step.limits) do
        lefts[place] = left(limit)
        aheads[place] = earlier(limit.key, ticket)
        if limit.recipients and step.divisible then
            for _, each in ipairs(lefts[place]) do
                recipients = math.min(recipients, each - aheads[place])
            end
        end
    end
    local times, latest = {}, 0
    for place, limit in ipairs(step.limits) do
        local least = 1
        if limit.recipients and not step.divisible then
            least = step.recipients
        end
        local time = lacks(limit, least, aheads[place], lefts[place])
        if time then
            times[limit.key] = {time, least}
            latest = math.max(latest, time)
        end
    end
    if latest == 0 then
        for _, limit in ipairs(step.limits) do
            redis.call('HDEL', line_of(limit.key), token)
            local amount = 1
            if limit.recipients then
                amount = recipients
            end
            set_flight(limit.key, token, flight(limit.key) + amount)
        end
        return {taken = recipients}
    end
    local wait = math.min(latest - now, step.longest)
    local names = {}
    for _, limit in ipairs(step.limits) do
        local time, least = unpack(times[limit.key] or {0, 0})
        if time > 0 and time - now >= step.share * (latest - now) then
            names[#names + 1] = limit.key
            -- Not as JSON, which has but 14 digits here.
            redis.call('HSET', line_of(limit.key), token, table.concat({
                whole(ticket), whole(least),
                whole(now + wait + step.grace)}, ' '))
            expire(line_of(limit.key), wait)
        else
            redis.call('HDEL', line_of(limit.key), token)
        end
    end
    return {lacking = names, seconds = (latest - now) / 1000000,
            ticket = whole(ticket)}
end

local function give_back(step)
    for _, limit in ipairs(step.limits) do
        set_flight(limit.key, token, flight(limit.key) - limit.amount)
    end
    return true
end

local function replied(step)
    for _, limit in ipairs(step.limits) do
        count(limit.key, limit.amount, limit.rates)
    end
    return give_back(step)
end

local function leave(step)
    for _, key in ipairs(step.keys) do
        redis.call('HDEL', line_of(key), token)
    end
    return true
end

-- Say what is in flight of a process, whatever is stored.
local function hello(step)
    for key, amount in pairs(step.flights) do
        set_flight(key, token, amount)
    end
    local kept = redis.call('HGETALL', LEASES)
    for place = 1, #kept, 2 do
        if tonumber(kept[place + 1]) + 86400000000 < now then
            redis.call('HDEL', LEASES, kept[place])
        end
    end
    return true
end

-- Take it that a host which was cut off has taken something.
local function charge(step)
    for _, limit in ipairs(step.limits) do
        set_flight(limit.key, token, flight(limit.key) + limit.amount)
    end
    return true
end

-- Take it that others have used the rest.  Where it is said what was used, how
-- long ago and how much for each rate, that is counted, and only of short
-- periods the rest as well.
local function use_up(step)
    for _, limit in ipairs(step.limits) do
        local rests = left(limit)
        for place, rate in ipairs(limit.rates) do
            local window, rest = window_of(limit.key, rate[1]), rests[place]
            for _, used in ipairs((limit.used or {})[place] or {}) do
                local amount = math.min(rest, used[2])
                if amount > 0 then
                    add_at(window, now - used[1], amount)
                    rest = rest - amount
                end
            end
            if rest > 0 and (not limit.used or rate[1] <= step.short) then
                put(window, math.ceil(now / window.part), rest)
            end
            keep(window)
        end
    end
    return true
end

local STEPS = {
    take = take, replied = replied, unused = give_back, leave = leave,
    hello = hello, charge = charge, use_up = use_up,
}

redis.call('HSET', LEASES, token, whole(now + call.lease))
expire(LEASES, call.lease)
local answers = {}
for place, step in ipairs(call.steps) do
    answers[place] = STEPS[step.name](step)
end
-- The clock is wanted as long as any of the windows.
for _, step in ipairs(call.steps) do
    for _, limit in ipairs(step.limits or {}) do
        for _, rate in ipairs(limit.rates or {}) do
            expire(CLOCK, 2 * rate[1])
        end
    end
end
expire(CLOCK, 0)
return cjson.encode({epoch = epoch, is_new = is_new, answers = answers})
