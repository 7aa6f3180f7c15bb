-- Decides on the server, in one step, what one demand asks; redis.py says what the keys are.
--
-- KEYS  the counters; for a mail, each is followed by what that mail was charged on it (hash: field -> amount, date, and
--       for a settlement what it gave back)
-- ARGV  1  kind: "charge", "settle", "undo", "confirm", "replay"
--       2  writer (8 bytes)
--       3  number of the batch
--       4  field in which the mail remembers the charge; empty: there is no mail
--       5  field that is for this demand alone, until other scripts have admitted its other charges; empty: there are none
--       6  seconds for which a counter is kept whose windows are not known
--       7  Unix time in place of the server's, for tests; empty: the server's
--       8, ...  charge, settle: for each counter ordinal in the batch, cost, number of limits, maximum and seconds of
--               each limit
--               undo, confirm: for each counter ordinal, amount, date
--               replay, one counter: number of the record before it, latest date, for each entry: amount, date, index of
--               its mail in KEYS or 0, field
--
-- Replies: {REFUSED, charge, limit}, {KNOWN}, {COUNTED, charge, amount, date, charge, amount, date, ...}, {LATER}: not
-- before the record before it.
--
-- A counter is a hash.
-- "m": as MessagePack, relative to `seen` where that is shorter: format, seen, first, count, seen - date and amount of the
--   newest event, expires - seen, marks, for each window: seconds, seen - used, head - first, seen - date of the head, sum.
-- <number>: date and amount of each older event, one per second with a charge, numbered from `first` on.
-- "b" and writer: the writer's mark, which is what its last batch has done here: number, date, sum of what it counted,
--   ordinals in ranges: from, to, from, to, ...
--
-- head is the number of the oldest event inside a window, sum the total from there on, `seen` when that was so: a check
-- costs what has expired since.

local FORMAT = 1
local REFUSED, KNOWN, COUNTED, LATER = 0, 1, 2, 3
local REMEMBERED = 900 -- seconds, as REMEMBERED_SECONDS of mails.py
local MANY = 64 -- events to have passed over before a refusal is worth a write
local MANY_MARKS = 8 -- to look for old ones
local CHUNK = 1000 -- arguments that unpack() may put on Lua's stack
local ALL = 2 ^ 40 -- an ordinal beyond that of any demand

local call, pack, unpack_message = redis.call, cmsgpack.pack, cmsgpack.unpack
local kind, writer, number, field, keep = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[6])
local own_field = ARGV[5] ~= '' and ARGV[5] or field
local mark_field = 'b' .. writer
local stride = field == '' and 1 or 2

local now, date -- the second in which charges are judged, and the one that they are dated
if ARGV[7] == '' then
    local time = call('TIME')
    now = tonumber(time[1])
    date = time[2] == '0' and now or now + 1
else
    now = math.floor(tonumber(ARGV[7]))
    date = math.ceil(tonumber(ARGV[7]))
end

-- The events of a counter -------------------------------------------------------------------------------------

local function event(counter, at)
    if at == counter.tail then
        return counter.date, counter.amount
    end
    local found = counter.events[at]
    if not found then
        found = unpack_message(call('HGET', counter.key, at))
        counter.events[at] = found
    end
    return found[1], found[2]
end

local function put(counter, at, when, amount)
    if at == counter.tail then
        counter.date, counter.amount = when, amount
    else
        counter.events[at] = {when, amount}
        counter.changed[at] = true
    end
end

local function push(counter, when, amount)
    if counter.tail >= counter.first then
        counter.events[counter.tail] = {counter.date, counter.amount}
        counter.changed[counter.tail] = true
    end
    counter.tail = counter.tail + 1
    counter.date, counter.amount = when, amount
end

-- Counts `amount` at `when`, which is not before the newest event.
local function append(counter, when, amount)
    if counter.tail >= counter.first and counter.date == when then
        counter.amount = counter.amount + amount
        for _, window in ipairs(counter.windows) do
            if window.head <= counter.tail then
                window.sum = window.sum + amount
            end
        end
        return
    end
    push(counter, when, amount)
    for _, window in ipairs(counter.windows) do
        if when + window.seconds <= now then
            window.head = counter.tail + 1
        else
            window.sum = window.sum + amount
            if window.head == counter.tail then
                window.date = when
            end
        end
    end
