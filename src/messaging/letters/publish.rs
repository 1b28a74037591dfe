//! Publishing letters: durably, whatever another replica, a sweep or a crash does meanwhile.
//!
//! ```text
//!  too large for a letter? ─▶ put the object ─▶ publish the letter ─▶ acknowledged, as a duplicate
//!                                                                     or late? ─▶ put the object again
//! ```
//!
//! Every letter has an object of its own: its name has a random part. A letter of which the stream says
//! that it has it already may name another object, whose writer may be dead; and where the letter was
//! late, a sweep may have taken its object for an abandoned one. In both cases the object is put again,
//! before the message is acknowledged.

use std::time::Duration;

use tokio::time::Instant;

use super::bucket::Bucket;
use super::write::{self, Original};
use super::{OBJECT, one};
use crate::error::Error;
use crate::messaging::streams::api_error;

/// A letter that is acknowledged later than this after its object was begun may have lost it. A sweep
/// waits for twice as long.
pub(super) const LETTER_WITHIN: Duration = Duration::from_mins(5);

/// The object of a letter that has not been acknowledged yet.
#[derive(Debug)]
pub struct Placed {
    name: String,
    began: Instant,
}

/// Returns when the dead-letter stream has the letter, and the bucket its object if it needs one.
/// `placed` is for the next attempt at the same letter.
///
/// # Errors
/// When JetStream does not take it.
pub async fn publish(
    bucket: &Bucket,
    original: &Original<'_>,
    (reason, detail): (&str, &str),
    placed: &mut Option<Placed>,
) -> Result<(), Error> {
    let payload_max_bytes = bucket.jetstream.client().max_payload();
    let mut letter = write::outgoing(original, reason, detail, payload_max_bytes);
    let mut name = None;
    if letter.needs_object {
        let object = match placed.take() {
            Some(object) => object,
            None => place(bucket, original, reason).await?,
        };
        letter.headers.insert(OBJECT, object.name.as_str());
        name = Some(object.name.clone());
        *placed = Some(object);
    }
    let subject = write::letter_subject(&bucket.prefix, original.subject);
    let acknowledged = bucket.publish(subject, letter.headers, letter.body).await?;
    if acknowledged.duplicate {
        name = named_by(bucket, acknowledged.sequence).await?;
    }
    let Some(name) = name else { return Ok(()) };
    let is_safe = |object: &Placed| object.name == name && object.began.elapsed() < LETTER_WITHIN;
    if !placed.as_ref().is_some_and(is_safe) {
        let content = write::content(original, reason);
        bucket.put(&name, &content).await?;
    }
    Ok(())
}

async fn place(bucket: &Bucket, original: &Original<'_>, reason: &str) -> Result<Placed, Error> {
    let began = Instant::now();
    let name = write::object_name(original);
    let content = write::content(original, reason);
    bucket.put(&name, &content).await?;
    Ok(Placed { name, began })
}

/// The object of a letter that was stored before, if that is there still.
async fn named_by(bucket: &Bucket, sequence: u64) -> Result<Option<String>, Error> {
    let stream = bucket.jetstream.get_stream_no_info(&bucket.name).await;
    let stream = stream.map_err(|error| api_error(&error.to_string()))?;
    let letter = one(&stream, sequence).await?;
    Ok(letter.and_then(|letter| letter.object().map(str::to_owned)))
}
