//! Which messages of the stream the NATS client can read, because it has, or a search found out: no search
//! looks at them again. Whoever starts anew after the client broke down is told.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Ranges that are kept, the longest ones: replicas that share a consumer each read every second message.
/// As text they fit into an environment variable.
const RANGES_MAX: usize = 2_048;

/// Shared by who reads deliveries, who searches, and who starts the process again.
#[derive(Debug, Default)]
pub(crate) struct KnownReadable(Mutex<ReadableRanges>);

#[derive(Debug, Default)]
struct ReadableRanges {
    /// When the consumer was made, in nanoseconds of the Unix epoch; `None`: not known. Another one may be of
    /// another stream, whose sequences begin again.
    consumer_made: Option<i128>,
    /// [`super::InFlight::consumer_generation`].
    consumer_generation: u64,
    /// First and last sequences, in order, with something between two of them.
    ranges: BTreeMap<u64, u64>,
}

impl KnownReadable {
    /// Nothing but what the process before has said of the same consumer: [`Self::to_text`].
    pub(crate) fn of_consumer(made: i128, said: Option<&str>) -> Self {
        let ranges = said.and_then(|said| parse(said, made)).unwrap_or_default();
        Self(Mutex::new(ReadableRanges {
            consumer_made: Some(made),
            consumer_generation: 0,
            ranges,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, ReadableRanges> {
        // What is there is true after a panic as well.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what was read of the consumer of this generation.
    pub(crate) fn add(&self, sequences: impl Iterator<Item = u64>, consumer_generation: u64) {
        let mut known = self.lock();
        if consumer_generation > known.consumer_generation {
            *known = ReadableRanges {
                consumer_generation,
                ..ReadableRanges::default()
            };
        }
        if consumer_generation < known.consumer_generation {
            return;
        }
        let mut run: Option<RangeInclusive<u64>> = None;
        for sequence in sequences {
            match &mut run {
                Some(run) if run.end() + 1 == sequence => *run = *run.start()..=sequence,
                _ => known.add(run.replace(sequence..=sequence)),
            }
        }
        known.add(run);
    }

    /// What of this range is not known to be readable; of a consumer that was made then.
    pub(crate) fn others(
        &self,
        range: RangeInclusive<u64>,
        consumer_made: i128,
    ) -> Vec<RangeInclusive<u64>> {
        let mut known = self.lock();
        if known
            .consumer_made
            .is_some_and(|made| made != consumer_made)
        {
            known.ranges.clear();
        }
        known.consumer_made = Some(consumer_made);
        // Nobody asks for what is acknowledged again.
        known.ranges.retain(|_, last| *last >= *range.start());
        let mut others = Vec::new();
        let mut next = *range.start();
        for (first, last) in known.ranges.range(..=*range.end()) {
            if next < *first {
                others.push(next..=first - 1);
            }
            next = next.max(last + 1);
        }
        if next <= *range.end() {
            others.push(next..=*range.end());
        }
        others
    }

    /// For a process that goes on in place of this one.
    pub(crate) fn to_text(&self) -> String {
        let mut known = self.lock();
        known.keep_longest();
        let Some(made) = known.consumer_made else {
            return String::new();
        };
        let mut text = format!("{made}");
        for (first, last) in &known.ranges {
            write!(text, ",{first}-{last}").expect("a String takes every write");
        }
        text
    }
}

impl ReadableRanges {
    fn add(&mut self, run: Option<RangeInclusive<u64>>) {
        let Some((mut first, mut last)) = run.map(RangeInclusive::into_inner) else {
            return;
        };
        // Ranges that touch it, from the last one on.
        while let Some((&start, &end)) = self.ranges.range(..=last.saturating_add(1)).next_back() {
            if end.saturating_add(1) < first {
                break;
            }
            (first, last) = (first.min(start), last.max(end));
            self.ranges.remove(&start);
        }
        self.ranges.insert(first, last);
        if self.ranges.len() > 2 * RANGES_MAX {
            self.keep_longest();
        }
    }

    fn keep_longest(&mut self) {
        if self.ranges.len() <= RANGES_MAX {
            return;
        }
        let mut ranges: Vec<(u64, u64)> = std::mem::take(&mut self.ranges).into_iter().collect();
        ranges.sort_unstable_by_key(|(first, last)| std::cmp::Reverse(last - first));
        ranges.truncate(RANGES_MAX);
        self.ranges = ranges.into_iter().collect();
    }
}

/// `None` for what is no such text, or of another consumer.
fn parse(text: &str, consumer_made: i128) -> Option<BTreeMap<u64, u64>> {
    let mut parts = text.split(',');
    let is_same = parts.next()?.parse() == Ok(consumer_made);
    let range = |part: &str| {
        let (first, last) = part.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    is_same.then(|| parts.map(range).collect())?
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const MADE: i128 = 7;

    fn all(ranges: Vec<RangeInclusive<u64>>) -> BTreeSet<u64> {
        ranges.into_iter().flatten().collect()
    }

    proptest! {
        #[test]
        fn what_was_read_is_never_looked_at_and_all_else_is(
            read in prop::collection::vec(prop::collection::vec(1u64..60, 0..12), 0..12),
            floor in 0u64..60,
        ) {
            let readable = KnownReadable::of_consumer(MADE, None);
            for pull in &read {
                readable.add(pull.iter().copied(), 0);
            }
            let read: BTreeSet<u64> = read.into_iter().flatten().collect();
            let expected: BTreeSet<u64> = (floor + 1..=70).filter(|n| !read.contains(n)).collect();
            let text = readable.to_text();
            prop_assert_eq!(all(readable.others(floor + 1..=70, MADE)), expected.clone());
            let next = KnownReadable::of_consumer(MADE, Some(&text));
            prop_assert_eq!(all(next.others(floor + 1..=70, MADE)), expected);
        }
    }

    #[test]
    fn another_consumer_has_other_messages() {
        let all = |readable: &KnownReadable, made| readable.others(1..=3, made) == [1..=3];
        let readable = KnownReadable::of_consumer(MADE, Some("7,1-3"));
        assert!(readable.others(1..=3, MADE).is_empty());
        assert!(all(&readable, MADE + 1));
        readable.add(1..=3, 1);
        assert!(
            readable.others(1..=3, MADE + 2).is_empty(),
            "the first that is known of it"
        );
        readable.add(1..=3, 2);
        readable.add(4..=5, 1);
        assert_eq!(readable.others(1..=5, MADE + 3), [4..=5]);
        for said in ["", "x", "7,1", "7,1-x", "6,1-3", "7 1-3"] {
            assert!(
                all(&KnownReadable::of_consumer(MADE, Some(said)), MADE),
                "{said}"
            );
        }
    }

    #[test]
    fn ranges_are_bounded_and_the_longest_ones_stay() {
        let readable = KnownReadable::of_consumer(MADE, None);
        readable.add(1..=1_000_000, 0);
        readable.add((1_000_002..1_100_000).step_by(2), 0);
        let text = readable.to_text();
        // The limit of Linux for one variable.
        assert!(text.len() < 128 * 1_024, "{}", text.len());
        let next = KnownReadable::of_consumer(MADE, Some(&text));
        assert_eq!(next.others(1..=1_000_001, MADE), [1_000_001..=1_000_001]);
    }
}
