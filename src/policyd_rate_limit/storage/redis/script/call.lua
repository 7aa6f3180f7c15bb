-- Decides on the server, in one step, what some demands ask; keys.py says what the keys are. What a call is, and what all
-- of it knows; source.py puts the constants in place of their names.
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
local REMEMBERED_TEXT = '900' -- as an argument: to write a number costs a third of a command
local LONGEST_VALUE = 64 -- bytes that Redis' default, hash-max-listpack-value, has lie close together
local MANY = 64 -- events to have passed over before a refusal is worth a write
local MANY_MARKS = 16 -- to look for old ones
local LANES = 2 -- as LANES of keys.py: batches whose numbers differ by less may be in flight together
local CHUNK = 1000 -- arguments that unpack() may put on Lua's stack
local PAIR = '\146' -- an array of two in MessagePack, and they behind it
local ALL = 1099511627776 -- beyond the place of any demand
local LARGEST = 9007199254740992 -- beyond any date
local OF_VALUES = 4 -- flag of a charge

local KEYS, ARGV = KEYS, ARGV -- or they would be looked for among all that is global, each time
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
