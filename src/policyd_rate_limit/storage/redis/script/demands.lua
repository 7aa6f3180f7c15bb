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
    if kind == 'explain' or kind == 'explain values' then
        local charge = charges[1]
        local reply = charge.is_distinct and explain_value(charge) or explain(charge)
        charge.counter.is_changed = false -- whatever was passed over
        return reply
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