end

-- Counts `amount` at any time: the events behind it move up.
local function insert(counter, when, amount)
    if counter.tail < counter.first or when >= counter.date then
        return append(counter, when, amount)
    end
    local at = counter.tail
    while at > counter.first and (event(counter, at - 1)) >= when do
        at = at - 1
    end
    local there, present = event(counter, at)
    if there == when then
        put(counter, at, when, present + amount)
    else
        local moved_date, moved_amount = when, amount
        for next = at, counter.tail do
            local next_date, next_amount = event(counter, next)
            put(counter, next, moved_date, moved_amount)
            moved_date, moved_amount = next_date, next_amount
        end
        push(counter, moved_date, moved_amount)
    end
    for _, window in ipairs(counter.windows) do
        if when + window.seconds > now then
            window.sum = window.sum + amount
            if window.head == at then
                window.date = when
            end
        elseif there ~= when then
            window.head = window.head + 1
        end
    end
end

-- Takes `amount` back of what was counted at `when`, or else of what is older: that leaves the windows earlier.
local function give_back(counter, when, amount)
    local at = counter.tail
    while amount > 0 and at >= counter.first do
        local there, present = event(counter, at)
        if there <= when and present > 0 then
            local taken = math.min(amount, present)
            put(counter, at, there, present - taken)
            amount = amount - taken
            for _, window in ipairs(counter.windows) do
                if window.head <= at then
                    window.sum = window.sum - taken
                end
            end
        end
        at = at - 1
    end
end

