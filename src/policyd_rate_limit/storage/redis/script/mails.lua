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
            counter.slot = {name, field, amount, when}
            write(counter, 'x', packed .. char(#field) .. field .. name)
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
