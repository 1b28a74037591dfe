//! Judges reads of newest states.
//!
//! P5 says: a read that starts a second after an event was acknowledged never gets
//! an older state of its subject. A producer does not see when the service
//! acknowledges. What it sees is the service's own answers: a state that a read
//! returned was stored by then, so no read that starts a second after that one
//! ended may return an older state. Those that do are stale. (Stricter than P5 by
//! the moment between commit and acknowledgement, in which a state can be read
//! already.) A service that never shows the newest events breaks no such rule,
//! hence the second figure: for how long, when a read began, the stream had held
//! an event of the subject that is newer than the answer.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::event::Timestamp;

/// From the end of one read to the start of one that must not return less.
pub const SETTLED_AFTER: Duration = Duration::from_secs(1);
/// Only the busiest subjects are watched and read, so that memory has a limit.
pub const WATCHED_SUBJECTS: u32 = 10_000;
/// Events of a subject that are remembered until a read shows them.
const UNSHOWN_MAX: usize = 64;

/// What is known of one subject. Times that are [`Duration`]s are since the start
/// of the run; [`Timestamp`]s are the events' own.
#[derive(Debug, Default)]
struct Subject {
    /// Stored in the stream, and not shown by a read so far: event time, and when
    /// the stream's acknowledgement came.
    unshown: VecDeque<(Timestamp, Duration)>,
    /// The newest state that was returned by a read that ended a second ago.
    settled: Option<Timestamp>,
    /// States returned since, with the times at which those reads ended.
    young: VecDeque<(Duration, Timestamp)>,
}

/// What one read has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it returned less than it had to.
    pub stale: bool,
    /// For how long the oldest event that it did not show had been in the stream
    /// when it began; zero when it showed all.
    pub staleness: Duration,
}

/// What a read has to show, fixed when it starts.
#[derive(Debug, Clone, Copy)]
pub struct Begun {
    rank: u32,
    started: Duration,
    at_least: Option<Timestamp>,
}

/// The watched subjects, by rank.
#[derive(Debug, Default)]
pub struct Freshness {
    subjects: HashMap<u32, Subject>,
}

impl Freshness {
    /// The stream acknowledged an event of the subject at `now`.
    pub fn acknowledged(&mut self, rank: u32, time: Timestamp, now: Duration) {
        if rank >= WATCHED_SUBJECTS {
            return;
        }
        let unshown = &mut self.subjects.entry(rank).or_default().unshown;
        if unshown.len() == UNSHOWN_MAX {
            // The oldest ones say how stale an answer is; the newest one, that it is.
            unshown.pop_back();
        }
        unshown.push_back((time, now));
    }

    /// A read of the subject starts at `now`.
    pub fn begin(&mut self, rank: u32, now: Duration) -> Begun {
        let subject = self.subjects.entry(rank).or_default();
        while let Some((ended, time)) = subject.young.front().copied()
            && ended + SETTLED_AFTER <= now
        {
            subject.young.pop_front();
            subject.settled = subject.settled.max(Some(time));
        }
        Begun {
            rank,
            started: now,
            at_least: subject.settled,
        }
    }

    /// The read ended at `now` with a state of that time, or with none at all.
    pub fn end(&mut self, read: &Begun, answer: Option<Timestamp>, now: Duration) -> Verdict {
        let subject = self.subjects.entry(read.rank).or_default();
        let staleness = subject
            .unshown
            .iter()
            .filter(|(time, acknowledged)| Some(*time) > answer && *acknowledged <= read.started)
            .map(|(_, acknowledged)| read.started.saturating_sub(*acknowledged))
            .max();
        subject.unshown.retain(|(time, _)| Some(*time) > answer);
        subject.young.extend(answer.map(|time| (now, time)));
        Verdict {
            stale: answer < read.at_least,
            staleness: staleness.unwrap_or_default(),
        }
    }
}
