//! How a message ended, as far as it is known. Pure.

use serde::Serialize;
use utoipa::ToSchema;

use super::inquiry::Inquiry;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ending {
    /// Its event is its row.
    Stored,
    /// Its event is the row of another message.
    Duplicate,
    /// It was a dead letter, and its replay is the row.
    Replayed,
    DeadLetter,
    /// A trigger of the table skipped its row.
    Skipped,
    /// It is acknowledged, and has neither a row nor a letter: no place says why.
    SettledWithoutRow,
    /// One of NATS's own: no event.
    Marker,
    /// The consumer has not delivered it.
    Waiting,
    /// A replica has it.
    Held,
    /// The stream holds it no more, and nobody has it.
    Removed,
    /// The stream has not taken it.
    NotInStreamYet,
    /// Every place that could name it was asked, and none has it.
    NotFound,
    NotKnown,
}

pub(super) fn of(inquiry: &Inquiry<'_>) -> Ending {
    if inquiry.sequence.is_none() {
        return without_sequence(inquiry);
    }
    if inquiry.row.is_some() {
        return Ending::Stored;
    }
    if inquiry.is_to_come() {
        return Ending::NotInStreamYet;
    }
    if inquiry.letter.is_some() {
        return Ending::DeadLetter;
    }
    if inquiry.is_marker {
        return Ending::Marker;
    }
    if is_waiting(inquiry) {
        return Ending::Waiting;
    }
    if inquiry.replayed_as.is_some() {
        return Ending::Replayed;
    }
    if let Some(fate) = &inquiry.fate {
        return match fate.fate.as_str() {
            "skipped" => Ending::Skipped,
            _ if inquiry.other_row.is_some() => Ending::Duplicate,
            _ => Ending::DeadLetter,
        };
    }
    let by_trace = inquiry.kept.as_ref();
    let by_trace = by_trace.and_then(|kept| kept.outcome.as_deref());
    let by_replica = inquiry.remembered.map(|message| message.outcome.as_str());
    if [by_trace, by_replica].contains(&Some("skipped")) {
        return Ending::Skipped;
    }
    let acknowledged = is_acknowledged(inquiry);
    if inquiry.message.is_some() && acknowledged == Some(false) {
        return Ending::Held;
    }
    if inquiry.other_row.is_some() {
        return Ending::Duplicate;
    }
    if inquiry.message.is_some() {
        return match acknowledged {
            // Nobody else has it, so who holds it has not acknowledged it.
            None if has_nothing(inquiry) && inquiry.consumer.is_some() => Ending::Held,
            Some(true) if has_nothing(inquiry) => Ending::SettledWithoutRow,
            _ => Ending::NotKnown,
        };
    }
    if is_removed(inquiry) && has_nothing(inquiry) {
        return Ending::Removed;
    }
    Ending::NotKnown
}

/// By id, trace or subject nothing was found, or a letter of another stream.
fn without_sequence(inquiry: &Inquiry<'_>) -> Ending {
    if inquiry.letter.is_some() {
        return Ending::DeadLetter;
    }
    if inquiry.is_search_open {
        Ending::NotKnown
    } else {
        Ending::NotFound
    }
}

fn is_waiting(inquiry: &Inquiry<'_>) -> bool {
    let delivered = inquiry.consumer.as_ref().map(|consumer| consumer.delivered);
    let is_beyond = delivered
        .zip(inquiry.sequence)
        .is_some_and(|(delivered, sequence)| sequence > delivered);
    inquiry.message.is_some() && is_beyond
}

/// Whether the consumer's messages up to here are settled; `None` where the server does not tell: of those
/// after the ack floor it says only how many are open.
pub(super) fn is_acknowledged(inquiry: &Inquiry<'_>) -> Option<bool> {
    let (consumer, sequence) = (inquiry.consumer.as_ref()?, inquiry.sequence?);
    if sequence <= consumer.ack_floor {
        return Some(true);
    }
    let is_delivered = sequence <= consumer.delivered;
    let delivered = consumer.delivered.saturating_sub(consumer.ack_floor);
    if !is_delivered || consumer.ack_pending >= delivered {
        return Some(false);
    }
    // The first message after the floor is what keeps the floor where it is.
    let is_first = sequence == consumer.ack_floor + 1 && inquiry.message.is_some();
    match consumer.ack_pending {
        0 => Some(true),
        _ if is_first => Some(false),
        _ => None,
    }
}

pub(super) fn is_removed(inquiry: &Inquiry<'_>) -> bool {
    inquiry.message.is_none() && inquiry.bounds.is_some() && !inquiry.is_to_come()
}

/// Whether the stream removed it before the consumer could deliver it; `None` where nothing tells.
pub(super) fn is_removed_undelivered(inquiry: &Inquiry<'_>) -> Option<bool> {
    let delivered = inquiry.consumer.as_ref()?.delivered;
    let is_undelivered = inquiry.sequence? > delivered && is_removed(inquiry);
    is_undelivered.then_some(true)
}

/// Neither Postgres nor the dead letters have it, and both would have named it.
fn has_nothing(inquiry: &Inquiry<'_>) -> bool {
    inquiry.rows_complete && inquiry.letters_complete
}

/// What an outcome leaves open.
pub(super) fn why_unknown(ending: Ending, inquiry: &Inquiry<'_>) -> Option<&'static str> {
    match ending {
        Ending::SettledWithoutRow => Some(
            "which it is: a trigger skipped its row, its row was deleted or has expired, or its letter was replayed \
             or purged",
        ),
        Ending::Removed if is_removed_undelivered(inquiry).is_none() => Some(
            "which it is: the stream removed it before it was delivered, or it was settled and its row or letter is \
             gone, or a trigger skipped its row",
        ),
        _ => None,
    }
}
