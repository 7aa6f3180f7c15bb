-- Decides on the server, in one step, what some demands ask; keys.py says what the keys are.
--
-- KEYS  for each demand its counters; for a mail, each is followed by what that mail was charged on it: a hash, field ->
--       amount, date, and for a settlement what it gave back; or, while one charge is all there was, a string: amount,
--       date, field as it is; one that counts different values is followed by these: a sorted set, by the second in
--       which each came last
-- ARGV  1  lane of the writer (8 bytes, of which the last bit tells its two lanes apart): batches with one name come one
--          after the other, beside one of the other
--       2  number of the batch
--       3  seconds for which a counter is kept whose windows are not known
--       4  Unix time in place of the server's, for tests; empty: the server's
--       5  how many demands of the batch were asked before; each has its place in the batch, also when it is asked again
--       6, ...  for each demand
--          terms, as MessagePack; empty: those of the demand before
--             kind: "charge", "check", which counts nothing, "undo", "confirm"
--             field that is for this demand alone, until other scripts have admitted its other charges; empty: there are
--             none
--             for each counter, which are different ones: amount, and to charge, check: maximum, seconds, ... of its
--             limits, flags: 1 the amount is that of the whole mail, 2 a limit that is exceeded refuses nothing, 4 it
--             counts different values; if its first limit is per mail, the maximum of that, else false; and, if it
--             warns, for each limit how much has to be used for that; to undo, confirm: date, and these flags
--             or, for one counter, without a mail: "explain" or "explain values", which write nothing, and for the flags
--             how many events they may look at
--          for each counter: field in which the mail remembers the charge, or the value; empty: there is no mail
--       or, with one counter only, 5  "replay"; with one and its values "replay values"
--          6  number of the record before it
--          7  latest date
--          8, ...  for each entry: amount, date, index of its mail in KEYS or 0, field or value
--       or, with one counter only, 5  "reset"; with one and its values "reset values"
--       or, with one counter and what a copy has brought of it, 5  "copy"; with its values as well "copy values"
--          6, ...  for each second: Unix second, how much of it was brought before, how much it is to be
--          or for each value: this, the second that was brought before, the one that is to be, 0: it is to go
--       or, with the hits as the only key, 5  "hits"
--          6  a name for this call, which is heeded once
--          7, ...  for each field: how many more, Unix second of the last
--       or, with the overrides as the only key, 5  "block"
--          6  Unix second at which those in force stay as they are
--          7  a new stamp
--          8, ...  for each field: its value, JSON of limits, Unix second of the end, note
--
--       or, with an hour of the hit history and how many rows each hour has, 5  "history", for a copy "bring history"
--          6  a name for this call, which is heeded once
--          7  the hour, as it is named in the latter
--          8  seconds for which the hour is kept
--          9  how many rows it may have, beside those of the others
--          10, ...  for each field: that of the others, empty: it is that; hits, seconds of the first and the last,
--          details
--       or, with the audit trail, and a hash that is changed with it, 5  "audit"
--          6  an entry, which begins with a name of 16 bytes for this call, which is heeded once
--          7, ...  for each field of that hash: its value, empty: it goes
--       or, with these, 5  "audit if"
--          6  as above
--          7  a field of that hash, 8  what it has to be, empty: it has to be missing; else nothing is done
--          9, ...  as above
--       or, with the audit trail, 5  "bring audit"
--          6, ...  for each entry: the field that says what was brought from there, its number there, the entry
--
-- Replies: the second that charges are dated, and for each demand {REFUSED, charge, limit, charge, limit, ...} with all
-- that is exceeded, {KNOWN}, {COUNTED, how many are exceeded, charge, limit, ..., charge, amount, date, charge, ...}, or
-- AS_ASKED: all of its charges were counted, in that second;
-- {WARNED, {charge, limit, used, ...}, one of these}: the windows that came so far by it;
-- {FAILED, why}: its keys cannot be made use of, such as one of another type; others are decided all the same;
-- to explain: for each limit what lies in its window, and in how many seconds it admits the amount, -1: never;
-- for a replay {KNOWN}, {COUNTED}, or {LATER}: not before the record before it; to reset: how much was in the windows;
-- to copy: how many seconds were changed; to history: how many hits are new; to audit: the number, 0: nothing was
-- done; to bring audit: how many entries are new.
--
-- A counter is a hash.
-- "m": as MessagePack, FORMAT, and the numbers that the constants from SEEN to SUM name.
-- <number>: date and amount of each older event, one per second with a charge, numbered from FIRST on.
-- "b" and lane: the lane's mark, which is what its last batch has done here: number, date, sum of what it counted, and
--   the places of the demands that it has decided, in ranges: from, to, from, to, ...; negative where a limit was
--   exceeded, and let pass
-- "w" and lane: what the demands of the last batch that has brought windows so far are told of that: number, date, and
--   for each the place and {limit, used, ...}.
-- "r": the second of the last reset.
-- "v": values that are counted until other scripts have admitted the rest of their demand: field of that, value, second,
--   field, ...
-- "x": a mail with one charge, which needs no key of its own then: amount, date, length of the field, field, mail. It is
--   that of an id that sends now and then; it gives way as soon as it is not to be remembered any more.
--
-- What this script has changed of counters is written once, in the end: most demands of a batch have some in common.

