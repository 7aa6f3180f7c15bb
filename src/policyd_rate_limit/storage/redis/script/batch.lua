-- One demand after the other -----------------------------------------------------------------------------------------

local replies, place, key, at = {date}, tonumber(ARGV[5]), 1, 6
local kind, own_field, charges

-- The terms of several demands, as the next ones have them, too.
local function take(packed)
    local terms = unpack_message(packed)
    kind, own_field = terms[1], terms[2]
    charges = {unpack(terms, 3)}
    for _, charge in ipairs(charges) do
        local flags = kind == 'explain' and 0 or kind == 'explain values' and OF_VALUES or charge[3] or 0
        charge.settles, charge.refuses, charge.is_distinct = flags % 2 == 1, flags % 4 < 2, flags >= OF_VALUES
    end
end

local function answer_next()
    local next_key, is_asked_again = key, false
    for index = 1, #charges do
        local charge, name, field = charges[index], KEYS[next_key], ARGV[at + index]
        local beside = field ~= '' and KEYS[next_key + 1]
        local counter = counters[name]
        if not counter then
            counter = read(name)
        elseif counter.latest or counter.former then
            counter.former, counter.latest = counter.latest, false
        end
        is_asked_again = is_asked_again or counter.is_asked_again
        charge.counter, charge.field, charge.mail = counter, field, beside
        if charge.is_distinct then
            charge.mail, charge.values, counter.values = false, beside, beside
        end
        next_key = next_key + (beside and 2 or 1)
    end
    return answer(kind, charges, place, own_field, is_asked_again)
end

-- What the server says to everybody, older ones behind words of their own.
local OF_SERVER = {'OOM ', 'MISCONF ', 'READONLY ', 'NOREPLICAS ', 'MASTERDOWN ', 'NOPERM '}

-- Why a call has failed, and whether the server would say so to everybody.
local function reason(problem)
    local why = tostring(type(problem) == 'table' and problem.err or problem)
    for _, beginning in ipairs(OF_SERVER) do
        local from = string.find(why, beginning, 1, true)
        if from then
            return substring(why, from), true
        end
    end
    return why, false
end

-- Writes what has changed; why that failed, if it did.
local function save_all()
    local failure
    for _, counter in pairs(counters) do
        local is_saved, problem = true, nil
        if counter.is_changed then
            is_saved, problem = pcall(save, counter)
        end
        failure = failure or not is_saved and reason(problem)
    end
    return failure
end

while at <= #ARGV do
    place = place + 1
    if ARGV[at] ~= '' then
        take(ARGV[at])
    end
    local is_answered, reply = pcall(answer_next)
    if not is_answered then
        local why, is_of_server = reason(reply)
        if is_of_server then
            save_all()
            return {err = why}
        end
        reply = {FAILED, why}
    end
    replies[#replies + 1] = reply
    for index = 1, #charges do
        key = key + (ARGV[at + index] ~= '' and 2 or 1)
    end
    at = at + 1 + #charges
end
local failure = save_all()
return failure and {err = failure} or replies
