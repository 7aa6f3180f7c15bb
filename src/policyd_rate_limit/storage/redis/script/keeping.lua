-- Reading and writing a counter -----------------------------------------------------------------------------------

-- Of which batch a mark is: its first value.
local function number_of(mark)
    local _, found = unpack_one(mark, byte(mark) == 0xDC and 3 or 1)
    return found
end

-- What the slot "x" says: mail, as its key goes on behind that of the counter, field, amount, date; nil: nobody needs
-- it.
local function slot_of(packed)
    local used, amount, when, size = unpack_limit(packed, 3)
    if when + REMEMBERED > now then
        return {substring(packed, used + size + 1), substring(packed, used + 1, used + size), amount, when}
    end
    return nil
end

local counters = {} -- by their keys: those that this script has read

-- The counter in `key` as it is now.
local function read(key)
    local found = call('HMGET', key, 'm', mark_field, other_field, 'x')
    local packed, mark, beside = found[1], found[2], found[3]
    local m, passed = nil, 0
    if packed then
        -- What is in the array, which would cost a table more.
        m = {unpack_message(substring(packed, byte(packed) == 0xDC and 4 or 2))}
        if m[1] ~= FORMAT then
            error('a counter was written by another version of policyd-rate-limit')
        end
        passed = now - m[SEEN]
        m[SEEN], m[AGE], m[LEFT] = now, m[AGE] + passed, m[LEFT] - passed
        for at = WINDOWS, #m, SIZE do
            local used, since = at + USED, at + SINCE
            m[used], m[since] = m[used] + passed, m[since] + passed
        end
    else
        m = {FORMAT, now, 1, 0, 0, 0, 0, 0}
    end
    -- mark: of this batch; changed: events that are to be written; latest: see `note`. More is set where it is needed:
    -- eight are what Lua has room for, and a ninth has it make the table anew.
    local counter = {
        key = key, m = m, slot = found[4] and slot_of(found[4]),
        is_marked = mark, mark = false, changed = false, latest = false, is_changed = false
    }
    if passed < 0 then
        mend(counter)
    end
    local marked = mark and number_of(mark) or 0
    if marked == number and mark then
        counter.mark = unpack_message(mark)
        counter.decided, counter.is_asked_again = #counter.mark, true
    end
    -- A batch comes too late that was given up before a later one was sent.
    if marked > number or beside and number_of(beside) >= number + LANES then
        counter.is_later, counter.is_asked_again = true, true
    end
    counters[key] = counter
    return counter, marked
end

local function drop(counter, field)
    counter.dropped = counter.dropped or {}
    counter.dropped[#counter.dropped + 1] = field
end

-- Drops marks of writers whose last batch here counts no more, and what their batches have told.
local function drop_marks(counter, longest)
    for _, name in ipairs(call('HKEYS', counter.key)) do
        local is_mark = byte(name) == 98
        if is_mark and name ~= mark_field or byte(name) == 119 and name ~= told_field then
            if unpack_message(call('HGET', counter.key, name))[2] + longest <= now then
                drop(counter, name)
                counter.m[MARKS] = counter.m[MARKS] - (is_mark and 1 or 0)
            end
        end
    end
end

-- Drops the events before `oldest`.
local function drop_events(counter, oldest)
    local m = counter.m
    for name = m[FIRST], m[FIRST] + oldest - 1 do
        if counter.changed then
            counter.changed[name] = nil
        end
        drop(counter, name)
    end
    m[FIRST], m[COUNT] = m[FIRST] + oldest, m[COUNT] - oldest
    for at = WINDOWS, #m, SIZE do
        m[at + HEAD] = m[at + HEAD] - oldest
    end
end

local function save(counter)
    local m, key = counter.m, counter.key
    local count, longest = m[COUNT], 0
    local oldest = count -- event that lies in a window
    for at = #m - SIZE + 1, WINDOWS, -SIZE do
        local seconds, head = m[at], m[at + HEAD]
        if m[at + USED] >= seconds then
            for _ = 1, SIZE do
                table.remove(m, at) -- nobody asks for it any more
            end
        else
            if head < oldest then
                oldest = head
            end
            if seconds > longest then
                longest = seconds
            end
        end
    end
    if longest == 0 then
        longest = keep
    elseif 2 * oldest > count then
        drop_events(counter, oldest)
    end
    if counter.mark and m[MARKS] > MANY_MARKS then
        drop_marks(counter, longest)
    end
    local dropped = counter.dropped
    for from = 1, dropped and #dropped or 0, CHUNK do
        call('HDEL', key, unpack(dropped, from, min(from + CHUNK - 1, #dropped)))
    end
    local window = longest
    if longest < REMEMBERED then
        longest = REMEMBERED
    end
    local needed = longest + date - now
    local renews = m[LEFT] < needed
    if renews then
        m[LEFT] = needed + max(60, math.floor(longest / 8)) -- or that would have to be said at every write
    end
    local values = counter.values
    if values then
        call('ZREMRANGEBYSCORE', values, '-inf', now - window)
        if renews or counter.has_new_value then
            call('EXPIRE', values, m[LEFT])
        end
    end
    local mark = counter.mark
    if counter.is_reserved then
        write(counter, 'v', pack(counter.reserved))
    end
    if counter.told then
        write(counter, told_field, pack(counter.told))
    end
    local fields = mark and {'m', pack(m), mark_field, pack(mark)} or {'m', pack(m)}
    if counter.changed then
        local size = #fields
        for name, packed in pairs(counter.changed) do
            fields[size + 1], fields[size + 2], size = name, packed, size + 2
            if size >= CHUNK then
                call('HSET', key, unpack(fields))
                fields, size = {'m', fields[2]}, 2
            end
        end
    end
    call('HSET', key, unpack(fields))
    if renews then
        call('EXPIRE', key, m[LEFT])
    end
end
