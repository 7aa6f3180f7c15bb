-- The events of a counter -------------------------------------------------------------------------------------
--
-- A window may lag behind: what has left it is subtracted only when a limit asks for it.

-- Has `field` be written with the counter.
local function write(counter, field, packed)
    counter.changed = counter.changed or {}
    counter.changed[field] = packed
end

-- Age and amount of the event `at`, counted from 0.
local function event(counter, at)
    local m = counter.m
    if at == m[COUNT] - 1 then
        return m[AGE], m[NEWEST]
    end
    local name = m[FIRST] + at
    local packed = counter.changed and counter.changed[name]
    if not packed then
        counter.events = counter.events or {}
        packed = counter.events[name] or call('HGET', counter.key, name)
        counter.events[name] = packed
    end
    local when, amount = unpack_message(substring(packed, 2))
    return now - when, amount
end

local function put(counter, at, age, amount)
    local m = counter.m
    if at == m[COUNT] - 1 then
        m[AGE], m[NEWEST] = age, amount
    else
        write(counter, m[FIRST] + at, PAIR .. pack(now - age, amount))
    end
end

-- Counts `amount` at `age`, which is not before the newest event.
local function append(counter, age, amount)
    local m = counter.m
    local newest = m[COUNT] - 1
    if newest >= 0 and m[AGE] == age then
        m[NEWEST] = m[NEWEST] + amount
    else
        newest = newest + 1
        m[COUNT] = newest + 1
        if newest > 0 then
            put(counter, newest - 1, m[AGE], m[NEWEST])
        end
        m[AGE], m[NEWEST] = age, amount
    end
    for at = WINDOWS, #m, SIZE do
        local head = m[at + HEAD]
        if head <= newest then
            local sum = at + SUM
            m[sum] = m[sum] + amount
            if head == newest then
                m[at + SINCE] = age
            end
        end
    end
end

-- Takes the newest event away: its age and amount.
local function pop(counter)
    local m = counter.m
    local at, age, amount = m[COUNT] - 1, m[AGE], m[NEWEST]
    for window = WINDOWS, #m, SIZE do
        if m[window + HEAD] <= at then
            m[window + SUM] = m[window + SUM] - amount
        else
            m[window + HEAD] = at
        end
    end
    if at > 0 then
        m[AGE], m[NEWEST] = event(counter, at - 1)
    end
    m[COUNT] = at
    return age, amount
end

-- Counts `amount` at any `age`: what is newer is taken away, and counted anew.
local function insert(counter, age, amount)
    local m, ages, amounts = counter.m, {}, {}
    while m[COUNT] > 0 and m[AGE] < age do
        ages[#ages + 1], amounts[#amounts + 1] = pop(counter)
    end
    append(counter, age, amount)
    for at = #ages, 1, -1 do
        append(counter, ages[at], amounts[at])
    end
end

-- Takes `amount` back of what was counted at `age`, or else of what is older: that leaves the windows earlier.
local function give_back(counter, age, amount)
    local m = counter.m
    local at = m[COUNT] - 1
    while amount > 0 and at >= 0 do
        local there, present = event(counter, at)
        if there >= age and present > 0 then
            local taken = min(amount, present)
            put(counter, at, there, present - taken)
            amount = amount - taken
            for window = WINDOWS, #m, SIZE do
                if m[window + HEAD] <= at then
                    m[window + SUM] = m[window + SUM] - taken
                end
            end
        end
        at = at - 1
    end
end

-- Moves the head of the window at `at` to the oldest event in it; `backwards`: that may lie before.
local function slide(counter, at, backwards)
    local m = counter.m
    local seconds, count, head, since, sum = m[at], m[COUNT], m[at + HEAD], m[at + SINCE], m[at + SUM]
    local before = head
    while head < count and since >= seconds do
        local _, amount = event(counter, head)
        sum = sum - amount
        head = head + 1
        if head < count then
            since = event(counter, head)
        end
    end
    while backwards and head > 0 do
        local age, amount = event(counter, head - 1)
        if age >= seconds then
            break
        end
        head, since, sum = head - 1, age, sum + amount
    end
    if math.abs(head - before) >= MANY then
        counter.is_changed = true -- though nothing be counted: the next one would have to pass over them again
    end
    m[at + HEAD], m[at + SINCE], m[at + SUM] = head, since, sum
end

-- Where the window of `seconds` lies, which is made if there is none.
local function window_of(counter, seconds)
    local m = counter.m
    for at = WINDOWS, #m, SIZE do
        if m[at] == seconds then
            return at
        end
    end
    local at = #m + 1
    m[at] = seconds -- one after the other: Lua would set the last first, which an array has no room for yet
    m[at + USED] = 0
    m[at + HEAD] = m[COUNT]
    m[at + SINCE] = 0
    m[at + SUM] = 0
    slide(counter, at, true)
    return at
end

-- The first of `limits` that `amount` more would exceed, by its number; nil: none.
local function exceeded_by(counter, amount, limits)
    local m, at, exceeded = counter.m, WINDOWS, nil
    for limit = 1, #limits, 2 do
        local seconds = limits[limit + 1]
        if m[at] ~= seconds then
            at = window_of(counter, seconds) -- in most counters they lie in the order of the limits
        end
        m[at + USED] = 0
        if m[at + SINCE] >= seconds and m[at + HEAD] < m[COUNT] then
            slide(counter, at)
        end
        if not exceeded and m[at + SUM] + amount > limits[limit] then
            exceeded = (limit + 1) / 2
        end
        at = at + SIZE
    end
    return exceeded
end

-- The clock has stepped back: what is dated in the future happened just now.
local function mend(counter)
    counter.has_stepped_back = true
    local m, total = counter.m, 0
    while m[COUNT] > 0 and m[AGE] < just_now do
        local _, amount = pop(counter)
        total = total + amount
    end
    if total > 0 then
        append(counter, just_now, total)
        counter.is_changed = true -- or it would happen anew with each refusal, always a little later
    end
    for at = WINDOWS, #m, SIZE do
        slide(counter, at, true)
    end
end
