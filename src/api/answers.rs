//! Answers that clients have not taken yet share a bounded memory.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::Problem;

/// Of all answers under way, small ones apart.
const ANSWERS_MAX_MIB: usize = 64;
/// The number of connections bounds answers up to this size.
const SMALL_MAX_BYTES: usize = 64 * 1_024;

/// Cloning clones an `Arc`.
#[derive(Clone)]
pub(crate) struct AnswerMemory(Arc<Semaphore>);

/// An answer with its part of the memory, in KiB, until the connection has sent it.
struct Held {
    answer: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.answer
    }
}

impl Default for AnswerMemory {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ANSWERS_MAX_MIB * 1_024)))
    }
}

impl AnswerMemory {
    /// Room for this many bytes until it is dropped; `None` while others have all of it.
    pub(super) fn hold(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(bytes.div_ceil(1_024)).unwrap_or(u32::MAX);
        self.0.clone().try_acquire_many_owned(kib).ok()
    }

    /// A body of this answer.
    ///
    /// # Errors
    /// 503 while others have all of the memory.
    pub(super) fn body(&self, answer: Bytes) -> Result<Body, Problem> {
        if answer.len() <= SMALL_MAX_BYTES {
            return Ok(answer.into());
        }
        let permit = self.hold(answer.len()).ok_or_else(|| {
            Problem::unavailable(format!(
                "the answers that clients have not taken hold {ANSWERS_MAX_MIB} MiB, the most they may"
            ))
        })?;
        let held = Held {
            answer,
            _permit: permit,
        };
        Ok(Bytes::from_owner(held).into())
    }
}
