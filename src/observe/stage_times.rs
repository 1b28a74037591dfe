//! Where a settled message was when: the stages that it passed, one after the other and
//! without a gap, so that their durations add up to its whole time.

use crate::event::Timestamp;
use crate::labels::Stage;
use crate::message::timings::Moment;
use strum::VariantArray as _;

/// Ends of the stages in flow order, as marks ([`crate::message::timings::now_nanos`]); 0 where the
/// message has not been.
pub(crate) type Marks = [u64; Stage::VARIANTS.len()];

/// The stages of one message, in nanoseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageTimes {
    began: u64,
    /// 0 where the message has not been.
    ends: Marks,
}

/// One stage that a message passed. Nanoseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Passed {
    pub(crate) stage: Stage,
    /// When the message came to it: the end of the stage before.
    pub(crate) began: u64,
    /// When the message left it; never before it came.
    pub(crate) ended: u64,
}

impl Passed {
    pub(crate) fn nanos(&self) -> u64 {
        self.ended - self.began
    }

    pub(crate) fn seconds(&self) -> f64 {
        seconds(self.nanos())
    }
}

impl StageTimes {
    /// Converts marks by `moment`. The first stage begins when the stream stored the message; if
    /// the stream's clock is ahead, when the source received it.
    pub fn new(published_at: Timestamp, marks: &Marks, moment: &Moment) -> Self {
        let received = moment.unix_nanos(marks[Stage::Stream as usize]);
        let began = unix_nanos(published_at).min(received);
        let mut ends = [0; Stage::VARIANTS.len()];
        let mut last = began;
        for (end, mark) in ends.iter_mut().zip(marks) {
            if *mark != 0 {
                last = last.max(moment.unix_nanos(*mark));
                *end = last;
            }
        }
        Self { began, ends }
    }

    /// When the stream stored the message; when the source received it, if the stream's clock is
    /// ahead.
    pub(crate) fn began(&self) -> u64 {
        self.began
    }

    pub(crate) fn ended(&self) -> u64 {
        self.ends[Stage::Settle as usize]
    }

    pub(crate) fn longest(&self) -> Option<Passed> {
        self.passed().max_by_key(Passed::nanos)
    }

    /// From the stream's timestamp to the settlement.
    pub(crate) fn total_nanos(&self) -> u64 {
        self.ended().saturating_sub(self.began)
    }

    /// From the stream's timestamp to the end of a stage; `None` where the message has not been.
    pub(crate) fn seconds_until_end_of(&self, stage: Stage) -> Option<f64> {
        let end = self.ends[stage as usize];
        (end != 0).then(|| seconds(end - self.began))
    }

    pub(crate) fn passed(&self) -> impl Iterator<Item = Passed> {
        let mut last = self.began;
        Stage::VARIANTS
            .iter()
            .copied()
            .zip(self.ends)
            .filter(|(_, end)| *end != 0)
            .map(move |(stage, ended)| {
                let began = std::mem::replace(&mut last, ended);
                Passed {
                    stage,
                    began,
                    ended,
                }
            })
    }
}

/// Nanoseconds by which the stream's clock was ahead when a message arrived.
pub(crate) fn skew_nanos(published_at: Timestamp, received_mark: u64, moment: &Moment) -> u64 {
    unix_nanos(published_at).saturating_sub(moment.unix_nanos(received_mark))
}

#[allow(clippy::cast_precision_loss, reason = "nanoseconds of 100 days fit")]
pub(crate) fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

fn unix_nanos(timestamp: Timestamp) -> u64 {
    u64::try_from(timestamp.micros())
        .unwrap_or(0)
        .saturating_mul(1_000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn in_the_past(moment: &Moment, nanos: u64) -> Timestamp {
        Timestamp::from_nanos(i128::from(moment.unix_nanos(moment.monotonic()) - nanos))
    }

    proptest! {
        #[test]
        fn stages_leave_no_gap_and_add_up(
            waited in 0..10_000_000_000u64,
            steps in prop::array::uniform6(0..5_000_000_000u64),
            skipped in prop::array::uniform4(any::<bool>()),
            ahead in any::<bool>(),
        ) {
            let moment = Moment::now();
            let mut mark = 1;
            let mut marks = [0; 6];
            for (i, step) in steps.iter().enumerate() {
                mark += step;
                let passed = i == 0 || i == 5 || !skipped[i - 1];
                marks[i] = if passed { mark } else { 0 };
            }
            let published_at = if ahead {
                Timestamp::from_micros(Timestamp::now().micros() + 3_600_000_000)
            } else {
                in_the_past(&moment, waited)
            };
            let times = StageTimes::new(published_at, &marks, &moment);
            let passed: Vec<Passed> = times.passed().collect();
            prop_assert_eq!(passed[0].began, times.began());
            prop_assert_eq!(passed[passed.len() - 1].ended, times.ended());
            for pair in passed.windows(2) {
                prop_assert_eq!(pair[0].ended, pair[1].began);
            }
            let sum: u64 = passed.iter().map(Passed::nanos).sum();
            prop_assert_eq!(sum, times.total_nanos());
            let expected = marks.iter().filter(|mark| **mark != 0).count();
            prop_assert_eq!(passed.len(), expected);
        }
    }
}
