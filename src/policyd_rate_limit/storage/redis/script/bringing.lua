-- What is brought into one counter, or taken from it, by a record, an administrator or a copy ------------------------
--
-- These functions exist for such calls alone: to make a function takes time in each call of the script.

if ARGV[5] and not tonumber(ARGV[5]) then
    local of_values = substring(ARGV[5], -7) == ' values'

    -- Seconds after which nobody looks at an event any more.
    local function longest_of(counter)
        local longest = 0
        for at = WINDOWS, #counter.m, SIZE do
            longest = max(longest, counter.m[at])
        end
        return longest > 0 and longest or keep
    end

    -- Counts what the record says; how much that has changed of what its batch had counted before the connection broke.
    local function replay_amounts(counter)
        local counted, latest = counter.mark and counter.mark[3], min(tonumber(ARGV[7]), date)
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
        -- Some of the batch may have been counted: then only the difference is.
        local missing = counted and total - counted or 0
        if missing > 0 then
            insert(counter, now - latest, missing)
        elseif missing < 0 then
            give_back(counter, now - latest, -missing)
        end
        return missing
    end

    -- No difference is made up for: what the script has counted and the record has not stays counted.
    local function replay_values(counter)
        local values, longest = KEYS[2], longest_of(counter)
        counter.values = values
        for at = 8, #ARGV, 4 do
            local amount, when, value = tonumber(ARGV[at]), min(tonumber(ARGV[at + 1]), date), ARGV[at + 3]
            if amount > 0 and when > now - longest then
                put_value(counter, values, value, when)
            elseif amount < 0 and (since(values, value) or LARGEST) <= when then
                call('ZREM', values, value)
            end
        end
        return 0
    end

    local function replay()
        local counter, marked = read(KEYS[1])
        if marked > number or has(counter, ALL) then
            return {KNOWN}
        elseif marked < tonumber(ARGV[6]) then
            return {LATER}
        end
        local changed = of_values and replay_values(counter) or not of_values and replay_amounts(counter)
        note(counter, changed, 0, ALL) -- whatever of the batch may still be on its way comes too late
        save(counter)
        return {COUNTED}
    end

    -- How much was in the windows; nil: nothing was, or is remembered.
    local function empty_windows(counter)
        local m, total = counter.m, 0
        if m[COUNT] == 0 then
            return nil
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
        return total
    end

    -- Likewise, of different values.
    local function drop_values(counter, values)
        local total = call('TYPE', values).ok == 'zset'
            and call('ZCOUNT', values, '(' .. now - longest_of(counter), '+inf') or 0
        call('DEL', values)
        if #reserved_of(counter) > 0 then
            counter.reserved, counter.is_reserved = {}, true
        end
        return (total > 0 or counter.is_reserved) and total or nil
    end

    local function reset()
        local is_readable, counter = pcall(read, KEYS[1])
        if not is_readable then
            call('DEL', unpack(KEYS)) -- what somebody has put there, or damaged
            return 0
        end
        local total
        if of_values then
            total = drop_values(counter, KEYS[2])
        else
            total = empty_windows(counter)
        end
        if total then
            save(counter)
            call('HSET', counter.key, 'r', date)
        end
        return total or 0
    end

    -- What a copy brings from another database, each second or value once: where "copied" says that it has brought
    -- `old` of one, it is to have brought `new`. How many that changed.
    local function copy()
        local counter, copied, values = read(KEYS[1]), KEYS[2], KEYS[3]
        local longest, noted = longest_of(counter), {}
        counter.values = values
        for at = 6, #ARGV, 3 do
            local what, old, new = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
            if old ~= new and tonumber(call('HGET', copied, what) or 0) == old then
                local when = min(values and new or tonumber(what), date)
                if values and new == 0 then
                    if (since(values, what) or LARGEST) <= old then
                        call('ZREM', values, what)
                    end
                elseif new < old and not values then
                    give_back(counter, now - when, old - new)
                elseif when > now - longest then
                    if values then
                        put_value(counter, values, what, when)
                    else
                        insert(counter, now - when, new - old)
                    end
                end
                noted[#noted + 1], noted[#noted + 2] = what, ARGV[at + 2]
            end
        end
        if #noted > 0 then
            save(counter)
            call('HSET', copied, unpack(noted))
            call('EXPIRE', copied, max(keep, longest, REMEMBERED) + 60)
        end
        return #noted / 2
    end

    local of_counter = {
        replay = replay, ['replay values'] = replay, reset = reset, ['reset values'] = reset, copy = copy,
        ['copy values'] = copy
    }
    if of_counter[ARGV[5]] then
        return of_counter[ARGV[5]]()
    end
end
