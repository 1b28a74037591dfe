//! How many traces may be kept in a second.

/// A token bucket that holds the traces of one second. The lower half of it is for urgent
/// ones alone: others take only what is above, however many they are.
#[derive(Debug)]
pub(crate) struct Budget {
    /// Tokens that come back in a second; a full bucket holds as many.
    per_second: u64,
    /// In billionths of a token: what comes back in a nanosecond is a whole number of them.
    level: u64,
    filled_at_nanos: u64,
}

const TOKEN: u64 = 1_000_000_000;

impl Budget {
    pub(crate) fn new(per_second: u32, now_nanos: u64) -> Self {
        let per_second = u64::from(per_second);
        Self {
            per_second,
            level: per_second * TOKEN,
            filled_at_nanos: now_nanos,
        }
    }

    /// Takes a token, if there is one for it.
    pub(crate) fn take(&mut self, urgent: bool, now_nanos: u64) -> bool {
        let elapsed = now_nanos.saturating_sub(self.filled_at_nanos);
        self.filled_at_nanos = self.filled_at_nanos.max(now_nanos);
        let gained = elapsed.saturating_mul(self.per_second);
        self.level = self
            .level
            .saturating_add(gained)
            .min(self.per_second * TOKEN);
        // Rounded down, so that a budget of one is not reserved altogether.
        let reserved = if urgent { 0 } else { self.per_second / 2 };
        let Some(left) = self.level.checked_sub(TOKEN) else {
            return false;
        };
        if left < reserved * TOKEN {
            return false;
        }
        self.level = left;
        true
    }
}
