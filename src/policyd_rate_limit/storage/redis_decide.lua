-- Decides on the server, in one step, what one demand asks; redis.py says what the keys are.
--
-- KEYS  1            what the last batch of this writer has done here (hash): "n" its number, "k" how many commands of
--                    its replay are done, and for each counter a mark, {sum of what it counted, ordinals in ranges:
--                    from, to, from, to, ...}
--       2, 3, ...    the counters; for a mail, each is followed by what that mail was charged on it (hash: field ->
--                    amount, date, and for a settlement what it gave back)
-- ARGV  1  kind: "charge", "settle", "undo", "confirm", "replay"
--       2  number of the batch
--       3  field in which the mail remembers the charge; empty: there is no mail
--       4  field that is for this demand alone, until other scripts have admitted its other charges; empty: there are none
--       5  seconds for which batches are kept, and counters whose windows are not known
--       6  Unix time in place of the server's, for tests; empty: the server's
--       7, ...  charge, settle: for each counter ordinal in the batch, cost, number of limits, maximum and seconds of
--               each limit
--               undo, confirm: for each counter ordinal, amount, date
--               replay, one counter: which command of this record it is, from 1; number of the record before it, and
--               how many commands that has; latest date; for each entry: amount, date, index of its mail in KEYS or 0,
--               field
--
-- Replies: {REFUSED, charge, limit}, {KNOWN}, {COUNTED, charge, amount, date, charge, amount, date, ...}, {LATER}: not
-- before what was sent before it.
--
-- A counter is a hash. Its field "m" holds, as MessagePack, relative to `seen` where that is shorter:
--   format, seen, first, count, seen - date and amount of the newest event, expires - seen,
--   for each window: seconds, seen - used, head - first, seen - date of the head, sum
-- and the field <number> date and amount of each older event: one per second with a charge, numbered from `first` on.
-- head is the number of the oldest event inside a window, sum the total from there on, `seen` when that was so: a check
-- costs what has expired since.

local FORMAT = 1
local REFUSED, KNOWN, COUNTED, LATER = 0, 1, 2, 3
local REMEMBERED = 900 -- seconds, as REMEMBERED_SECONDS of mails.py
local MANY = 64 -- events to have passed over before a refusal is worth a write
local CHUNK = 1000 -- arguments that unpack() may put on Lua's stack
local ALL = 2 ^ 40 -- an ordinal beyond that of any demand

local call, pack, unpack_message = redis.call, cmsgpack.pack, cmsgpack.unpack
local kind, number, field, keep = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[5])
local own_field = ARGV[4] ~= '' and ARGV[4] or field
local stride = field == '' and 1 or 2

local now, date -- the second in which charges are judged, and the one that they are dated
if ARGV[6] == '' then
    local time = call('TIME')
    now = tonumber(time[1])
    date = time[2] == '0' and now or now + 1
else
    now = math.floor(tonumber(ARGV[6]))
    date = math.ceil(tonumber(ARGV[6]))
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

