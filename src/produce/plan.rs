//! What message number n of a run is: a new event, one once more, or none.

use std::collections::VecDeque;

use strum::VariantArray as _;

use super::messages::{Flaw, Recipe, Variant};
use super::random::{Purpose, Random};
use crate::event::Timestamp;

/// Enough to reach back over several batches of the service.
const RECENT_MAX: usize = 65_536;
/// Half of the picks are among so many newest ones: most duplicates in the world
/// follow their original closely.
const NEWEST: u32 = 64;

/// The shares of the run's messages.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    seed: u64,
    duplicates: f64,
    invalid: f64,
}

impl Plan {
    /// A plan with these percentages.
    pub fn new(seed: u64, duplicates_percent: f64, invalid_percent: f64) -> Self {
        Self {
            seed,
            duplicates: duplicates_percent / 100.0,
            invalid: invalid_percent / 100.0,
        }
    }

    /// Message `number`, sent at `now`. Its kind follows from the seed; which
    /// event a duplicate repeats also depends on what `recent` holds, because only
    /// an acknowledged event is repeated: so the count of distinct events is
    /// exact whatever fails. While there is none yet, a new event takes its place.
    pub fn recipe(&self, number: u64, now: Timestamp, recent: &Recent) -> Recipe {
        let mut random = Random::new(self.seed, number, Purpose::Plan);
        let share = random.unit();
        let new = Recipe {
            number,
            event: number,
            time: now,
            variant: Variant::New,
        };
        if share < self.invalid {
            let variant = Variant::Invalid(random.pick(Flaw::VARIANTS));
            return Recipe { variant, ..new };
        }
        if share >= self.invalid + self.duplicates {
            return new;
        }
        recent.pick(&mut random).map_or(new, |original| Recipe {
            number,
            variant: Variant::Duplicate,
            ..original
        })
    }
}

/// The events that were acknowledged lately, oldest first.
#[derive(Debug, Default)]
pub struct Recent(VecDeque<Recipe>);

impl Recent {
    /// Remembers one, in place of the oldest when full.
    pub fn push(&mut self, event: Recipe) {
        if self.0.len() == RECENT_MAX {
            self.0.pop_front();
        }
        self.0.push_back(event);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Recipe> {
        self.0.iter()
    }

    /// One of them, as likely among the newest as among all; none while empty.
    fn pick(&self, random: &mut Random) -> Option<Recipe> {
        let held = u32::try_from(self.0.len()).expect("at most RECENT_MAX");
        if held == 0 {
            return None;
        }
        let reach = if random.below(2) == 0 { NEWEST } else { held };
        let newer = usize::try_from(random.below(reach.min(held))).expect("less than RECENT_MAX");
        self.0.get(self.0.len() - 1 - newer).copied()
    }
}
