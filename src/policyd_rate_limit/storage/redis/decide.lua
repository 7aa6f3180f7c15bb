-- Decides on the server, in one step, what some demands ask; redis.py says what the keys are.
--
-- KEYS  for each demand its counters; for a mail, each is followed by what that mail was charged on it: a hash, field ->
--       amount, date, and for a settlement what it gave back; or, while one charge is all there was, a string: amount,
--       date, field as it is
-- ARGV  1  lane of the writer (8 bytes, of which the last bit tells its two lanes apart): batches with one name come one
--          after the other, beside one of the other
--       2  number of the batch
--       3  seconds for which a counter is kept whose windows are not known
--       4  Unix time in place of the server's, for tests; empty: the server's
--       5, ...  for each demand
--          terms, as MessagePack; empty: those of the demand before
--             kind: "charge", "check", which counts nothing, "undo", "confirm"
--             field that is for this demand alone, until other scripts have admitted its other charges; empty: there are
--             none
--             for each counter: ordinal in the batch, amount, and to charge, check: maximum, seconds, ... of its limits,
--             flags: 1 the amount is that of the whole mail, 2 a limit that is exceeded refuses nothing; to undo,
--             confirm: date
--             or, for one counter, without a mail: "explain", which writes nothing, and for the ordinal how many events
--             it may look at
--          for each counter: field in which the mail remembers the charge; empty: there is no mail
--       or, with one counter only, 5  "replay"
--          6  number of the record before it
--          7  latest date
--          8, ...  for each entry: amount, date, index of its mail in KEYS or 0, field
--       or, with one counter only, 5  "reset"
--       or, with one counter and what a copy has brought of it, 5  "copy"
--          6, ...  for each second: Unix second, how much of it was brought before, how much it is to be
--       or, with the hits as the only key, 5  "hits"
--          6  a name for this call, which is heeded once
--          7, ...  for each field: how many more, Unix second of the last
--
-- Replies: the second that charges are dated, and for each demand {REFUSED, charge, limit, charge, limit, ...} with all
-- that is exceeded, {KNOWN}, {COUNTED, how many are exceeded, charge, limit, ..., charge, amount, date, charge, ...}, or
-- AS_ASKED: its one charge was counted, in that second;
-- {FAILED, why}: its keys cannot be made use of, such as one of another type; others are decided all the same;
-- to explain: for each limit what lies in its window, and in how many seconds it admits the amount, -1: never;
-- for a replay {KNOWN}, {COUNTED}, or {LATER}: not before the record before it; to reset: how much was in the windows;
-- to copy: how many seconds were changed.
--
-- A counter is a hash.
-- "m": as MessagePack, relative to `seen` where that is shorter: format, seen, first, count, seen - date and amount of the
--   newest event, expires - seen, marks, for each window: seconds, seen - used, head - first, seen - date of the head, sum.
-- <number>: date and amount of each older event, one per second with a charge, numbered from `first` on.
-- "b" and lane: the lane's mark, which is what its last batch has done here: number, date, sum of what it counted,
--   ordinals in ranges: from, to, from, to, ...; negative where it was exceeded, and let pass
-- "r": the second of the last reset.
-- "x": a mail with one charge, which needs no key of its own then: amount, date, length of the field, field, mail. It is
--   that of an id that sends now and then; it gives way as soon as it is not to be remembered any more.
--
-- head is the number of the oldest event inside a window, sum the total from there on, `seen` when that was so: a check
-- costs what has expired since.

local FORMAT = 1
local REFUSED, KNOWN, COUNTED, LATER, AS_ASKED, FAILED = 0, 1, 2, 3, 4, 5
local REMEMBERED = 900 -- seconds, as REMEMBERED_SECONDS of mails.py
local REMEMBERED_TEXT = tostring(REMEMBERED) -- as an argument: to write a number costs a third of a command
local LONGEST_VALUE = 64 -- bytes that Redis' default, hash-max-listpack-value, has lie close together
local MANY = 64 -- events to have passed over before a refusal is worth a write
local MANY_MARKS = 16 -- to look for old ones
local LANES = 2 -- as MOST_UNDERWAY of base.py: batches whose numbers differ by less may be under way together
local CHUNK = 1000 -- arguments that unpack() may put on Lua's stack
local ALL = 2 ^ 40 -- an ordinal beyond that of any demand

