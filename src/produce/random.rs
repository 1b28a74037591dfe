//! Pseudo-random numbers that stay the same for a seed, on every machine and in
//! every release: the library generators promise that for none of theirs.

/// The purpose of a draw. Each has numbers of its own, so that one more draw for the body does not
/// change which messages are duplicates.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    Plan = 1,
    Subject = 2,
    Content = 3,
    Trace = 4,
}

/// `SplitMix64` (Steele, Lea and Flood, 2014): a few instructions a number, and
/// cheap to start afresh for each message.
#[derive(Debug)]
pub(super) struct Random(u64);

const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

impl Random {
    /// The numbers of message `number` for one purpose.
    pub(super) fn new(seed: u64, number: u64, purpose: Purpose) -> Self {
        let start = mix(seed ^ mix(purpose as u64));
        Self(start ^ mix(number.wrapping_mul(GOLDEN_GAMMA)))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN_GAMMA);
        mix(self.0)
    }

    fn high(&mut self) -> u32 {
        u32::try_from(self.next() >> 32).expect("the upper half has 32 bits")
    }

    /// From 0 up to, but not including, `limit`.
    pub(super) fn below(&mut self, limit: u32) -> u32 {
        let scaled = u64::from(self.high()) * u64::from(limit);
        u32::try_from(scaled >> 32).expect("less than a limit of 32 bits")
    }

    /// From `low` to `high`, both included.
    pub(super) fn between(&mut self, low: u32, high: u32) -> u32 {
        low + self.below(high - low + 1)
    }

    /// From 0 up to, but not including, 1.
    pub(super) fn unit(&mut self) -> f64 {
        f64::from(self.high()) / (f64::from(u32::MAX) + 1.0)
    }

    /// One of the choices, which must not be empty.
    pub(super) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        let count = u32::try_from(choices.len()).expect("a short list of ours");
        let index = usize::try_from(self.below(count)).expect("an index of that list");
        choices[index]
    }
}

fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
