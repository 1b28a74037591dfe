//! Judges reads of newest states.
//!
//! P5 says: a read that starts a second after an event was acknowledged never gets
//! an older state of its subject. Those that do are stale. What the service has
//! acknowledged is what the server says of its consumer: every message up to the
//! acknowledgement floor. (A state can be read earlier, from its commit on, and for
//! a moment an older one again: that is no stale read. An acknowledged message that
//! became a dead letter is taken for an event all the same.) A service that never
//! acknowledges breaks no such rule, hence the second figure: for how long, when a
//! read began, the stream had held an event of the subject that is newer than the
//! answer.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::event::Timestamp;

/// From an acknowledgement to the start of a read that must not return less.
pub(crate) const SETTLED_AFTER: Duration = Duration::from_secs(1);
/// Only the busiest subjects are watched and read, so that memory has a limit.
pub(crate) const WATCHED_SUBJECTS: u32 = 10_000;
/// Events of a subject that are remembered until a read shows them.
const UNSHOWN_MAX: usize = 64;
/// Events of a subject that are remembered until the service has acknowledged them:
/// those of some seconds, of the busiest one.
const STORED_MAX: usize = 1_024;

/// The state of one subject. Times that are [`Duration`]s are since the start of the run;
/// [`Timestamp`]s are the events' own.
#[derive(Debug, Default)]
struct Subject {
    /// Stored in the stream, and not shown by a read so far: event time, and when
    /// the stream's acknowledgement came.
    unshown: VecDeque<(Timestamp, Duration)>,
    /// Stored in the stream, and not known to be acknowledged for a second: sequence
    /// there, and event time.
    stored: VecDeque<(u64, Timestamp)>,
    /// The newest event that was acknowledged a second ago.
    settled: Option<Timestamp>,
}

/// The result of one read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadVerdict {
    /// Whether it returned less than it had to.
    pub stale: bool,
    /// For how long the oldest event that it did not show had been in the stream
    /// when it began; zero when it showed all.
    pub staleness: Duration,
}

/// The least that a read has to show, fixed when it starts.
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
    /// The consumer's acknowledgement floors lately, and when they were known.
    floors: VecDeque<(Duration, u64)>,
    /// The one of a second ago.
    settled_floor: u64,
}

impl Freshness {
    /// The stream acknowledged at `now` that it holds an event of the subject, at this
    /// sequence.
    pub fn stored(&mut self, rank: u32, time: Timestamp, sequence: u64, now: Duration) {
        if rank >= WATCHED_SUBJECTS {
            return;
        }
        let subject = self.subjects.entry(rank).or_default();
        // The oldest ones say how stale an answer is; the newest one, that it is.
        push_newest(&mut subject.unshown, UNSHOWN_MAX, (time, now));
        push_newest(&mut subject.stored, STORED_MAX, (sequence, time));
    }

    /// At `now` the server said that the service has acknowledged every message up to
    /// this sequence.
    pub fn acknowledged(&mut self, floor: u64, now: Duration) {
        self.floors.push_back((now, floor));
    }

    /// A read of the subject starts at `now`.
    pub fn begin(&mut self, rank: u32, now: Duration) -> Begun {
        while let Some((known, floor)) = self.floors.front().copied()
            && known + SETTLED_AFTER <= now
        {
            self.floors.pop_front();
            self.settled_floor = floor;
        }
        let subject = self.subjects.entry(rank).or_default();
        while let Some((sequence, time)) = subject.stored.front().copied()
            && sequence <= self.settled_floor
        {
            subject.stored.pop_front();
            subject.settled = subject.settled.max(Some(time));
        }
        Begun {
            rank,
            started: now,
            at_least: subject.settled,
        }
    }

    /// The read ended with a state of that time, or with none at all.
    pub fn end(&mut self, read: &Begun, answer: Option<Timestamp>) -> ReadVerdict {
        let subject = self.subjects.entry(read.rank).or_default();
        let staleness = subject
            .unshown
            .iter()
            .filter(|(time, acknowledged)| Some(*time) > answer && *acknowledged <= read.started)
            .map(|(_, acknowledged)| read.started.saturating_sub(*acknowledged))
            .max();
        subject.unshown.retain(|(time, _)| Some(*time) > answer);
        ReadVerdict {
            stale: answer < read.at_least,
            staleness: staleness.unwrap_or_default(),
        }
    }
}

fn push_newest<T>(remembered: &mut VecDeque<T>, max: usize, newest: T) {
    if remembered.len() == max {
        remembered.pop_back();
    }
    remembered.push_back(newest);
}
