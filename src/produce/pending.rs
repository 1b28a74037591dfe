//! The messages that wait for their acknowledgement.

use std::time::Duration;

use slab::Slab;

use super::messages::Recipe;

/// Without an acknowledgement a message is sent again after this time, under the
/// same `Nats-Msg-Id`.
pub const ACK_TIMEOUT: Duration = Duration::from_secs(5);
/// After this time it has failed. Shorter than the two minutes in which a stream
/// drops a second message of the same `Nats-Msg-Id` unless told otherwise.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(90);
const REFUSED_PAUSE: Duration = Duration::from_millis(500);

/// Names a pending message in the subject that its acknowledgement comes to. The
/// generation tells it from others that used its place before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    place: usize,
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
            place: usize::from_str_radix(place, 16).ok()?,
            generation: u32::from_str_radix(generation, 16).ok()?,
        })
    }
}

/// A message that waits. Times are since the start of the run.
#[derive(Debug, Clone, Copy)]
pub struct Waiting {
    /// The message that was sent.
    pub recipe: Recipe,
    /// When it was due: its latency counts from here.
    pub(crate) scheduled: Duration,
    /// When it was sent, the first time.
    pub(crate) first_sent: Duration,
    retry_at: Duration,
    generation: u32,
}

/// What to do about a message that was not acknowledged.
#[derive(Debug, Clone, Copy)]
pub enum Overdue {
    /// Send it again.
    Retry(Token, Recipe),
    /// It has failed, and is forgotten.
    Failed(Waiting),
}

/// The messages, at most as many as there is room for.
#[derive(Debug)]
pub struct Pending {
    waiting: Slab<Waiting>,
    room: usize,
    generation: u32,
}

impl Pending {
    /// Room for so many messages.
    pub fn new(room: usize) -> Self {
        Self {
            waiting: Slab::with_capacity(room),
            room,
            generation: 0,
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Returns whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Returns whether there is no room.
    pub fn is_full(&self) -> bool {
        self.len() >= self.room
    }

    /// Takes room for a message that is sent `now`; `None` when there is none.
    pub fn insert(&mut self, recipe: Recipe, scheduled: Duration, now: Duration) -> Option<Token> {
        if self.is_full() {
            return None;
        }
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let place = self.waiting.insert(Waiting {
            recipe,
            scheduled,
            first_sent: now,
            retry_at: now + ACK_TIMEOUT,
            generation,
        });
        Some(Token { place, generation })
    }

    /// The message that was acknowledged; `None` when it was before, or has failed.
    pub fn remove(&mut self, token: Token) -> Option<Waiting> {
        self.current(token)?;
        self.waiting.try_remove(token.place)
    }

    /// The server refused the message: it is sent again soon.
    pub(crate) fn refused(&mut self, token: Token, now: Duration) {
        if let Some(waiting) = self.current(token) {
            waiting.retry_at = now + REFUSED_PAUSE;
        }
    }

    /// The connection broke: what was sent until `now` may be lost.
    pub fn retry_all(&mut self, now: Duration) {
        for (_, waiting) in &mut self.waiting {
            waiting.retry_at = waiting.retry_at.min(now);
        }
    }

    /// Every message whose time has come; it gets another [`ACK_TIMEOUT`].
    pub fn overdue(&mut self, now: Duration) -> Vec<Overdue> {
        let mut overdue = Vec::new();
        self.waiting.retain(|place, waiting| {
            let failed = now.saturating_sub(waiting.first_sent) >= GIVE_UP_AFTER;
            if failed {
                overdue.push(Overdue::Failed(*waiting));
            } else if waiting.retry_at <= now {
                waiting.retry_at = now + ACK_TIMEOUT;
                let generation = waiting.generation;
                overdue.push(Overdue::Retry(Token { place, generation }, waiting.recipe));
            }
            !failed
        });
        overdue
    }

    fn current(&mut self, token: Token) -> Option<&mut Waiting> {
        let waiting = self.waiting.get_mut(token.place)?;
        (waiting.generation == token.generation).then_some(waiting)
    }
}
