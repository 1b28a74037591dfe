//! What the stream removed before the consumer delivered it: by its limits, or because somebody
//! purged or deleted. Pure: from what the server says of stream and consumer, once a second.

/// Positions of stream and consumer, as reported by the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Positions {
    /// First sequence that the stream still has.
    pub(super) first_sequence: u64,
    /// Sequence of the last message that was delivered or passed over.
    pub(super) delivered_sequence: u64,
    /// Deliveries ever, redeliveries included.
    pub(super) deliveries: u64,
}

/// Counts messages that the stream removed undelivered. The server does not tell redeliveries from
/// skipped messages, so it may count too few.
#[derive(Debug, Default)]
pub(super) struct Removed {
    last: Option<Positions>,
    /// Passed over since the first answer.
    passed_over: u64,
    /// Already reported.
    said: u64,
}

impl Removed {
    /// Returns how many more were removed, as of these positions.
    pub(super) fn note(&mut self, now: Positions) -> u64 {
        // Sequences go back only where stream or consumer was made anew.
        let is_of_same_consumer = |last: &Positions| {
            now.delivered_sequence >= last.delivered_sequence && now.deliveries >= last.deliveries
        };
        if let Some(last) = self.last.filter(is_of_same_consumer) {
            let advanced = now.delivered_sequence - last.delivered_sequence;
            let delivered = now.deliveries - last.deliveries;
            self.passed_over += advanced.saturating_sub(delivered);
        } else {
            (self.passed_over, self.said) = (0, 0);
        }
        self.last = Some(now);
        // Those that are missing right behind the last delivery will be passed over next.
        let missing = now
            .first_sequence
            .saturating_sub(now.delivered_sequence + 1);
        let removed = self.passed_over + missing;
        let more = removed.saturating_sub(self.said);
        self.said += more;
        more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(first_sequence: u64, delivered_sequence: u64, deliveries: u64) -> Positions {
        Positions {
            first_sequence,
            delivered_sequence,
            deliveries,
        }
    }

    #[test]
    fn what_is_missing_behind_the_last_delivery_counts_at_once_and_once() {
        let mut removed = Removed::default();
        assert_eq!(removed.note(at(1, 10, 10)), 0);
        assert_eq!(removed.note(at(8, 10, 10)), 0, "delivered before");
        assert_eq!(removed.note(at(16, 10, 10)), 5);
        assert_eq!(removed.note(at(21, 10, 10)), 5);
        // Delivery goes on at 21: what it passes over was counted.
        assert_eq!(removed.note(at(21, 30, 20)), 0);
        assert_eq!(removed.note(at(41, 45, 30)), 5, "between two answers");
    }

    #[test]
    fn what_is_missing_at_the_first_answer_counts() {
        assert_eq!(Removed::default().note(at(101, 0, 0)), 100);
    }

    #[test]
    fn another_consumer_begins_anew() {
        let mut removed = Removed::default();
        removed.note(at(1, 500, 500));
        assert_eq!(removed.note(at(100, 99, 0)), 0);
        assert_eq!(removed.note(at(102, 99, 0)), 2);
    }

    #[test]
    fn redeliveries_are_not_removals() {
        let mut removed = Removed::default();
        removed.note(at(1, 10, 10));
        assert_eq!(removed.note(at(1, 12, 40)), 0);
    }
}