local call, pack, unpack_message = redis.call, cmsgpack.pack, cmsgpack.unpack
local unpack_one, unpack_limit = cmsgpack.unpack_one, cmsgpack.unpack_limit
local byte, char, substring = string.byte, string.char, string.sub
local lane, number, keep = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local mark_field = 'b' .. lane
local last = string.byte(lane, -1) or 0
local other_field = 'b' .. substring(lane, 1, -2) .. char(last % 2 == 0 and last + 1 or last - 1)

local now, date -- the second in which charges are judged, and the one that they are dated
if ARGV[4] == '' then
    local time = call('TIME')
    now = tonumber(time[1])
    date = time[2] == '0' and now or now + 1
else
    now = math.floor(tonumber(ARGV[4]))
    date = math.ceil(tonumber(ARGV[4]))
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
    local found = call('HMGET', key, 'm', mark_field, other_field)
    if found[1] then
        local m = unpack_message(found[1])
        if m[1] ~= FORMAT then
            error('a counter was written by another version of policyd-rate-limit')
        end
        local seen, first = m[2], m[3]
        counter.seen, counter.first, counter.tail = seen, first, first + m[4] - 1
        counter.date, counter.amount, counter.expires, counter.marks = seen - m[5], m[6], seen + m[7], m[8]
        for at = 9, #m, 5 do
            local window = {
                seconds = m[at], used = seen - m[at + 1], head = first + m[at + 2], date = seen - m[at + 3], sum = m[at + 4]
            }
            counter.windows[#counter.windows + 1] = window
            counter.known[window.seconds] = window
        end
    else
        counter.seen, counter.first, counter.tail = now, 1, 0
        counter.date, counter.amount, counter.expires, counter.marks = now, 0, 0, 0
    end
    counter.mark = found[2] and unpack_message(found[2]) or {0, date, 0}
    counter.is_marked = found[2]
    -- A batch comes too late that was given up before a later one was sent.
    counter.is_later = counter.mark[1] > number or found[3] and unpack_message(found[3])[1] >= number + LANES
    return counter
end

-- Brings a counter up to this moment, with windows for `limits`: maximum, seconds, ...
local function advance(counter, limits)
    local windows, known = counter.windows, counter.known
    for at = 2, #limits, 2 do
        local seconds = limits[at]
        local window = known[seconds]
        if not window then
            window = {seconds = seconds, head = counter.tail + 1, date = now, sum = 0, fresh = true}
            known[seconds] = window
            windows[#windows + 1] = window
        end
        window.used = now
    end
    local stepped_back = now < counter.seen
    if stepped_back then
        mend(counter)
    end
    for at = #windows, 1, -1 do
        local window = windows[at]
        if window.used + window.seconds <= now then
            table.remove(windows, at) -- nobody asks for it any more
        elseif stepped_back or window.fresh or window.date + window.seconds <= now then
            slide(counter, window, stepped_back or window.fresh)
        end
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

-- What is not to expire before `needed` does so a while later, or that would have to be said at every write.
local function spared(needed, longest)
    return needed + math.max(60, math.floor(longest / 8))
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
    longest = math.max(longest, REMEMBERED)
    for from = 1, #dropped, CHUNK do
        call('HDEL', counter.key, unpack(dropped, from, math.min(from + CHUNK - 1, #dropped)))
    end
    local needed = math.max(counter.date, now) + longest
    local renew = counter.expires < needed
    if renew then
        counter.expires = spared(needed, longest)
    end
    local first = counter.first
    local m = {
        FORMAT, now, first, counter.tail - first + 1, now - counter.date, counter.amount, counter.expires - now,
        counter.marks
    }
    local at = 8
    for _, window in ipairs(counter.windows) do
        m[at + 1], m[at + 2], m[at + 3] = window.seconds, now - window.used, window.head - first
        m[at + 4], m[at + 5] = now - window.date, window.sum
        at = at + 5
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

local homes, slots = {}, {} -- mail -> the counter that it was charged on; what "x" of that is, where it has been read

-- Amount, date and field of what is in "x", and the mail.
local function unpack_slot(slot)
    local used, amount, when, size = unpack_limit(slot, 3)
    return amount, when, substring(slot, used + 1, used + size), substring(slot, used + size + 1)
end

-- Field, amount and date of the only charge of `mail`, where that is all it has ever had; else nil, and what it is. In
-- the end, what its key is.
local function only_charge(mail)
    local kind, home = call('TYPE', mail).ok, homes[mail]
    if kind == 'string' then
        local value = call('GET', mail)
        local used, amount, when = unpack_limit(value, 2)
        return substring(value, used + 1), amount, when, kind
    end
    local slot = kind == 'none' and (slots[mail] or home and call('HGET', home, 'x'))
    if slot then
        local amount, when, field, name = unpack_slot(slot)
        if name == substring(mail, #home + 1) and when + REMEMBERED > now then
            return field, amount, when, kind
        end
    end
    return nil, kind
end

-- Has `mail` be a hash, whose only charge was the first of these; its key is of `kind`.
local function make_hash(mail, kind, expire, ...)
    if kind == 'string' then
        call('DEL', mail)
    end
    call('HSET', mail, ...)
    call('EXPIRE', mail, expire)
end

-- Has `mail` be a hash, if it is anything.
local function open_mail(mail)
    local field, amount, when, kind = only_charge(mail)
    if field then
        local left = math.min(math.max(when + REMEMBERED - now, 1), REMEMBERED)
        make_hash(mail, kind, left, field, pack({amount, when}))
    end
end

-- Whether `mail` was charged for `field`, and whether it never was for anything.
local function is_known(mail, field)
    local only, kind = only_charge(mail)
    if only then
        return only == field, false
    end
    return kind ~= 'none' and call('HEXISTS', mail, field) == 1, kind == 'none'
end

-- `charged`: amount and date, packed. Whether `mail` had no key.
local function is_first(mail, field, charged)
    return call('SET', mail, charged .. field, 'NX', 'EX', REMEMBERED_TEXT)
end

local function remember(mail, field, amount, when, given_back)
    open_mail(mail)
    call('HSET', mail, field, pack({amount, when, given_back}))
    call('EXPIRE', mail, REMEMBERED_TEXT)
end

-- What was counted before an administrator's reset is not there to be given back.
local function charges_of(mail, counter)
    local charges, total = {}, 0
    local reset = tonumber(call('HGET', counter.key, 'r') or 0)
    local only, amount, when = only_charge(mail)
    local found = only and {only, pack({amount, when})} or call('HGETALL', mail)
    for at = 1, #found, 2 do
        if string.sub(found[at], 1, 1) ~= 't' then
            local value = unpack_message(found[at + 1])
            local amount = value[2] > reset and value[1] or 0
            charges[#charges + 1] = {field = found[at], amount = amount, date = math.min(value[2], date)}
            total = total + amount
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

-- What of `charges` is in `field`: a batch may settle a mail twice.
local function amount_in(field, charges)
    for _, charge in ipairs(charges) do
        if charge.field == field then
            return charge.amount
        end
    end
    return 0
end

-- What was decided while this server was away ---------------------------------------------------------------------

local function replay(former, latest)
    local counter = read(KEYS[1])
    if counter.mark[1] > number or has(counter, ALL) then
        return {KNOWN}
    elseif counter.mark[1] < former then
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
    for at = 8, #ARGV, 4 do
        local amount, when = tonumber(ARGV[at]), math.min(tonumber(ARGV[at + 1]), date)
        local mail, field = KEYS[tonumber(ARGV[at + 2])], ARGV[at + 3]
        local new = true
        if mail then
            homes[mail] = KEYS[1]
            open_mail(mail)
        end
        if mail and amount > 0 and when > now - REMEMBERED then
            new = call('HSETNX', mail, field, pack({amount, when})) == 1
            call('EXPIRE', mail, REMEMBERED_TEXT)
        elseif mail and amount < 0 then
            settled[mail] = settled[mail] or call('HSETNX', mail, field, pack({0, when, -amount})) == 1
            if settled[mail] then
                take_off(mail, (charges_of(mail, counter)), -amount, function() end)
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
        insert(counter, latest, missing)
    elseif missing < 0 then
        give_back(counter, latest, -missing)
    end
    note(counter, missing, 0, ALL) -- whatever of the batch may still be on its way comes too late
    save(counter)
    return {COUNTED}
end

-- Demands --------------------------------------------------------------------------------------------------------

local function tell(reply, charge, amount, when)
    local size = #reply
    reply[size + 1], reply[size + 2], reply[size + 3] = charge, amount, when
end

local function counted_reply(exceeded, counted)
    local reply = {COUNTED, #exceeded / 2}
    for _, number in ipairs(exceeded) do
        reply[#reply + 1] = number
    end
    for _, number in ipairs(counted) do
        reply[#reply + 1] = number
    end
    return reply
end

-- The first limit that `charge` exceeds, by its number; its counter is as it is now.
local function exceeded_by(charge)
    local counter, limits = charge.counter, charge.last
    for at = 1, charge.amount > 0 and #limits or 0, 2 do
        local window = counter.known[limits[at + 1]]
        if window and window.sum + charge.amount > limits[at] then
            return (at + 1) / 2
        end
    end
    return nil
end

-- What was answered to a demand that has been decided, where the answer was lost.
local function answer_again(kind, charges, own_field)
    local exceeded, counted = {}, {}
    for index, charge in ipairs(charges) do
        if has(charge.counter, -charge.ordinal) then
            exceeded[#exceeded + 1], exceeded[#exceeded + 2] = index, exceeded_by(charge) or 1
        elseif has(charge.counter, charge.ordinal) then
            if charge.mail then
                open_mail(charge.mail)
            end
            local found = charge.mail
                and (own_field ~= '' and call('HGET', charge.mail, own_field) or call('HGET', charge.mail, charge.field))
            if found then
                found = unpack_message(found)
                tell(counted, index, found[3] and -found[3] or found[1], found[2])
            elseif kind == 'charge' and not charge.settles then
                tell(counted, index, charge.amount, date)
            end
        end
    end
    return counted_reply(exceeded, counted)
end

local function undo(charges, own_field)
    for _, charge in ipairs(charges) do
        local counter = charge.counter
        advance(counter, {})
        give_back(counter, charge.last, charge.amount)
        note(counter, -charge.amount, charge.ordinal, charge.ordinal)
        save(counter)
        if charge.mail then
            open_mail(charge.mail)
            call('HDEL', charge.mail, own_field)
        end
    end
    return {COUNTED}
end

local function confirm(charges, own_field)
    local reply = {}
    for index, charge in ipairs(charges) do
        open_mail(charge.mail)
        local packed = call('HGET', charge.mail, own_field)
        if packed then
            if call('HSETNX', charge.mail, charge.field, packed) == 0 then
                -- It was asked twice at the same time, and counted twice.
                local when = charge.last
                advance(charge.counter, {})
                give_back(charge.counter, when, charge.amount)
                save(charge.counter)
                tell(reply, index, -charge.amount, when)
            end
            call('HDEL', charge.mail, own_field)
        end
    end
    return counted_reply({}, reply)
end

-- All limits that `charges` exceed, and whether one of them refuses.
local function exceeding(charges)
    local exceeded, refuses = {}, false
    for index, charge in ipairs(charges) do
        if charge.amount ~= 0 then
            advance(charge.counter, charge.last)
        end
        local limit = exceeded_by(charge)
        if limit then
            exceeded[#exceeded + 1], exceeded[#exceeded + 2] = index, limit
            charge.is_exceeded = true
            refuses = refuses or charge.refuses
        end
    end
    return exceeded, refuses
end

-- Leaves out what the mail was charged before; whether there is anything left.
local function subtract(charges)
    local changes = false
    for _, charge in ipairs(charges) do
        if charge.mail and charge.settles then
            local total
            charge.before, total = charges_of(charge.mail, charge.counter)
            charge.amount = charge.amount - total
        elseif charge.mail then
            local known, is_new = is_known(charge.mail, charge.field)
            charge.amount, charge.is_new = known and 0 or charge.amount, is_new
        end
        changes = changes or charge.amount ~= 0
    end
    return changes
end

local function decide(kind, charges, own_field)
    if not subtract(charges) then
        return {KNOWN}
    end
    local exceeded, refuses = exceeding(charges)
    if refuses or kind == 'check' then
        for _, charge in ipairs(charges) do
            if charge.counter.passed >= MANY then
                save(charge.counter)
            end
        end
        return {#exceeded > 0 and REFUSED or KNOWN, unpack(exceeded)}
    end
    local counted = {}
    for index, charge in ipairs(charges) do
        local counter, amount = charge.counter, charge.is_exceeded and 0 or charge.amount
        local field = own_field ~= '' and own_field or charge.field
        if amount > 0 then
            append(counter, date, amount)
            if charge.mail and not (charge.is_new and is_first(charge.mail, field, pack(amount, date))) then
                remember(charge.mail, field, amount_in(field, charge.before or {}) + amount, date)
            end
            tell(counted, index, amount, date)
        elseif amount < 0 then
            take_off(charge.mail, charge.before, -amount, function(when, taken)
                give_back(counter, when, taken)
                tell(counted, index, -taken, when)
            end)
            remember(charge.mail, field, amount_in(field, charge.before), date, -amount)
        end
        if charge.amount ~= 0 then
            local ordinal = charge.is_exceeded and -charge.ordinal or charge.ordinal
            note(counter, amount, ordinal, ordinal)
            save(counter)
        end
    end
    return counted_reply(exceeded, counted)
end

local function explain(charge)
    local counter, limits, reply = charge.counter, charge.last, {}
    advance(counter, limits)
    for at = 1, #limits, 2 do
        local maximum, seconds = limits[at], limits[at + 1]
        local window = counter.known[seconds]
        local excess, free_in = window.sum + charge.amount - maximum, 0
        if charge.amount > maximum then
            free_in = -1
        elseif excess > 0 then
            local last, amount = counter.date, nil
            for head = window.head, math.min(counter.tail, window.head + charge.ordinal - 1) do
                last, amount = event(counter, head)
                excess = excess - amount
                if excess <= 0 then
                    break
                end
            end
            free_in = (excess > 0 and counter.date or last) + seconds - now
        end
        reply[at], reply[at + 1] = window.sum, free_in
    end
    return reply
end

local function answer(kind, charges, own_field)
    if kind == 'explain' then
        return explain(charges[1])
    end
    local is_decided = false
    for _, charge in ipairs(charges) do
        if charge.counter.is_later then
            return {KNOWN}
        end
        is_decided = is_decided or has(charge.counter, charge.ordinal) or has(charge.counter, -charge.ordinal)
    end
    if is_decided then
        return answer_again(kind, charges, own_field)
    elseif kind == 'undo' then
        return undo(charges, own_field)
    elseif kind == 'confirm' then
        return confirm(charges, own_field)
    end
    return decide(kind, charges, own_field)
end

-- Demands that are like most ------------------------------------------------------------------------------------------

-- Whether `terms` are to charge one counter within windows that differ.
local function is_plain(terms)
    local charge, seen = terms[3], {}
    if terms[1] ~= 'charge' or terms[2] ~= '' or #terms ~= 3 or charge[2] <= 0 or #charge[3] == 0
            or charge[4] ~= 0 then
        return false
    end
    for at = 2, #charge[3], 2 do
        if seen[charge[3][at]] then
            return false
        end
        seen[charge[3][at]] = true
    end
    charge.charged, charge.event = pack(charge[2], date), pack({charge[2], date})
    charge.mark = pack({number, date, charge[2], charge[1], charge[1]})
    local windows = {}
    for at = 2, #charge[3], 2 do
        local size = #windows
        windows[size + 1], windows[size + 2], windows[size + 3] = charge[3][at], 0, 0
        windows[size + 4], windows[size + 5] = 0, 0
    end
    charge.windows = windows
    return true
end

-- The values of a packed array; no table is made of them.
local function values(packed)
    return unpack_message(substring(packed, byte(packed) == 0xDC and 4 or 2))
end

-- Of which batch a mark is: its first value.
local function number_of(mark)
    local _, found = unpack_one(mark, byte(mark) == 0xDC and 3 or 1)
    return found
end

-- Decides as `decide` does, without taking the counter apart. That is half of the work, and it goes where no event but
-- the newest is to be looked at: the windows are those of `terms`, or there are none yet, and each still has its head,
-- or nothing in it any more. Else nothing is done, and nothing returned.
local function charge_quickly(terms, key, mail, field)
    local charge = terms[3]
    local amount, limits = charge[2], charge[3]
    local found = call('HMGET', key, 'm', mark_field, other_field, 'x')
    local packed, is_marked, beside, slot = found[1], found[2], found[3], found[4]
    if is_marked and number_of(is_marked) >= number or beside and number_of(beside) >= number + LANES then
        return nil
    end
    local m, passed, is_fresh
    if packed then
        m = {values(packed)}
        if m[1] ~= FORMAT or m[2] > now then
            return nil
        end
        passed = now - m[2]
        if #m == 8 and m[4] <= 1 then -- as a replay leaves it, or a reset
            m = {FORMAT, now, m[3], m[4], m[5], m[6], m[7], m[8], unpack(charge.windows)}
            is_fresh = m[4] == 1
        elseif #m ~= 8 + #charge.windows then
            return nil
        end
    else
        m = {FORMAT, now, 1, 0, 0, 0, 0, 0, unpack(charge.windows)}
        passed = 0
    end
    local count, age, newest = m[4], m[5] + passed, m[6]
    local marks = is_marked and m[8] or m[8] + 1
    local is_new = count == 0 or age > now - date -- there is no event of this second yet
    if count > 0 and age < now - date or marks > MANY_MARKS then
        return nil
    end
    local size = is_new and count + 1 or count
    local oldest, longest, refusal = size, REMEMBERED, nil
    local at = 9
    for limit = 1, #limits, 2 do
        local seconds, head, since, sum = limits[limit + 1], m[at + 2], m[at + 3] + passed, m[at + 4]
        if m[at] ~= seconds then
            return nil
        end
        if is_fresh then
            since, sum = age, newest
        end
        if head < count and since >= seconds then
            if age < seconds then
                return nil
            end
            head, sum = count, 0
        end
        if not refusal and sum + amount > limits[limit] then
            refusal = {REFUSED, 1, (limit + 1) / 2}
        end
        if head < size then
            sum = sum + amount
        end
        if head == count then
            since = now - date
        end
        m[at + 1], m[at + 2], m[at + 3], m[at + 4] = 0, head, since, sum
        if head < oldest then
            oldest = head
        end
        if seconds > longest then
            longest = seconds
        end
        at = at + 5
    end
    local is_mine
    if mail and slot then
        local _, when, its_field, name = unpack_slot(slot)
        if when + REMEMBERED <= now then
            slot = false
        elseif name == substring(mail, #key + 1) then
            if its_field == field then
                return {KNOWN}
            end
            homes[mail], slots[mail], is_mine = key, slot, true
        end
    end
    if refusal then
        return mail and is_known(mail, field) and {KNOWN} or refusal
    elseif 2 * oldest > size then
        return nil -- there is something to be dropped
    end
    local new_slot
    if mail and not slot and #charge.charged + 1 + #field + #mail - #key <= LONGEST_VALUE then
        -- No mail is remembered for twice as long without a charge.
        if count > 0 and age >= 2 * REMEMBERED or call('EXISTS', mail) == 0 then
            new_slot = charge.charged .. char(#field) .. field .. substring(mail, #key + 1)
        end
    end
    if mail and not new_slot and (is_mine or not is_first(mail, field, charge.charged)) then
        local only, before, when, kind = only_charge(mail)
        if only == field then
            return {KNOWN}
        elseif only then
            make_hash(mail, kind, REMEMBERED_TEXT, only, pack({before, when}), field, charge.event)
        elseif call('HSETNX', mail, field, charge.event) == 0 then
            return {KNOWN}
        else
            call('EXPIRE', mail, REMEMBERED_TEXT)
        end
    end
    local left, needed = m[7] - passed, date - now + longest
    local renew = left < needed
    if renew then
        left = spared(needed, longest)
    end
    m[2], m[4], m[5], m[7], m[8] = now, size, now - date, left, marks
    m[6] = is_new and amount or newest + amount
    if is_new and count > 0 then
        local before, event = m[3] + count - 1, pack({now - age, newest})
        if new_slot then
            call('HSET', key, 'm', pack(m), mark_field, charge.mark, before, event, 'x', new_slot)
        else
            call('HSET', key, 'm', pack(m), mark_field, charge.mark, before, event)
        end
    elseif new_slot then
        call('HSET', key, 'm', pack(m), mark_field, charge.mark, 'x', new_slot)
    else
        call('HSET', key, 'm', pack(m), mark_field, charge.mark)
    end
    if renew then
        call('EXPIRE', key, left)
    end
    return AS_ASKED
end

-- What an administrator asks ---------------------------------------------------------------------------------------

local function reset()
    local is_readable, counter = pcall(read, KEYS[1])
    if not is_readable then
        call('DEL', KEYS[1]) -- what somebody has put there, or damaged
        return 0
    end
    local total = 0
    if counter.tail < counter.first then
        return total
    end
    advance(counter, {})
    for _, window in ipairs(counter.windows) do
        total = math.max(total, window.sum)
        window.head, window.sum = counter.tail + 1, 0
    end
    for at = counter.first, counter.tail - 1 do
        counter.dropped[#counter.dropped + 1] = at
    end
    counter.first, counter.changed = counter.tail + 1, {}
    save(counter)
    call('HSET', counter.key, 'r', date)
    return total
end

-- What a copy brings from another database, each second once: where "copied" says that it has brought `old` of a second,
-- it is to have brought `new`. How many seconds that changed.
local function copy(copied)
    local counter = read(KEYS[1])
    advance(counter, {})
    local longest, noted = 0, {}
    for _, window in ipairs(counter.windows) do
        longest = math.max(longest, window.seconds)
    end
    local expired = now - (longest > 0 and longest or keep)
    for at = 6, #ARGV, 3 do
        local old, new = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
        if old ~= new and tonumber(call('HGET', copied, ARGV[at]) or 0) == old then
            local when = math.min(tonumber(ARGV[at]), date)
            if new < old then
                give_back(counter, when, old - new)
            elseif when > expired then
                insert(counter, when, new - old)
            end
            noted[#noted + 1], noted[#noted + 2] = ARGV[at], ARGV[at + 2]
        end
    end
    if #noted > 0 then
        save(counter)
        call('HSET', copied, unpack(noted))
        call('EXPIRE', copied, math.max(keep, longest, REMEMBERED) + 60)
    end
    return #noted / 2
end

local function add_hits(key, name)
    if call('HGET', key, '') == name then
        return
    end
    for at = 7, #ARGV, 3 do
        local found = call('HGET', key, ARGV[at])
        local hits, last = 0, 0
        if found then
            found = unpack_message(found)
            hits, last = found[1], found[2]
        end
        hits = hits + tonumber(ARGV[at + 1])
        if hits > 0 then
            call('HSET', key, ARGV[at], pack({hits, math.max(last, tonumber(ARGV[at + 2]))}))
        else
            call('HDEL', key, ARGV[at])
        end
    end
    call('HSET', key, '', name)
end

if ARGV[5] == 'reset' then
    return reset()
elseif ARGV[5] == 'copy' then
    return copy(KEYS[2])
elseif ARGV[5] == 'hits' then
    add_hits(KEYS[1], ARGV[6])
    return {COUNTED}
elseif ARGV[5] == 'replay' then
    return replay(tonumber(ARGV[6]), math.min(tonumber(ARGV[7]), date))
end
local replies, at, key, terms = {date}, 5, 1, nil

-- Decides one demand after the other.
local function answer_all()
    while at <= #ARGV do
        local packed, field = ARGV[at], ARGV[at + 1]
        if packed ~= '' then
            terms = unpack_message(packed)
            terms.is_plain = is_plain(terms)
        end
        local mail = field ~= '' and KEYS[key + 1]
        local reply = terms.is_plain and charge_quickly(terms, KEYS[key], mail, field)
        if not reply then
            local charges, next = {}, key
            for index = 3, #terms do
                local asked = terms[index]
                local flags = asked[4] or 0
                local charge = {
                    counter = read(KEYS[next]), ordinal = asked[1], amount = asked[2], last = asked[3],
                    field = ARGV[at + index - 2], settles = flags % 2 == 1, refuses = flags < 2
                }
                next = next + 1
                if mail then
                    charge.mail = KEYS[next]
                    homes[charge.mail] = charge.counter.key
                    next = next + 1
                end
                charges[index - 2] = charge
            end
            reply = answer(terms[1], charges, terms[2])
        end
        replies[#replies + 1] = reply
        key = key + (#terms - 2) * (mail and 2 or 1)
        at = at + #terms - 1
    end
end

-- What the server says to everybody, older ones behind words of their own.
local OF_SERVER = {'OOM ', 'MISCONF ', 'READONLY ', 'NOREPLICAS ', 'MASTERDOWN ', 'NOPERM '}

repeat
    local ended, problem = pcall(answer_all)
    if not ended then
        local why = tostring(type(problem) == 'table' and problem.err or problem)
        for _, beginning in ipairs(OF_SERVER) do
            local from = string.find(why, beginning, 1, true)
            if from then
                return {err = substring(why, from)}
            end
        end
        replies[#replies + 1] = {FAILED, why}
        key = key + (#terms - 2) * (ARGV[at + 1] ~= '' and 2 or 1)
        at = at + #terms - 1
    end
until ended
return replies
