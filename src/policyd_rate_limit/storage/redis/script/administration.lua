-- What administrators are told, and do: hits, blocks, the hit history, the audit trail --------------------------------

if ARGV[5] and not tonumber(ARGV[5]) then
    local function add_hits()
        local key = KEYS[1]
        if call('HGET', key, '') == ARGV[6] then
            return {COUNTED}
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
        call('HSET', key, '', ARGV[6])
        return {COUNTED}
    end

    -- Puts in force what daemons block, but where an override is in force, or has been meanwhile.
    local function add_blocks()
        local key, moment, has_changed = KEYS[1], tonumber(ARGV[6]), false
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
        return {COUNTED}
    end

    -- Adds rows to the hit history of an hour, or has those of a copy be there; how many hits that are. For whom there
    -- is no room goes to the row of the others.
    local function add_history()
        local key, index, is_copy = KEYS[1], KEYS[2], ARGV[5] == 'bring history'
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
    local function enter()
        local trail, changed, first = KEYS[1], KEYS[2], ARGV[5] == 'audit' and 7 or 9
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
    local function bring_audit()
        local trail = KEYS[1]
        local new, number = 0, tonumber(call('HGET', trail, '') or 0)
        for at = 6, #ARGV, 3 do
            if tonumber(ARGV[at + 1]) > tonumber(call('HGET', trail, ARGV[at]) or 0) then
                new, number = new + 1, number + 1
                call('HSET', trail, number, ARGV[at + 2], '', number, ARGV[at], ARGV[at + 1])
            end
        end
        return new
    end

    return ({
        hits = add_hits, block = add_blocks, history = add_history, ['bring history'] = add_history, audit = enter,
        ['audit if'] = enter, ['bring audit'] = bring_audit
    })[ARGV[5]]()
end
