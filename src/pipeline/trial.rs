//! Trial: a message that was delivered more than twice `GANESH_MAX_DELIVERIES` times is written under a note in
//! Postgres. If processes end in the middle of that, again and again, it is given up.

use super::attempt::{self, Written, row};
use super::fate::until_answered;
use super::parking::BatchHistory;
use super::writer::Writer;
use crate::error::Error;
use crate::message::{Batch, Decoded};
use crate::storage::WriteOptions;

/// A message is given up when so many processes ended in the middle of its write.
pub(crate) const ENDED_MAX: i32 = 3;

impl Writer {
    fn is_on_trial(&self, decoded: &Decoded) -> bool {
        decoded.delivery.delivered > self.max_deliveries * 2
    }
}

/// Notes that the writes of such messages begin. Takes those out of the batch that are given up.
///
/// # Errors
/// Fatal ones of Postgres.
pub(crate) async fn begin(writer: &Writer, batch: &mut Batch) -> Result<Vec<Decoded>, Error> {
    let mut given_up = Vec::new();
    for place in (0..batch.messages.len()).rev() {
        let decoded = &batch.messages[place];
        if !writer.is_on_trial(decoded) {
            continue;
        }
        let row = row(writer, decoded);
        let ask = || writer.storage.begin_trial(&row);
        if until_answered(writer, &mut batch.failures, ask).await? >= ENDED_MAX {
            given_up.push(batch.messages.remove(place));
        }
    }
    Ok(given_up)
}

/// [`attempt::write`], and notes that it has ended, whatever became of it.
///
/// # Errors
/// Fatal ones of Postgres.
pub(crate) async fn write(
    writer: &Writer,
    batch: &mut Batch,
    history: &BatchHistory,
    options: WriteOptions,
) -> Result<Written, Error> {
    let written = attempt::write(writer, batch, history, options).await;
    let ended = end(writer, batch).await;
    let written = written?;
    ended.map(|()| written)
}

/// Notes that the writes of such messages have ended.
///
/// # Errors
/// Fatal ones of Postgres.
pub(crate) async fn end(writer: &Writer, batch: &mut Batch) -> Result<(), Error> {
    for decoded in &batch.messages {
        if writer.is_on_trial(decoded) {
            let row = row(writer, decoded);
            let ask = || writer.storage.end_trial(&row);
            until_answered(writer, &mut batch.failures, ask).await?;
        }
    }
    Ok(())
}
