//! The events that were acknowledged lately: what duplicates repeat and reads ask for.

use super::random::Random;
use crate::event::Timestamp;

/// Enough to reach back over several batches of the service.
const KEPT: u32 = 65_536;
/// Half of the picks are among so many newest ones: most duplicates in the world
/// follow their original closely.
const NEWEST: u32 = 64;

/// One acknowledged event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Its number in the run.
    pub event: u64,
    /// When it happened.
    pub time: Timestamp,
}

/// A ring of fixed size.
#[derive(Debug, Default)]
pub struct Recent {
    ring: Vec<Sent>,
    next: u32,
}

impl Recent {
    /// Remembers one, in place of the oldest when full.
    pub fn push(&mut self, sent: Sent) {
        let next = usize::try_from(self.next).expect("less than KEPT");
        match self.ring.get_mut(next) {
            Some(oldest) => *oldest = sent,
            None => self.ring.push(sent),
        }
        self.next = (self.next + 1) % KEPT;
    }

    /// All of them, oldest first while the ring is not full.
    pub(super) fn all(&self) -> &[Sent] {
        &self.ring
    }

    /// One of them, as likely among the newest as among all; none while empty.
    pub(super) fn pick(&self, random: &mut Random) -> Option<Sent> {
        let held = u32::try_from(self.ring.len()).expect("at most KEPT");
        if held == 0 {
            return None;
        }
        let reach = if random.below(2) == 0 { NEWEST } else { held };
        let back = 1 + random.below(reach.min(held));
        let index = (self.next + held - back) % held;
        self.ring.get(usize::try_from(index).ok()?).copied()
    }
}
