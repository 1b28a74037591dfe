//! What the stream removed before the consumer delivered it: by its limits, or because somebody
//! purged or deleted. Pure: from what the server says of stream and consumer, once a second.

/// Positions of stream and consumer, as reported by the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Positions {
    /// First sequence that the stream still has.
    pub(super) first_sequence: u64,
    /// Sequence of the last message that was delivered or passed over.
    pub(super) delivered_sequence: u64,
    /// Deliveries ever, redeliveries included.
    pub(super) deliveries: u64,
    /// Messages that the stream has, the consumer takes, and did not deliver yet.
    pub(super) pending: u64,
    /// The patterns of a consumer that takes some subjects alone; empty if it takes all.
    pub(super) filters: Vec<String>,
    /// Sequence of the next message that such a consumer will deliver, if that is known.
    pub(super) next: Option<u64>,
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
            now.delivered_sequence >= last.delivered_sequence
                && now.deliveries >= last.deliveries
                && now.filters == last.filters
        };
        let last = self.last.take().filter(is_of_same_consumer);
        let more = if now.filters.is_empty() {
            self.of_all(last.as_ref(), &now)
        } else {
            last.map_or(0, |last| of_some(&last, &now))
        };
        self.last = Some(now);
        more
    }

    /// Of a consumer that takes all messages: whatever it did not deliver was removed.
    fn of_all(&mut self, last: Option<&Positions>, now: &Positions) -> u64 {
        if let Some(last) = last {
            let advanced = now.delivered_sequence - last.delivered_sequence;
            let delivered = now.deliveries - last.deliveries;
            self.passed_over += advanced.saturating_sub(delivered);
        } else {
            (self.passed_over, self.said) = (0, 0);
        }
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

/// Of a consumer that takes some subjects alone: it passes over the others, so only what was pending
/// and was not delivered counts. New messages hide some of that, but not that the next one is gone.
fn of_some(last: &Positions, now: &Positions) -> u64 {
    let delivered = now.deliveries - last.deliveries;
    let gone = last.pending.saturating_sub(now.pending + delivered);
    let is_next_gone = last
        .next
        .is_some_and(|next| now.delivered_sequence < next && next < now.first_sequence);
    gone.max(u64::from(is_next_gone))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(first_sequence: u64, delivered_sequence: u64, deliveries: u64) -> Positions {
        Positions {
            first_sequence,
            delivered_sequence,
            deliveries,
            pending: 0,
            filters: Vec::new(),
            next: None,
        }
    }

    fn filtered(delivered_sequence: u64, deliveries: u64, pending: u64) -> Positions {
        Positions {
            pending,
            filters: vec!["events.>".to_owned()],
            ..at(1, delivered_sequence, deliveries)
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

    #[test]
    fn what_a_filter_passes_over_was_not_removed() {
        let mut removed = Removed::default();
        removed.note(filtered(10, 10, 0));
        assert_eq!(removed.note(filtered(1_010, 10, 0)), 0);
        let purged = Positions {
            first_sequence: 2_000,
            ..filtered(1_010, 10, 0)
        };
        assert_eq!(removed.note(purged), 0);
    }

    #[test]
    fn what_was_pending_for_a_filter_and_is_gone_was_removed() {
        let mut removed = Removed::default();
        removed.note(filtered(10, 10, 500));
        assert_eq!(removed.note(filtered(300, 110, 100)), 300);
        assert_eq!(removed.note(filtered(400, 210, 0)), 0);
    }

    #[test]
    fn new_messages_do_not_hide_that_the_next_one_is_gone() {
        let mut removed = Removed::default();
        let next = |first_sequence, next| Positions {
            first_sequence,
            next: Some(next),
            ..filtered(10, 10, 100)
        };
        removed.note(next(1, 12));
        assert_eq!(removed.note(next(12, 12)), 0);
        assert_eq!(removed.note(next(50, 51)), 1);
    }
}
