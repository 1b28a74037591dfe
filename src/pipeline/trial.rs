//! Trial: a message that was delivered more than twice `GANESH_MAX_DELIVERIES` times is written under a note in
//! Postgres. If processes die during that, again and again, it is given up.

use super::attempt::row;
use super::fate::until_answered;
use super::writer::Writer;
use crate::error::Error;
use crate::message::{Batch, Decoded};

/// A message is given up when so many processes died during its write.
pub(crate) const DIED_MAX: i32 = 3;

/// The message of the batch, if it is on trial. It is alone: intake parks it so.
fn on_trial<'a>(writer: &Writer, messages: &'a [Decoded]) -> Option<&'a Decoded> {
    let is_on_trial = |one: &&Decoded| one.delivery.delivered > writer.max_deliveries * 2;
    match messages {
        [one] => Some(one).filter(is_on_trial),
        _ => None,
    }
}

/// Notes that the write of such a message begins. Returns whether it is given up instead.
///
/// # Errors
/// Fatal ones of Postgres.
pub(crate) async fn begin(writer: &Writer, batch: &mut Batch) -> Result<bool, Error> {
    let Some(decoded) = on_trial(writer, &batch.messages) else {
        return Ok(false);
    };
    let row = row(writer, decoded);
    let ask = || writer.storage.begin_trial(&row);
    let died = until_answered(writer, &mut batch.failures, ask).await?;
    Ok(died >= DIED_MAX)
}

/// Notes that the write has ended.
///
/// # Errors
/// Fatal ones of Postgres.
pub(crate) async fn end(writer: &Writer, batch: &mut Batch) -> Result<(), Error> {
    let Some(decoded) = on_trial(writer, &batch.messages) else {
        return Ok(());
    };
    let row = row(writer, decoded);
    let ask = || writer.storage.end_trial(&row);
    until_answered(writer, &mut batch.failures, ask).await
}