local FORMAT = 1
local SEEN, FIRST, COUNT = 2, 3, 4 -- when it was written; number of the oldest event; how many there are
local AGE, NEWEST = 5, 6 -- of the newest event: seconds, amount
local LEFT, MARKS = 7, 8 -- seconds until it expires; how many there are
local WINDOWS, SIZE = 9, 5 -- where they begin; numbers of each: seconds, and
local USED, HEAD = 1, 2 -- seconds since a limit asked for it; the oldest event in it, counted from 0
local SINCE, SUM = 3, 4 -- age of that event; how much was counted from it on

local REFUSED, KNOWN, COUNTED, LATER, AS_ASKED, FAILED, WARNED = 0, 1, 2, 3, 4, 5, 6
local REMEMBERED = 900 -- seconds, as REMEMBERED_SECONDS of mails.py
local REMEMBERED_TEXT = tostring(REMEMBERED) -- as an argument: to write a number costs a third of a command
local LONGEST_VALUE = 64 -- bytes that Redis' default, hash-max-listpack-value, has lie close together
local MANY = 64 -- events to have passed over before a refusal is worth a write
local MANY_MARKS = 16 -- to look for old ones
local LANES = 2 -- as LANES of keys.py: batches whose numbers differ by less may be in flight together
local CHUNK = 1000 -- arguments that unpack() may put on Lua's stack
local PAIR = string.char(0x92) -- an array of two in MessagePack, and they behind it
local ALL = 2 ^ 40 -- beyond the place of any demand
local LARGEST = 2 ^ 53 -- beyond any date
local OF_VALUES = 4 -- flag of a charge

local call, pack, unpack_message = redis.call, cmsgpack.pack, cmsgpack.unpack
local unpack_one, unpack_limit = cmsgpack.unpack_one, cmsgpack.unpack_limit
local byte, char, substring, min, max = string.byte, string.char, string.sub, math.min, math.max
local lane, number, keep = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local mark_field, told_field = 'b' .. lane, 'w' .. lane
local last = byte(lane, -1) or 0
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
local just_now = now - date -- the age of what is charged here

-- The events of a counter -------------------------------------------------------------------------------------
--
-- A window may lag behind: what has left it is subtracted only when a limit asks for it.

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
        counter.changed = counter.changed or {}
        counter.changed[m[FIRST] + at] = PAIR .. pack(now - age, amount)
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
    if head ~= before then
        counter.passed = (counter.passed or 0) + math.abs(head - before)
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
        counter.passed = MANY -- or it would happen anew with each refusal, always a little later
    end
    for at = WINDOWS, #m, SIZE do
        slide(counter, at, true)
    end
end

-- Reading and writing a counter -----------------------------------------------------------------------------------

-- Of which batch a mark is: its first value.
local function number_of(mark)
    local _, found = unpack_one(mark, byte(mark) == 0xDC and 3 or 1)
    return found
end