-- The clock has stepped back: what is dated in the future happened just now.
local function mend(counter)
    local amount = 0
    while counter.tail >= counter.first and counter.date > date do
        amount = amount + counter.amount
        for _, window in ipairs(counter.windows) do
            if window.head <= counter.tail then
                window.sum = window.sum - counter.amount
            else
                window.head = counter.tail
            end
        end
        counter.dropped[#counter.dropped + 1] = counter.tail
        counter.passed = counter.passed + 1
        if counter.tail > counter.first then
            local older_date, older_amount = event(counter, counter.tail - 1)
            counter.date, counter.amount = older_date, older_amount
        end
        counter.tail = counter.tail - 1
    end
    if amount > 0 then
        append(counter, date, amount)
        counter.passed = MANY -- or it would happen anew with each refusal, always a little later
    end
end

-- Moves the head of a window to the oldest event in it.
local function slide(counter, window, backwards)
    while window.head <= counter.tail and window.date + window.seconds <= now do
        local _, amount = event(counter, window.head)
        window.sum = window.sum - amount
        window.head = window.head + 1
        counter.passed = counter.passed + 1
        if window.head <= counter.tail then
            window.date = (event(counter, window.head))
        end
    end
    while backwards and window.head > counter.first do
        local there, amount = event(counter, window.head - 1)
        if there + window.seconds <= now then
            break
        end
        window.sum = window.sum + amount
        window.head = window.head - 1
        window.date = there
        counter.passed = counter.passed + 1
    end
end

-- Reads a counter, as it was last written.
local function read(key)
    local counter = {key = key, windows = {}, known = {}, events = {}, changed = {}, dropped = {}, passed = 0}
    local found = call('HMGET', key, 'm', mark_field)
    if found[1] then
        local m = unpack_message(found[1])
        if m[1] ~= FORMAT then
            error('a counter was written by another version of policyd-rate-limit')
        end
        local seen, first = m[2], m[3]
        counter.seen, counter.first, counter.tail = seen, first, first + m[4] - 1
        counter.date, counter.amount, counter.expires, counter.marks = seen - m[5], m[6], seen + m[7], m[8]
        for at = 9, #m, 5 do
            counter.known[m[at]] = {
                seconds = m[at], used = seen - m[at + 1], head = first + m[at + 2], date = seen - m[at + 3], sum = m[at + 4]
            }
        end
    else
        counter.seen, counter.first, counter.tail = now, 1, 0
        counter.date, counter.amount, counter.expires, counter.marks = now, 0, 0, 0
    end
    counter.mark = found[2] and unpack_message(found[2]) or {0, date, 0}
    counter.is_marked = found[2]
    return counter
end

-- Brings a counter up to this moment, with windows for `limits`: maximum, seconds, ...
local function advance(counter, limits)
    local known = counter.known
    for at = 2, #limits, 2 do
        local seconds = limits[at]
        if not known[seconds] then
            known[seconds] = {seconds = seconds, head = counter.tail + 1, date = now, sum = 0, fresh = true}
        end
        known[seconds].used = now
    end
    for seconds, window in pairs(known) do
        -- One that nobody asks for any more is dropped.
        if window.used + seconds > now then
            counter.windows[#counter.windows + 1] = window
        end
    end
    local stepped_back = now < counter.seen
    if stepped_back then
        mend(counter)
    end
    for _, window in ipairs(counter.windows) do
        slide(counter, window, stepped_back or window.fresh)
    end
end

-- Drops marks of writers whose last batch here counts no more.
local function drop_marks(counter, longest)
    for _, name in ipairs(call('HKEYS', counter.key)) do
        if string.sub(name, 1, 1) == 'b' and name ~= mark_field then
            if unpack_message(call('HGET', counter.key, name))[2] + longest <= now then
                counter.dropped[#counter.dropped + 1] = name
                counter.marks = counter.marks - 1
            end
        end
    end
end

local function save(counter)
    local oldest, longest = counter.tail + 1, 0
    for _, window in ipairs(counter.windows) do
        oldest = math.min(oldest, window.head)
        longest = math.max(longest, window.seconds)
    end
    if longest == 0 then
        oldest, longest = counter.first, keep
    end
    local dropped = counter.dropped
    if 2 * (oldest - counter.first) > counter.tail - counter.first + 1 then
        for at = counter.first, oldest - 1 do
            counter.changed[at] = nil
            dropped[#dropped + 1] = at
        end
        counter.first = oldest
    end
    if counter.has_new_mark and counter.marks > MANY_MARKS then
        drop_marks(counter, longest)
    end
    for from = 1, #dropped, CHUNK do
        call('HDEL', counter.key, unpack(dropped, from, math.min(from + CHUNK - 1, #dropped)))
    end
    local needed = math.max(counter.date, now) + longest
    local renew = counter.expires < needed
    if renew then
        counter.expires = needed + math.max(60, math.floor(longest / 8)) -- not at every write
    end
    local m = {
        FORMAT, now, counter.first, counter.tail - counter.first + 1, now - counter.date, counter.amount,
        counter.expires - now, counter.marks
    }
    for _, window in ipairs(counter.windows) do
        local at = #m
        m[at + 1], m[at + 2], m[at + 3] = window.seconds, now - window.used, window.head - counter.first
        m[at + 4], m[at + 5] = now - window.date, window.sum
    end
    local fields = {'m', pack(m)}
    if counter.has_new_mark then
        fields[3], fields[4] = mark_field, pack(counter.mark)
    end
    for at in pairs(counter.changed) do
        if at ~= counter.tail then
            fields[#fields + 1] = at
            fields[#fields + 1] = pack(counter.events[at])
            if #fields >= CHUNK then
                call('HSET', counter.key, unpack(fields))
                fields = {'m', fields[2]}
            end
        end
    end
    call('HSET', counter.key, unpack(fields))
    if renew then
        call('EXPIRE', counter.key, counter.expires - now)
    end
end

-- What the last batch of this writer has done ---------------------------------------------------------------------

-- Whether the counter's mark is of this batch, and knows the demand with `ordinal`.
local function has(counter, ordinal)
    local mark = counter.mark
    for at = 4, mark[1] == number and #mark or 0, 2 do
        if mark[at] <= ordinal and ordinal <= mark[at + 1] then
            return true
        end
    end
    return false
end

-- `amount` more was counted for the demands with the ordinals `from` to `to`.
local function note(counter, amount, from, to)
    local mark = counter.mark
    if mark[1] ~= number then
        mark = {number, date, 0}
        counter.mark = mark
    end
    mark[3] = mark[3] + amount
    if #mark > 3 and mark[#mark] == from - 1 then
        mark[#mark] = to
    else
        mark[#mark + 1] = from
        mark[#mark + 1] = to
    end
    if not counter.is_marked then
        counter.is_marked = true
        counter.marks = counter.marks + 1
    end
    counter.has_new_mark = true
end

-- What a mail was charged ----------------------------------------------------------------------------------------

local function remember(mail, in_field, amount, when, given_back)
    call('HSET', mail, in_field, pack({amount, when, given_back}))
    call('EXPIRE', mail, REMEMBERED)
end

local function charges_of(mail)
    local charges, total = {}, 0
    local found = call('HGETALL', mail)
    for at = 1, #found, 2 do
        if string.sub(found[at], 1, 1) ~= 't' then
            local value = unpack_message(found[at + 1])
            charges[#charges + 1] = {field = found[at], amount = value[1], date = math.min(value[2], date)}
            total = total + value[1]
        end
    end
    table.sort(charges, function(one, other) return one.date > other.date end)
    return charges, total
end

-- Takes `amount` off `charges`, the newest first, and calls `taken(date, amount)` for each.
local function take_off(mail, charges, amount, taken)
    for _, charge in ipairs(charges) do
        local part = math.min(amount, charge.amount)
        if part > 0 then
            amount = amount - part
            charge.amount = charge.amount - part
            remember(mail, charge.field, charge.amount, charge.date)
            taken(charge.date, part)
        end
    end
end

-- What of `charges` is in the field of this demand: it may settle twice within a batch.
local function own(charges)
    for _, charge in ipairs(charges) do
        if charge.field == own_field then
            return charge.amount
        end
    end
    return 0
end

-- Replay: what was decided while this server was away ------------------------------------------------------------

if kind == 'replay' then
    local counter = read(KEYS[1])
    if counter.mark[1] > number or has(counter, ALL) then
        return {KNOWN}
    elseif counter.mark[1] < tonumber(ARGV[8]) then
        return {LATER}
    end
    advance(counter, {})
    -- Some of the batch may have been counted before the connection broke: then only the difference is.
    local counted = counter.mark[1] == number and counter.mark[3]
    local longest = 0
    for _, window in ipairs(counter.windows) do
        longest = math.max(longest, window.seconds)
    end
    local expired = now - (longest > 0 and longest or keep)
    local total, settled = 0, {}
    for at = 10, #ARGV, 4 do
        local amount, when = tonumber(ARGV[at]), math.min(tonumber(ARGV[at + 1]), date)
        local mail, in_field = KEYS[tonumber(ARGV[at + 2])], ARGV[at + 3]
        local new = true
        if mail and amount > 0 and when > now - REMEMBERED then
            new = call('HSETNX', mail, in_field, pack({amount, when})) == 1
            call('EXPIRE', mail, REMEMBERED)
        elseif mail and amount < 0 then
            settled[mail] = settled[mail] or call('HSETNX', mail, in_field, pack({0, when, -amount})) == 1
            if settled[mail] then
                take_off(mail, (charges_of(mail)), -amount, function() end)
            end
        end
        if counted then
            total = total + amount
        elseif amount > 0 and new and when > expired then
            insert(counter, when, amount)
        elseif amount < 0 then
            give_back(counter, when, -amount)
        end
    end
    local missing = counted and total - counted or 0
    if missing > 0 then
        insert(counter, math.min(tonumber(ARGV[9]), date), missing)
    elseif missing < 0 then
        give_back(counter, math.min(tonumber(ARGV[9]), date), -missing)
    end
    note(counter, missing, 0, ALL) -- whatever of the batch may still be on its way comes too late
    save(counter)
    return {COUNTED}
end

-- Charge, settle, undo, confirm ---------------------------------------------------------------------------------

local charges, at = {}, 8
for key = 1, #KEYS, stride do
    local charge = {
        counter = read(KEYS[key]), mail = stride == 2 and KEYS[key + 1], ordinal = tonumber(ARGV[at]),
        cost = tonumber(ARGV[at + 1]), limits = {}, before = {}
    }
    if kind == 'undo' or kind == 'confirm' then
        charge.date = tonumber(ARGV[at + 2])
        at = at + 3
    else
        local count = tonumber(ARGV[at + 2])
        for limit = 1, 2 * count do
            charge.limits[limit] = tonumber(ARGV[at + 2 + limit])
        end
        at = at + 3 + 2 * count
    end
    if charge.counter.mark[1] > number then
        return {KNOWN} -- a later batch came after this one was given up
    end
    charges[#charges + 1] = charge
end

local reply = {COUNTED}
local function tell(charge, amount, when)
    local size = #reply
    reply[size + 1], reply[size + 2], reply[size + 3] = charge, amount, when
end

if has(charges[1].counter, charges[1].ordinal) then
    -- This has been done, and the answer was lost.
    for index, charge in ipairs(charges) do
        local found = charge.mail and (call('HGET', charge.mail, own_field) or call('HGET', charge.mail, field))
        if found then
            found = unpack_message(found)
            tell(index, found[3] and -found[3] or found[1], found[2])
        elseif kind == 'charge' then
            tell(index, charge.cost, date)
        end
    end
    return reply
end

if kind == 'undo' then
    for _, charge in ipairs(charges) do
        local counter = charge.counter
        advance(counter, {})
        give_back(counter, charge.date, charge.cost)
        note(counter, -charge.cost, charge.ordinal, charge.ordinal)
        save(counter)
        if charge.mail then
            call('HDEL', charge.mail, own_field)
        end
    end
    return reply
end

if kind == 'confirm' then
    for index, charge in ipairs(charges) do
        local packed = call('HGET', charge.mail, own_field)
        if packed then
            if call('HSETNX', charge.mail, field, packed) == 0 then
                -- It was asked twice at the same time, and counted twice.
                advance(charge.counter, {})
                give_back(charge.counter, charge.date, charge.cost)
                save(charge.counter)
                tell(index, -charge.cost, charge.date)
            end
            call('HDEL', charge.mail, own_field)
        end
    end
    return reply
end

local changes = false
for _, charge in ipairs(charges) do
    if kind == 'settle' then
        local total
        charge.before, total = charges_of(charge.mail)
        charge.cost = charge.cost - total
    elseif charge.mail and call('HEXISTS', charge.mail, field) == 1 then
        return {KNOWN}
    end
    changes = changes or charge.cost ~= 0
end
if not changes then
    return {KNOWN}
end

local refused
for index, charge in ipairs(charges) do
    advance(charge.counter, charge.limits)
    for limit = 1, charge.cost > 0 and not refused and #charge.limits or 0, 2 do
        if not refused and charge.counter.known[charge.limits[limit + 1]].sum + charge.cost > charge.limits[limit] then
            refused = {REFUSED, index, (limit + 1) / 2}
        end
    end
end
if refused then
    for _, charge in ipairs(charges) do
        if charge.counter.passed >= MANY then
            save(charge.counter)
        end
    end
    return refused
end

for index, charge in ipairs(charges) do
    local counter = charge.counter
    if charge.cost > 0 then
        append(counter, date, charge.cost)
        if charge.mail then
            remember(charge.mail, own_field, own(charge.before) + charge.cost, date)
        end
        tell(index, charge.cost, date)
    elseif charge.cost < 0 then
        take_off(charge.mail, charge.before, -charge.cost, function(when, amount)
            give_back(counter, when, amount)
            tell(index, -amount, when)
        end)
        remember(charge.mail, own_field, own(charge.before), date, -charge.cost)
    end
    note(counter, charge.cost, charge.ordinal, charge.ordinal)
    save(counter)
end
return reply
