//! The messages that wait for their acknowledgement: a slab of fixed size.

use std::time::Duration;

use super::messages::Recipe;

/// Without an acknowledgement a message is sent again after this time, under the
/// same `Nats-Msg-Id`.
pub const ACK_TIMEOUT: Duration = Duration::from_secs(5);
/// After this time it has failed. Shorter than the two minutes in which a stream
/// drops a second message of the same `Nats-Msg-Id` unless told otherwise.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(90);
/// The pause after the server refused.
const REFUSED_PAUSE: Duration = Duration::from_millis(500);

/// Names a pending message in the subject that its acknowledgement comes to. The
/// generation tells it from others that used its place before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    place: u32,
    generation: u32,
}

impl Token {
    /// As the last part of a subject.
    pub fn to_text(self) -> String {
        format!("{:x}-{:x}", self.place, self.generation)
    }

    /// From the last part of a subject.
    pub fn parse(text: &str) -> Option<Self> {
        let (place, generation) = text.split_once('-')?;
        Some(Self {
            place: u32::from_str_radix(place, 16).ok()?,
            generation: u32::from_str_radix(generation, 16).ok()?,
        })
    }
}

/// A message that waits. Times are since the start of the run.
#[derive(Debug, Clone, Copy)]
pub struct Waiting {
    /// What was sent.
    pub recipe: Recipe,
    /// When it was due: its latency counts from here.
    pub scheduled: Duration,
    /// When it was sent, the first time.
    pub first_sent: Duration,
    retry_at: Duration,
}

/// What to do about a message that was not acknowledged.
#[derive(Debug, Clone, Copy)]
pub enum Overdue {
    /// Send it again.
    Retry(Token, Recipe),
    /// It has failed, and is forgotten.
    Failed(Waiting),
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    waiting: Option<Waiting>,
}

/// The slab.
#[derive(Debug)]
pub struct Pending {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Pending {
    /// Room for so many messages.
    pub fn new(capacity: usize) -> Self {
        let places = u32::try_from(capacity).expect("options limit the acknowledgements in flight");
        Self {
            slots: (0..places).map(|_| Slot::default()).collect(),
            free: (0..places).rev().collect(),
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there is no room.
    pub fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Takes room for a message that is sent `now`; `None` when there is none.
    pub fn insert(&mut self, recipe: Recipe, scheduled: Duration, now: Duration) -> Option<Token> {
        let place = self.free.pop()?;
        let slot = slot_mut(&mut self.slots, place)?;
        slot.waiting = Some(Waiting {
            recipe,
            scheduled,
            first_sent: now,
            retry_at: now + ACK_TIMEOUT,
        });
        Some(Token {
            place,
            generation: slot.generation,
        })
    }

    /// The message that was acknowledged; `None` when it was before, or has failed.
    pub fn remove(&mut self, token: Token) -> Option<Waiting> {
        let slot = self.current(token)?;
        let waiting = slot.waiting.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(token.place);
        Some(waiting)
    }

    /// The server refused the message: it is sent again soon.
    pub fn refused(&mut self, token: Token, now: Duration) {
        if let Some(waiting) = self.current(token).and_then(|slot| slot.waiting.as_mut()) {
            waiting.retry_at = now + REFUSED_PAUSE;
        }
    }

    /// The connection broke: what was sent until `now` may be lost.
    pub fn retry_all(&mut self, now: Duration) {
        for slot in &mut self.slots {
            if let Some(waiting) = &mut slot.waiting {
                waiting.retry_at = waiting.retry_at.min(now);
            }
        }
    }

    /// Every message whose time has come; it gets another [`ACK_TIMEOUT`].
    pub fn overdue(&mut self, now: Duration) -> Vec<Overdue> {
        let mut overdue = Vec::new();
        for (place, slot) in (0..).zip(&mut self.slots) {
            let Some(waiting) = &mut slot.waiting else {
                continue;
            };
            if now.saturating_sub(waiting.first_sent) >= GIVE_UP_AFTER {
                overdue.push(Overdue::Failed(*waiting));
                slot.waiting = None;
                slot.generation = slot.generation.wrapping_add(1);
                self.free.push(place);
            } else if waiting.retry_at <= now {
                waiting.retry_at = now + ACK_TIMEOUT;
                let token = Token {
                    place,
                    generation: slot.generation,
                };
                overdue.push(Overdue::Retry(token, waiting.recipe));
            }
        }
        overdue
    }

    fn current(&mut self, token: Token) -> Option<&mut Slot> {
        slot_mut(&mut self.slots, token.place).filter(|slot| slot.generation == token.generation)
    }
}

fn slot_mut(slots: &mut [Slot], place: u32) -> Option<&mut Slot> {
    slots.get_mut(usize::try_from(place).ok()?)
}
