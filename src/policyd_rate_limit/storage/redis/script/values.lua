-- Different values -------------------------------------------------------------------------------------------------

-- Has nothing be dated in the future, where the clock has stepped back.
local function mend_values(counter, values)
    for _, value in ipairs(call('ZRANGEBYSCORE', values, '(' .. date, '+inf')) do
        call('ZADD', values, date, value)
        counter.is_changed = true
    end
end

-- What is counted until other scripts have admitted the rest of its demand.
local function reserved_of(counter)
    if not counter.reserved then
        local packed = call('HGET', counter.key, 'v')
        counter.reserved = packed and unpack_message(packed) or {}
    end
    return counter.reserved
end

-- The second in which `value` came last; nil: it never did.
local function since(values, value)
    return tonumber(call('ZSCORE', values, value) or nil)
end

-- How many values lie in the last `seconds` besides that of `charge`, and whether that is there: 1, or 0.
local function count_others(charge, seconds)
    local values, field, from, seen = charge.values, charge.field, now - seconds, {}
    local others, is_there = call('ZCOUNT', values, '(' .. from, '+inf'), charge.since and charge.since > from
    local reserved = reserved_of(charge.counter)
    for at = 1, #reserved, 3 do
        local value, when = reserved[at + 1], reserved[at + 2]
        if value ~= field and when > from and not seen[value] and (since(values, value) or 0) <= from then
            seen[value] = true
            others = others + 1
        end
    end
    return is_there and others - 1 or others, is_there and 1 or 0
end

-- The first limit that the value of `charge` would exceed, by its number; nil: none.
local function exceeded_by_value(charge)
    local counter, limits, exceeded = charge.counter, charge[2], nil
    charge.since = since(charge.values, charge.field)
    charge.others, charge.theirs = {}, {}
    for limit = 1, #limits, 2 do
        local at, seconds = (limit + 1) / 2, limits[limit + 1]
        counter.m[window_of(counter, seconds) + USED] = 0
        charge.others[at], charge.theirs[at] = count_others(charge, seconds)
        if not exceeded and charge.others[at] >= limits[limit] then
            exceeded = charge[4] and at + 1 or at
        end
    end
    return exceeded
end

-- Has `value` be there at `when`, if it is not there later.
local function put_value(counter, values, value, when)
    local before = since(values, value)
    if not before or before < when then
        call('ZADD', values, when, value)
        counter.has_new_value = counter.has_new_value or not before
    end
end

-- Counts the value of `charge`, for now only where `own_field` says so.
local function count_value(charge, own_field)
    local counter = charge.counter
    if own_field == '' then
        put_value(counter, charge.values, charge.field, date)
    else
        local reserved = reserved_of(counter)
        local size = #reserved
        reserved[size + 1], reserved[size + 2], reserved[size + 3] = own_field, charge.field, date
        counter.is_reserved = true
    end
end

-- Takes what `own_field` has counted for now from `counter`, and what no window holds any more: the second of it, if it
-- was there.
local function take_reserved(counter, own_field, longest)
    local left, found = {}, nil
    local reserved = reserved_of(counter)
    for at = 1, #reserved, 3 do
        if reserved[at] == own_field then
            found = reserved[at + 2]
        elseif reserved[at + 2] > now - longest then
            left[#left + 1], left[#left + 2], left[#left + 3] = reserved[at], reserved[at + 1], reserved[at + 2]
        end
    end
    counter.reserved, counter.is_reserved, counter.is_changed = left, true, true
    return found
end

-- How the limits of `charge` stand, and in how many seconds each admits its value.
local function explain_value(charge)
    local counter, limits, values, reply = charge.counter, charge[2], charge.values, {}
    exceeded_by_value(charge)
    for limit = 1, #limits, 2 do
        local at, seconds, free_in = (limit + 1) / 2, limits[limit + 1], 0
        local others, is_there = charge.others[at], charge.theirs[at]
        local excess = others + 1 - limits[limit]
        if limits[limit] < 1 then
            free_in = -1
        elseif excess > 0 then
            -- Of the others so many have to leave.
            local last = call('ZRANGEBYSCORE', values, '(' .. now - seconds, '+inf', 'WITHSCORES', 'LIMIT', excess - 1, 2)
            local leaving = tonumber(last[2] or date)
            if is_there == 1 and last[4] and charge.since <= leaving then
                leaving = tonumber(last[4])
            end
            free_in = seconds - now + min(leaving, date)
        end
        reply[limit], reply[limit + 1] = others + is_there, free_in
    end
    return reply
end
