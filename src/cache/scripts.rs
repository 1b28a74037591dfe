//! The two scripts. Only commands that Redis and Dragonfly share, and every key declared.

use redis::Script;

/// The scripts with their hashes. A server that does not know one is sent it.
pub(super) struct Scripts {
    /// KEYS: subjects' keys. ARGV: for each its new state, or nothing if it must go.
    /// Replaces older states, removes leases and answers that there is no event; makes no key. The time to live goes on, so that
    /// what is written and never read leaves the cache in the end.
    pub(super) replace: Script,
    /// KEYS: one key. ARGV: the caller's lease, the value to put in its place (or nothing, to
    /// give the lease back), milliseconds to live (or nothing: until the lease would have ended).
    /// Does nothing when a write has removed the lease.
    pub(super) settle: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        let last = super::keys::ORDER_BYTES - 1;
        let replace = format!(
            "for i, key in ipairs(KEYS) do
               local new = ARGV[i]
               local old = redis.call('GETRANGE', key, 0, {last})
               if old ~= '' then
                 if new == '' or string.sub(old, 1, 1) ~= 'V' then
                   redis.call('DEL', key)
                 elseif old < string.sub(new, 1, {last} + 1) then
                   redis.call('SET', key, new, 'KEEPTTL')
                 end
               end
             end
             return 1"
        );
        let settle = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
             if ARGV[2] == '' then
               redis.call('DEL', KEYS[1])
               return 1
             end
             local left = ARGV[3]
             if left == '' then
               left = redis.call('PTTL', KEYS[1])
               if left <= 0 then return 0 end
             end
             redis.call('SET', KEYS[1], ARGV[2], 'PX', left)
             return 1";
        Self {
            replace: Script::new(&replace),
            settle: Script::new(settle),
        }
    }
}