-- Reads a counter, as it is now; `limits` are maximum, seconds, ...
local function open(key, limits)
    local counter = {key = key, windows = {}, events = {}, changed = {}, dropped = {}, passed = 0}
    local known = {}
    local stepped_back = false
    local packed = call('HGET', key, 'm')
    if packed then
        local m = unpack_message(packed)
        if m[1] ~= FORMAT then
            error('a counter was written by another version of policyd-rate-limit')
        end
        local seen, first = m[2], m[3]
        counter.first, counter.tail = first, first + m[4] - 1
        counter.date, counter.amount, counter.expires = seen - m[5], m[6], seen + m[7]
        for at = 8, #m, 5 do
            local seconds, used = m[at], seen - m[at + 1]
            local window = {
                seconds = seconds, used = used, head = first + m[at + 2], date = seen - m[at + 3], sum = m[at + 4]
            }
            known[seconds] = window
        end
        stepped_back = now < seen
    else
        counter.first, counter.tail, counter.date, counter.amount, counter.expires = 1, 0, now, 0, 0
    end
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
    counter.known = known
    if stepped_back then
        mend(counter)
    end
    for _, window in ipairs(counter.windows) do
        slide(counter, window, stepped_back or window.fresh)
    end
    return counter
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
    for from = 1, #dropped, CHUNK do
        call('HDEL', counter.key, unpack(dropped, from, math.min(from + CHUNK - 1, #dropped)))
    end
    local renew = counter.expires < counter.date + longest
    if renew then
        -- Not at every write.
        counter.expires = counter.date + longest + math.max(60, math.floor(longest / 8))
    end
    local m = {
        FORMAT, now, counter.first, counter.tail - counter.first + 1, now - counter.date, counter.amount,
        counter.expires - now
    }
    for _, window in ipairs(counter.windows) do
        local at = #m
        m[at + 1], m[at + 2], m[at + 3] = window.seconds, now - window.used, window.head - counter.first
        m[at + 4], m[at + 5] = now - window.date, window.sum
    end
    local fields = {'m', pack(m)}
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

-- What this batch has done already -------------------------------------------------------------------------------

local names = {'n', 'k'}
for at = 2, kind == 'replay' and 2 or #KEYS, stride do
    names[#names + 1] = KEYS[at]
end
local before = call('HMGET', KEYS[1], unpack(names))
local last, replayed = tonumber(before[1] or 0), tonumber(before[2] or 0)
if last > number then
    return {KNOWN} -- a later batch came after this one was given up, or replayed
end

local function mark_of(charge)
    local packed = last == number and before[charge + 2]
    return packed and unpack_message(packed)
end

local function has(mark, ordinal)
    for at = 2, mark and #mark or 0, 2 do
        if mark[at] <= ordinal and ordinal <= mark[at + 1] then
            return true
        end
    end
    return false
end

local function note(charge, mark)
    if last < number then
        call('DEL', KEYS[1])
        call('HSET', KEYS[1], 'n', number, names[charge + 2], pack(mark))
        call('EXPIRE', KEYS[1], keep)
        last = number
        before = {}
    else
        call('HSET', KEYS[1], names[charge + 2], pack(mark))
    end
end

-- `mark`, after `amount` more was counted for the demand with `ordinal`.
local function extended(mark, amount, ordinal)
    mark = mark or {0}
    mark[1] = mark[1] + amount
    if #mark > 1 and mark[#mark] == ordinal - 1 then
        mark[#mark] = ordinal
    else
        mark[#mark + 1] = ordinal
        mark[#mark + 1] = ordinal
    end
    return mark
end

-- Replay: what was decided while this server was away ------------------------------------------------------------

if kind == 'replay' then
    local command, former, commands_of_former = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
    if last == number and replayed >= command then
        return {KNOWN}
    elseif last == number and replayed < command - 1
        or last < number and (command > 1 or last < former or last == former and replayed < commands_of_former) then
        return {LATER}
    end
    local mark = mark_of(1)
    local counter = open(KEYS[2], {})
    local latest = math.min(tonumber(ARGV[10]), date)
    local total, settled = 0, {}
    for at = 11, #ARGV, 4 do
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
        -- Some of the batch may have been counted before the connection broke: then only the difference is.
        if mark then
            total = total + amount
        elseif amount > 0 and new then
            insert(counter, when, amount)
            total = total + amount
        elseif amount < 0 then
            give_back(counter, when, -amount)
            total = total + amount
        end
    end
    local missing = mark and total - mark[1] or 0
    if missing > 0 then
        insert(counter, latest, missing)
    elseif missing < 0 then
        give_back(counter, latest, -missing)
    end
    save(counter)
    note(1, {total, 0, ALL}) -- whatever of the batch may still be on its way comes too late
    call('HSET', KEYS[1], 'k', command)
    return {COUNTED}
end

-- Charge, settle, undo, confirm ---------------------------------------------------------------------------------

local charges, at = {}, 7
for key = 2, #KEYS, stride do
    local charge = {
        key = KEYS[key], mail = stride == 2 and KEYS[key + 1], ordinal = tonumber(ARGV[at]),
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
    charges[#charges + 1] = charge
end

local reply = {COUNTED}
local function tell(charge, amount, when)
    local size = #reply
    reply[size + 1], reply[size + 2], reply[size + 3] = charge, amount, when
end

if has(mark_of(1), charges[1].ordinal) then
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
    for index, charge in ipairs(charges) do
        local counter = open(charge.key, {})
        give_back(counter, charge.date, charge.cost)
        save(counter)
        note(index, extended(mark_of(index), -charge.cost, charge.ordinal))
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
                local counter = open(charge.key, {})
                give_back(counter, charge.date, charge.cost)
                save(counter)
                tell(index, -charge.cost, charge.date)
            end
            call('HDEL', charge.mail, own_field)
        end
    end
    return reply
end

local changes = false
for _, charge in ipairs(charges) do
    if kind == 'settle' and charge.mail then
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
    local counter = open(charge.key, charge.limits)
    charge.counter = counter
    for limit = 1, charge.cost > 0 and not refused and #charge.limits or 0, 2 do
        if not refused and counter.known[charge.limits[limit + 1]].sum + charge.cost > charge.limits[limit] then
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
    save(counter)
    note(index, extended(mark_of(index), charge.cost, charge.ordinal))
end
return reply
