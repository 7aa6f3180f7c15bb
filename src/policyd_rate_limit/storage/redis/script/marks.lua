-- What the last batch of this writer has done ---------------------------------------------------------------------

-- Whether the counter's mark, as it was read, is of this batch, and knows the demand at `place`.
local function has(counter, place)
    local mark = counter.mark
    for at = 4, counter.decided or 0, 2 do
        if mark[at] <= place and place <= mark[at + 1] then
            return true
        end
    end
    return false
end

-- `amount` more was counted for the demand at `place`; negative: it was exceeded. It joins the one that asked for the
-- counter before it, if that was noted alike: those between ask for other counters.
local function note(counter, amount, place, last)
    local mark, sign = counter.mark, place > 0 and 1 or -1
    if not mark then
        counter.mark = {number, date, amount, place, last or place}
        if not counter.is_marked then
            counter.is_marked = true
            counter.m[MARKS] = counter.m[MARKS] + 1
        end
    else
        local size = #mark
        mark[3] = mark[3] + amount
        if counter.former == sign then
            mark[sign > 0 and size or size - 1] = place
        else
            mark[size + 1], mark[size + 2] = place, last or place
        end
    end
    counter.is_changed, counter.latest = true, sign
end

-- What is told of windows that have come so far ---------------------------------------------------------------------

-- The windows of `charge` that `amount`, just counted for the demand at `place`, has brought to where it warns: limit,
-- used, ...; nil: none. The counter remembers it, for when the answer is lost.
local function crossed(charge, amount, place)
    local counter, limits, found = charge.counter, charge[2], nil
    for at, least in ipairs(charge[5]) do
        local used, before
        if charge.is_distinct then
            used, before = charge.others[at] + 1, charge.others[at] + charge.theirs[at]
        else
            used = counter.m[window_of(counter, limits[2 * at]) + SUM]
            before = used - amount
        end
        if before < least and least <= used then
            found = found or {}
            found[#found + 1], found[#found + 2] = charge[4] and at + 1 or at, used
        end
    end
    if found then
        local told = counter.told
        if not told then
            local packed = counter.is_asked_again and call('HGET', counter.key, told_field)
            told = packed and unpack_message(packed)
            if not told or told[1] ~= number then
                told = {number, date}
            end
            counter.told = told
        end
        told[#told + 1], told[#told + 2] = place, found
    end
    return found
end

-- What was told of the demand at `place`; nil: nothing.
local function told_before(counter, place)
    local packed = call('HGET', counter.key, told_field)
    local told = packed and unpack_message(packed)
    for at = 3, told and told[1] == number and #told or 0, 2 do
        if told[at] == place then
            return told[at + 1]
        end
    end
    return nil
end

-- Puts `found`, of the charge `index`, behind what is `warned` of already.
local function warn(warned, index, found)
    warned = warned or {}
    for at = 1, #found, 2 do
        local size = #warned
        warned[size + 1], warned[size + 2], warned[size + 3] = index, found[at], found[at + 1]
    end
    return warned
end