-- What the slot "x" says: mail, as its key goes on behind that of the counter, field, amount, date, and, where it is to be
-- written, the slot itself; nil: nobody needs it.
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
    local mark, new_slot = counter.mark, counter.slot and counter.slot[5]
    local fields = mark and {'m', pack(m), mark_field, pack(mark)} or {'m', pack(m)}
    local size = #fields
    if new_slot then
        fields[size + 1], fields[size + 2], size = 'x', new_slot, size + 2
    end
    if counter.is_reserved then
        fields[size + 1], fields[size + 2], size = 'v', pack(counter.reserved), size + 2
    end
    if counter.told then
        fields[size + 1], fields[size + 2], size = told_field, pack(counter.told), size + 2
    end
    for name, packed in pairs(counter.changed or {}) do
        fields[size + 1], fields[size + 2], size = name, packed, size + 2
        if size >= CHUNK then
            call('HSET', key, unpack(fields))
            fields, size = {'m', fields[2]}, 2
        end
    end
    call('HSET', key, unpack(fields))
    if renews then
        call('EXPIRE', key, m[LEFT])
    end
end

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

-- What a mail was charged ----------------------------------------------------------------------------------------

-- How the slot of its counter names `mail`.
local function name_of(counter, mail)
    return substring(mail, #counter.key + 1)
end

-- What the key of `mail` is; and field, amount and date of its only charge, where that is all it has ever had.
local function only_charge(counter, mail)
    local kind = call('TYPE', mail).ok
    if kind == 'string' then
        local value = call('GET', mail)
        local used, amount, when = unpack_limit(value, 2)
        return kind, substring(value, used + 1), amount, when
    end
    local slot = kind == 'none' and counter.slot
    if slot and slot[1] == name_of(counter, mail) then
        return kind, slot[2], slot[3], slot[4]
    end
    return kind
end

-- Has `mail`, whose key is of `kind`, be a hash.
local function make_hash(mail, kind, ...)
    if kind == 'string' then
        call('DEL', mail)
    end
    call('HSET', mail, ...)
end

-- Has `mail` be a hash, if it is anything.
local function open_mail(counter, mail)
    local kind, field, amount, when = only_charge(counter, mail)
    if field then
        make_hash(mail, kind, field, pack({amount, when}))
        call('EXPIRE', mail, min(max(when + REMEMBERED - now, 1), REMEMBERED))
    end
end

-- Whether `mail` was charged for `field`.
local function is_known(counter, mail, field)
    local kind, only = only_charge(counter, mail)
    return only == field or not only and kind ~= 'none' and call('HEXISTS', mail, field) == 1
end

local packed_now = {} -- by amount: charges of this batch, few of which differ

-- A charge as mails remember it.
local function pack_charge(amount, when)
    if when ~= date then
        return pack(amount, when)
    end
    local packed = packed_now[amount]
    if not packed then
        packed = pack(amount, when)
        packed_now[amount] = packed
    end
    return packed
end

-- Remembers that `mail` was charged `amount` for `field`; whether it was not known to be.
local function is_first(counter, mail, field, amount, when, may_have_slot)
    local packed, slot = pack_charge(amount, when), counter.slot
    local is_in_slot = slot and slot[1] == name_of(counter, mail)
    if is_in_slot and slot[2] == field then
        return false
    elseif not slot and may_have_slot and #packed + 1 + #field + #mail - #counter.key <= LONGEST_VALUE then
        -- No mail is remembered for twice as long without a charge.
        local m = counter.m
        if m[COUNT] > 0 and m[AGE] >= 2 * REMEMBERED or call('EXISTS', mail) == 0 then
            local name = name_of(counter, mail)
            counter.slot = {name, field, amount, when, packed .. char(#field) .. field .. name}
            return true
        end
    end
    if not is_in_slot and call('SET', mail, packed .. field, 'NX', 'EX', REMEMBERED_TEXT) then
        return true
    end
    local kind, only, before, since = only_charge(counter, mail)
    if only == field then
        return false
    elseif only then
        make_hash(mail, kind, only, pack({before, since}), field, pack({amount, when}))
    elseif call('HSETNX', mail, field, pack({amount, when})) == 0 then
        return false
    end
    call('EXPIRE', mail, REMEMBERED_TEXT)
    return true
end

local function remember(counter, mail, field, amount, when, given_back)
    open_mail(counter, mail)
    call('HSET', mail, field, pack({amount, when, given_back}))
    call('EXPIRE', mail, REMEMBERED_TEXT)
end

-- What `mail` was charged, the newest first, and the sum; not what an administrator's reset has given back.
local function charges_of(counter, mail)
    local charges, total = {}, 0
    local reset = tonumber(call('HGET', counter.key, 'r') or 0)
    local kind, only, amount, when = only_charge(counter, mail)
    local found = only and {only, pack({amount, when})} or kind == 'none' and {} or call('HGETALL', mail)
    for at = 1, #found, 2 do
        if byte(found[at]) ~= 116 then -- "t": reserved only
            local value = unpack_message(found[at + 1])
            local amount = value[2] > reset and value[1] or 0
            charges[#charges + 1] = {field = found[at], amount = amount, date = min(value[2], date)}
            total = total + amount
        end
    end
    table.sort(charges, function(one, other) return one.date > other.date end)
    return charges, total
end

-- What `mail` was charged in all, with what is reserved until other scripts have admitted the rest of its demand.
local function total_of(counter, mail)
    local kind, only, amount, when = only_charge(counter, mail)
    if not only and kind == 'none' then
        return 0
    end
    local reset, total = tonumber(call('HGET', counter.key, 'r') or 0), 0
    if only then
        return when > reset and amount or 0
    end
    for _, packed in ipairs(call('HVALS', mail)) do
        amount, when = unpack_message(substring(packed, 2)) -- what is in the array, without making one
        if when > reset then
            total = total + amount
        end
    end
    return total
end

-- The first limit that `charge` exceeds, by its number, if `limit` is the first of the others that it does.
local function with_limit_per_mail(charge, limit)
    local cost, most, mail = charge[1], charge[4], charge.mail
    if mail and not charge.settles and cost <= most then
        cost = cost + total_of(charge.counter, mail)
    end
    return cost > most and 1 or limit and limit + 1
end

-- Takes `amount` off `charges`, the newest first, and calls `taken(date, amount)` for each.
local function take_off(counter, mail, charges, amount, taken)
    for _, charge in ipairs(charges) do
        local part = min(amount, charge.amount)
        if part > 0 then
            amount = amount - part
            charge.amount = charge.amount - part
            remember(counter, mail, charge.field, charge.amount, charge.date)
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

-- Demands --------------------------------------------------------------------------------------------------------
--
-- The charges of a demand are the tables of its terms, which the next demand with the same terms fills anew.

local function tell(reply, charge, amount, when)
    local size = #reply
    reply[size + 1], reply[size + 2], reply[size + 3] = charge, amount, when
end

local function counted_reply(exceeded, counted)
    local reply = {COUNTED, #exceeded / 2}
    for _, numbers in ipairs({exceeded, counted}) do
        for _, found in ipairs(numbers) do
            reply[#reply + 1] = found
        end
    end
    return reply
end

-- What was answered to a demand that has been decided, where the answer was lost.
local function answer_again(kind, charges, place, own_field)
    local exceeded, counted, warned = {}, {}, nil
    for index, charge in ipairs(charges) do
        local counter, mail, amount = charge.counter, charge.mail, charge[1]
        if has(counter, -place) then
            local limit
            if charge.is_distinct then
                limit = exceeded_by_value(charge)
            else
                limit = exceeded_by(counter, amount, charge[2])
                if charge[4] then
                    limit = with_limit_per_mail(charge, limit)
                end
            end
            exceeded[#exceeded + 1], exceeded[#exceeded + 2] = index, limit or 1
        elseif has(counter, place) then
            local found = charge[5] and told_before(counter, place)
            warned = found and warn(warned, index, found) or warned
            if mail then
                open_mail(counter, mail)
            end
            found = mail and (own_field ~= '' and call('HGET', mail, own_field) or call('HGET', mail, charge.field))
            if found then
                found = unpack_message(found)
                tell(counted, index, found[3] and -found[3] or found[1], found[2])
            elseif kind == 'charge' and charge.is_distinct then
                tell(counted, index, amount, since(charge.values, charge.field) or date)
            elseif kind == 'charge' and not charge.settles then
                tell(counted, index, amount, date)
            end
        end
    end
    local reply = counted_reply(exceeded, counted)
    return warned and {WARNED, warned, reply} or reply
end

local function undo(charges, place, own_field)
    for _, charge in ipairs(charges) do
        if charge.is_distinct then
            take_reserved(charge.counter, own_field, keep)
        else
            give_back(charge.counter, now - charge[2], charge[1])
        end
        note(charge.counter, -charge[1], place)
        if charge.mail then
            open_mail(charge.counter, charge.mail)
            call('HDEL', charge.mail, own_field)
        end
    end
    return {COUNTED}
end

local function confirm(charges, own_field)
    local counted = {}
    for index, charge in ipairs(charges) do
        local counter, mail, amount, when = charge.counter, charge.mail, charge[1], charge[2]
        local packed = false
        if charge.is_distinct then
            local found = take_reserved(counter, own_field, keep)
            if found then
                put_value(counter, charge.values, charge.field, min(found, date))
            end
        elseif mail then
            open_mail(counter, mail)
            packed = call('HGET', mail, own_field)
        end
        if packed then
            if call('HSETNX', mail, charge.field, packed) == 0 then
                -- It was asked twice at the same time, and counted twice.
                give_back(counter, now - when, amount)
                counter.is_changed = true
                tell(counted, index, -amount, when)
            end
            call('HDEL', mail, own_field)
        end
    end
    return counted_reply({}, counted)
end

-- Gives back what `charge`, the `index`-th of its demand, was counted too much.
local function lower(charge, index, counted, place, own_field)
    local counter, mail, amount = charge.counter, charge.mail, -charge.missing
    take_off(counter, mail, charge.before, amount, function(when, taken)
        give_back(counter, now - when, taken)
        tell(counted, index, -taken, when)
    end)
    local field = own_field ~= '' and own_field or charge.field
    remember(counter, mail, field, amount_in(field, charge.before), date, amount)
    note(counter, -amount, place)
end

-- A charge that its mail was charged before is looked for where it would be exceeded, else by remembering it.
local function decide(kind, charges, place, own_field)
    local exceeded, refuses, is_as_asked = nil, false, true
    for index = 1, #charges do
        local charge = charges[index]
        local counter, mail, amount, limit = charge.counter, charge.mail, charge[1], nil
        local settles = mail and charge.settles
        if settles then
            local total
            charge.before, total = charges_of(counter, mail)
            amount = amount - total
        end
        if charge.is_distinct then
            if counter.has_stepped_back then
                mend_values(counter, charge.values)
            end
            limit = exceeded_by_value(charge)
            amount = charge.since and charge.since >= date and 0 or amount
        elseif amount > 0 then
            limit = exceeded_by(counter, amount, charge[2])
            if charge[4] then
                limit = with_limit_per_mail(charge, limit)
            end
            counter.is_changed = counter.is_changed or counter.passed and counter.passed >= MANY
        end
        if mail and not settles and (limit or own_field ~= '') and is_known(counter, mail, charge.field) then
            amount, limit = 0, nil
        end
        if limit then
            exceeded, is_as_asked = exceeded or {}, false
            exceeded[#exceeded + 1], exceeded[#exceeded + 2] = index, limit
            refuses = refuses or charge.refuses
        end
        charge.missing, charge.is_exceeded = amount, limit
    end
    if refuses or kind == 'check' then
        return exceeded and {REFUSED, unpack(exceeded)} or {KNOWN}
    end
    for index = 1, #charges do
        local charge = charges[index]
        local counter, mail, amount = charge.counter, charge.mail, charge.missing
        if mail and amount > 0 and not charge.is_exceeded then
            local field = own_field ~= '' and own_field or charge.field
            if charge.settles and #charge.before > 0 then
                remember(counter, mail, field, amount_in(field, charge.before) + amount, date)
            elseif not is_first(counter, mail, field, amount, date, own_field == '') then
                amount = 0
                charge.missing = 0
            end
        end
        is_as_asked = is_as_asked and amount == charge[1] and amount > 0
    end
    local counted, warned = not is_as_asked and {}, nil
    for index = 1, #charges do
        local charge = charges[index]
        local counter, amount = charge.counter, charge.missing
        if charge.is_exceeded then
            note(counter, 0, -place)
        elseif amount > 0 then
            if charge.is_distinct then
                count_value(charge, own_field)
            else
                append(counter, just_now, amount)
            end
            note(counter, amount, place)
            if charge[5] then
                local found = crossed(charge, amount, place)
                warned = found and warn(warned, index, found) or warned
            end
            if counted then
                tell(counted, index, amount, date)
            end
        elseif amount < 0 then
            lower(charge, index, counted, place, own_field)
        end
    end
    local reply = AS_ASKED
    if not is_as_asked then
        exceeded = exceeded or {}
        reply = #exceeded + #counted > 0 and counted_reply(exceeded, counted) or {KNOWN}
    end
    return warned and {WARNED, warned, reply} or reply
end

local function explain(charge)
    local counter, amount, limits, reply = charge.counter, charge[1], charge[2], {}
    local m = counter.m
    exceeded_by(counter, amount, limits)
    for limit = 1, #limits, 2 do
        local maximum, seconds = limits[limit], limits[limit + 1]
        local at = window_of(counter, seconds)
        local excess, free_in = m[at + SUM] + amount - maximum, 0
        if amount > maximum then
            free_in = -1
        elseif excess > 0 then
            local age, leaving = m[AGE], nil
            for head = m[at + HEAD], min(m[COUNT], m[at + HEAD] + charge[3]) - 1 do
                age, leaving = event(counter, head)
                excess = excess - leaving
                if excess <= 0 then
                    break
                end
            end
            free_in = seconds - (excess > 0 and m[AGE] or age)
        end
        reply[limit], reply[limit + 1] = m[at + SUM], free_in
    end
    return reply
end

local function answer(kind, charges, place, own_field, is_asked_again)
    if kind == 'explain' then
        return explain(charges[1])
    elseif kind == 'explain values' then
        return explain_value(charges[1])
    elseif is_asked_again then
        local is_decided = false
        for _, charge in ipairs(charges) do
            if charge.counter.is_later then
                return {KNOWN}
            end
            is_decided = is_decided or has(charge.counter, place) or has(charge.counter, -place)
        end
        if is_decided then
            return answer_again(kind, charges, place, own_field)
        end
    end
    if kind == 'undo' then
        return undo(charges, place, own_field)
    elseif kind == 'confirm' then
        return confirm(charges, own_field)
    end
    return decide(kind, charges, place, own_field)
end

-- What is no demand -------------------------------------------------------------------------------------------------
--
-- These functions exist for them alone: to make a function takes time in each call of the script.

if ARGV[5] and not tonumber(ARGV[5]) then
    -- Seconds after which nobody looks at an event any more.
    local function longest_of(counter)
        local longest = 0
        for at = WINDOWS, #counter.m, SIZE do
            longest = max(longest, counter.m[at])
        end
        return longest > 0 and longest or keep
    end

    local function replay(former, latest)
        local counter, marked = read(KEYS[1])
        if marked > number or has(counter, ALL) then
            return {KNOWN}
        elseif marked < former then
            return {LATER}
        end
        -- Some of the batch may have been counted before the connection broke: then only the difference is.
        local counted = counter.mark and counter.mark[3]
        local longest, total, settled = longest_of(counter), 0, {}
        for at = 8, #ARGV, 4 do
            local amount, when = tonumber(ARGV[at]), min(tonumber(ARGV[at + 1]), date)
            local mail, field = KEYS[tonumber(ARGV[at + 2])], ARGV[at + 3]
            local is_new = true
            if mail and amount > 0 and when > now - REMEMBERED then
                is_new = is_first(counter, mail, field, amount, when)
            elseif mail and amount < 0 then
                open_mail(counter, mail)
                settled[mail] = settled[mail] or call('HSETNX', mail, field, pack({0, when, -amount})) == 1
                if settled[mail] then
                    take_off(counter, mail, charges_of(counter, mail), -amount, function() end)
                end
            end
            if counted then
                total = total + amount
            elseif amount < 0 then
                give_back(counter, now - when, -amount)
            elseif amount > 0 and is_new and when > now - longest then
                insert(counter, now - when, amount)
            end
        end
        local missing = counted and total - counted or 0
        if missing > 0 then
            insert(counter, now - latest, missing)
        elseif missing < 0 then
            give_back(counter, now - latest, -missing)
        end
        note(counter, missing, 0, ALL) -- whatever of the batch may still be on its way comes too late
        save(counter)
        return {COUNTED}
    end

    -- No difference is made up for: what the script has counted and the record has not stays counted.
    local function replay_values(former)
        local counter, marked = read(KEYS[1])
        if marked > number or has(counter, ALL) then
            return {KNOWN}
        elseif marked < former then
            return {LATER}
        end
        counter.values = KEYS[2]
        local longest = longest_of(counter)
        for at = 8, #ARGV, 4 do
            local amount, when, value = tonumber(ARGV[at]), min(tonumber(ARGV[at + 1]), date), ARGV[at + 3]
            if amount > 0 and when > now - longest then
                put_value(counter, KEYS[2], value, when)
            elseif amount < 0 and (since(KEYS[2], value) or LARGEST) <= when then
                call('ZREM', KEYS[2], value)
            end
        end
        note(counter, 0, 0, ALL)
        save(counter)
        return {COUNTED}
    end

    local function reset_values()
        local is_readable, counter = pcall(read, KEYS[1])
        if not is_readable then
            call('DEL', KEYS[1], KEYS[2])
            return 0
        end
        local total = call('TYPE', KEYS[2]).ok == 'zset'
            and call('ZCOUNT', KEYS[2], '(' .. now - longest_of(counter), '+inf') or 0
        call('DEL', KEYS[2])
        if #reserved_of(counter) > 0 then
            counter.reserved, counter.is_reserved = {}, true
        end
        if total > 0 or counter.is_reserved then
            save(counter)
            call('HSET', counter.key, 'r', date)
        end
        return total
    end

    -- As `copy`, of values.
    local function copy_values(copied, values)
        local counter = read(KEYS[1])
        local longest, noted = longest_of(counter), {}
        counter.values = values
        for at = 6, #ARGV, 3 do
            local value, old, new = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
            if old ~= new and tonumber(call('HGET', copied, value) or 0) == old then
                if new == 0 and (since(values, value) or LARGEST) <= old then
                    call('ZREM', values, value)
                elseif new > now - longest then
                    put_value(counter, values, value, min(new, date))
                end
                noted[#noted + 1], noted[#noted + 2] = value, ARGV[at + 2]
            end
        end
        if #noted > 0 then
            save(counter)
            call('HSET', copied, unpack(noted))
            call('EXPIRE', copied, max(keep, longest, REMEMBERED) + 60)
        end
        return #noted / 2
    end

    local function reset()
        local is_readable, counter = pcall(read, KEYS[1])
        if not is_readable then
            call('DEL', KEYS[1]) -- what somebody has put there, or damaged
            return 0
        end
        local m, total = counter.m, 0
        if m[COUNT] == 0 then
            return total
        end
        for at = WINDOWS, #m, SIZE do
            if m[at + USED] < m[at] then
                slide(counter, at)
                total = max(total, m[at + SUM])
            end
            m[at + HEAD], m[at + SUM] = 0, 0
        end
        for name = m[FIRST], m[FIRST] + m[COUNT] - 2 do
            drop(counter, name)
        end
        m[FIRST], m[COUNT], counter.changed = m[FIRST] + m[COUNT], 0, false
        save(counter)
        call('HSET', counter.key, 'r', date)
        return total
    end

    -- What a copy brings from another database, each second once: where "copied" says that it has brought `old` of a
    -- second, it is to have brought `new`. How many seconds that changed.
    local function copy(copied)
        local counter = read(KEYS[1])
        local longest, noted = longest_of(counter), {}
        for at = 6, #ARGV, 3 do
            local old, new = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
            if old ~= new and tonumber(call('HGET', copied, ARGV[at]) or 0) == old then
                local when = min(tonumber(ARGV[at]), date)
                if new < old then
                    give_back(counter, now - when, old - new)
                elseif when > now - longest then
                    insert(counter, now - when, new - old)
                end
                noted[#noted + 1], noted[#noted + 2] = ARGV[at], ARGV[at + 2]
            end
        end
        if #noted > 0 then
            save(counter)
            call('HSET', copied, unpack(noted))
            call('EXPIRE', copied, max(keep, longest, REMEMBERED) + 60)
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
                call('HSET', key, ARGV[at], pack({hits, max(last, tonumber(ARGV[at + 2]))}))
            else
                call('HDEL', key, ARGV[at])
            end
        end
        call('HSET', key, '', name)
    end

    -- Puts in force what daemons block, but where an override is in force, or has been meanwhile.
    local function add_blocks(key, moment)
        local has_changed = false
        for at = 8, #ARGV, 2 do
            local found = call('HGET', key, ARGV[at])
            local is_readable, override = pcall(cjson.decode, found or '')
            local ends = is_readable and type(override) == 'table' and tonumber(override[2])
            if not ends or ends <= moment then
                call('HSET', key, ARGV[at], ARGV[at + 1])
                has_changed = true
            end
        end
        if has_changed then
            call('HSET', key, '', ARGV[7])
        end
    end

    -- Adds rows to the hit history of an hour, or has those of a copy be there (`is_copy`); how many hits that are. For
    -- whom there is no room goes to the row of the others.
    local function add_history(key, index, is_copy)
        if call('HGET', key, '') == ARGV[6] then
            return 0
        end
        local rows, most, total = tonumber(call('HGET', index, ARGV[7]) or 0), tonumber(ARGV[9]), 0
        for at = 10, #ARGV, 6 do
            local field, of_others, hits = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
            local first, last, details = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]), ARGV[at + 5]
            local found = call('HGET', key, field)
            if not found and of_others ~= '' then
                if is_copy or rows < most then
                    rows = rows + 1
                else
                    field = of_others
                    found = call('HGET', key, field)
                end
            end
            local before = found and unpack_message(found) or {0, first, last, details}
            local new = is_copy and max(hits - before[1], 0) or hits
            if before[3] > last then
                last, details = before[3], before[4]
            end
            call('HSET', key, field, pack({before[1] + new, min(before[2], first), last, details}))
            total = total + new
        end
        call('HSET', key, '', ARGV[6])
        call('EXPIRE', key, ARGV[8])
        call('HSET', index, ARGV[7], rows)
        return total
    end

    -- Enters something into the audit trail, in one step with what it says of the hash `changed`; its number.
    local function enter(trail, changed, first)
        local number = tonumber(call('HGET', trail, '') or 0)
        for known = number, max(number - 9, 1), -1 do
            if substring(call('HGET', trail, known) or '', 1, 16) == substring(ARGV[6], 1, 16) then
                return known
            end
        end
        if first == 9 and (call('HGET', changed, ARGV[7]) or '') ~= ARGV[8] then
            return 0
        end
        for at = first, #ARGV, 2 do
            if ARGV[at + 1] == '' then
                call('HDEL', changed, ARGV[at])
            else
                call('HSET', changed, ARGV[at], ARGV[at + 1])
            end
        end
        call('HSET', trail, number + 1, ARGV[6], '', number + 1)
        return number + 1
    end

    -- Enters what a copy brings, each entry of a database once; how many are new.
    local function bring_audit(trail)
        local new, number = 0, tonumber(call('HGET', trail, '') or 0)
        for at = 6, #ARGV, 3 do
            if tonumber(ARGV[at + 1]) > tonumber(call('HGET', trail, ARGV[at]) or 0) then
                new, number = new + 1, number + 1
                call('HSET', trail, number, ARGV[at + 2], '', number, ARGV[at], ARGV[at + 1])
            end
        end
        return new
    end

    if ARGV[5] == 'history' or ARGV[5] == 'bring history' then
        return add_history(KEYS[1], KEYS[2], ARGV[5] == 'bring history')
    elseif ARGV[5] == 'audit' then
        return enter(KEYS[1], KEYS[2], 7)
    elseif ARGV[5] == 'audit if' then
        return enter(KEYS[1], KEYS[2], 9)
    elseif ARGV[5] == 'bring audit' then
        return bring_audit(KEYS[1])
    elseif ARGV[5] == 'block' then
        add_blocks(KEYS[1], tonumber(ARGV[6]))
        return {COUNTED}
    elseif ARGV[5] == 'reset' then
        return reset()
    elseif ARGV[5] == 'reset values' then
        return reset_values()
    elseif ARGV[5] == 'copy values' then
        return copy_values(KEYS[2], KEYS[3])
    elseif ARGV[5] == 'replay values' then
        return replay_values(tonumber(ARGV[6]))
    elseif ARGV[5] == 'copy' then
        return copy(KEYS[2])
    elseif ARGV[5] == 'hits' then
        add_hits(KEYS[1], ARGV[6])
        return {COUNTED}
    elseif ARGV[5] == 'replay' then
        return replay(tonumber(ARGV[6]), min(tonumber(ARGV[7]), date))
    end
end

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
