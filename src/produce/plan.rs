//! What message number n of a run is: a new event, one once more, or none.

use super::messages::{Flaw, Recipe, Variant};
use super::random::{Purpose, Random};
use super::recent::Recent;
use crate::event::Timestamp;

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
            let variant = Variant::Invalid(random.pick(&Flaw::ALL));
            return Recipe { variant, ..new };
        }
        if share >= self.invalid + self.duplicates {
            return new;
        }
        recent.pick(&mut random).map_or(new, |original| Recipe {
            number,
            event: original.event,
            time: original.time,
            variant: Variant::Duplicate,
        })
    }
}
