//! The answer, as `--json` writes it.

use serde::Serialize;
use utoipa::ToSchema;

use super::asking::NotAsked;
use super::ending::{self, Ending};
use super::inquiry::Inquiry;
use super::jaeger::KeptTrace;
use super::question::Question;
use super::remembered::{RememberedMessage, RememberedSays};
use super::story::{self, StoryLine};
use crate::event::replay::{FIRST_SEEN, FIRST_SEQUENCE};
use crate::messaging::letters::{DELIVERIES, DETAIL, LAST_SEEN, Letter, STREAM_SEQUENCE};
use crate::storage::trail::{EventRow, FateRow};

/// What happened to a message.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Explanation {
    asked: Question,
    outcome: Ending,
    /// The outcome in one sentence.
    pub(crate) summary: String,
    /// Its sequence in the stream.
    sequence: Option<u64>,
    event: Option<EventSays>,
    stream: Option<StreamSays>,
    waiting: Option<WaitingSays>,
    replay_of: Option<ReplaySays>,
    row: Option<EventRow>,
    /// The row of the same event, which another message made.
    duplicate_of: Option<EventRow>,
    /// The message that replayed this one.
    replayed_as: Option<u64>,
    /// Further events with the id that was asked for.
    same_id: Vec<EventRow>,
    fate: Option<FateRow>,
    dead_letter: Option<LetterSays>,
    trace: Option<TraceSays>,
    /// What the replica that was asked remembers of it.
    remembered: Option<RememberedSays>,
    newest_of_subject: Option<SubjectSays>,
    cache: Option<CacheSays>,
    pub(crate) story: Vec<StoryLine>,
    pub(crate) not_known: Vec<String>,
    pub(crate) not_asked: Vec<NotAsked>,
    /// Some place answered.
    #[serde(skip)]
    pub(crate) has_answer: bool,
}

impl Explanation {
    /// Every place that could name the message was asked, and none has it.
    pub(crate) fn is_not_found(&self) -> bool {
        self.outcome == Ending::NotFound
    }
}

#[derive(Debug, Serialize, ToSchema)]
struct EventSays {
    id: String,
    source: String,
    time: String,
    #[serde(rename = "type")]
    event_type: String,
    subject: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
struct StreamSays {
    name: String,
    first_sequence: u64,
    last_sequence: u64,
    /// It holds the message.
    holds: bool,
    subject: Option<String>,
    stored_at: Option<String>,
    consumer: Option<ConsumerSays>,
}

#[derive(Debug, Serialize, ToSchema)]
struct ConsumerSays {
    name: String,
    delivered: u64,
    ack_floor: u64,
    pending: u64,
    ack_pending: u64,
    /// The message is acknowledged; null where the server does not tell.
    acknowledged: Option<bool>,
}

#[derive(Debug, Serialize, ToSchema)]
struct WaitingSays {
    before: u64,
    /// Otherwise there may be fewer.
    before_is_exact: bool,
    rate_per_second: Option<f64>,
    /// Until it is delivered, at that rate.
    seconds: Option<f64>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct ReplaySays {
    pub(super) generation: u32,
    pub(super) first_sequence: u64,
    pub(super) first_seen: String,
}

#[derive(Debug, Serialize, ToSchema)]
struct LetterSays {
    /// In the dead-letter stream.
    sequence: u64,
    written_at: String,
    reason: String,
    detail: Option<String>,
    subject: String,
    stream_sequence: Option<u64>,
    first_sequence: Option<u64>,
    /// How often it was replayed.
    generation: u32,
    deliveries: Option<u64>,
    first_seen: Option<String>,
    last_seen: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
struct TraceSays {
    id: String,
    link: Option<String>,
    /// Null where Jaeger was not asked, or has none any more.
    kept: Option<KeptTrace>,
    /// From the stream's clock to Postgres's, where nothing else tells of the stages.
    stored_after_ms: Option<f64>,
}

#[derive(Debug, Serialize, ToSchema)]
struct SubjectSays {
    subject: String,
    is_this: bool,
    newest: EventRow,
}

#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub(crate) struct CacheSays {
    /// `state`, `no_event`, `nothing`, `lease`, `too_large`, `foreign` or `not_used`.
    pub(super) holds: &'static str,
    pub(super) age_seconds: Option<f64>,
    pub(super) id: Option<String>,
    pub(super) source: Option<String>,
    pub(super) time: Option<String>,
    /// The state is the newest that Postgres has.
    pub(super) is_newest: Option<bool>,
}

/// Puts together what was learned.
pub(super) fn of(asked: Question, inquiry: Inquiry<'_>) -> Explanation {
    let outcome = ending::of(&inquiry);
    let summary = story::summary(&inquiry, &asked, outcome);
    let story = story::of(&inquiry, outcome);
    let is_waiting = outcome == Ending::Waiting;
    let mut not_known = inquiry.not_known.clone();
    not_known.extend(ending::why_unknown(outcome, &inquiry).map(str::to_owned));
    Explanation {
        asked,
        outcome,
        summary,
        sequence: inquiry.sequence,
        event: event_says(&inquiry),
        stream: stream_says(&inquiry),
        waiting: waiting(&inquiry).filter(|_| is_waiting),
        trace: trace_says(&inquiry),
        remembered: inquiry.remembered.map(RememberedMessage::says),
        newest_of_subject: subject_says(&inquiry),
        dead_letter: inquiry.letter.as_ref().map(letter_says),
        replay_of: inquiry.replay_of,
        row: inquiry.row,
        duplicate_of: inquiry.other_row,
        replayed_as: inquiry.replayed_as,
        same_id: inquiry.namesakes,
        fate: inquiry.fate,
        cache: inquiry.cache,
        story,
        not_known,
        not_asked: inquiry.not_asked,
        has_answer: inquiry.has_answer,
    }
}

fn event_says(inquiry: &Inquiry<'_>) -> Option<EventSays> {
    if let Some(row) = &inquiry.row {
        return Some(EventSays {
            id: row.id.clone(),
            source: row.source.clone(),
            time: row.time.to_string(),
            event_type: row.event_type.clone(),
            subject: row.subject.clone(),
        });
    }
    let event = inquiry.event()?;
    Some(EventSays {
        id: event.id.clone(),
        source: event.source.clone(),
        time: event.time.to_string(),
        event_type: event.event_type.clone(),
        subject: event.subject.clone(),
    })
}

fn stream_says(inquiry: &Inquiry<'_>) -> Option<StreamSays> {
    let bounds = inquiry.bounds.as_ref()?;
    let config = &inquiry.places.config.nats;
    let held = inquiry.message.as_ref();
    Some(StreamSays {
        name: config.stream.clone(),
        first_sequence: bounds.first_sequence,
        last_sequence: bounds.last_sequence,
        holds: held.is_some(),
        subject: held.map(|held| held.subject.clone()),
        stored_at: inquiry.published_at().map(|time| time.to_string()),
        consumer: inquiry.consumer.as_ref().map(|consumer| ConsumerSays {
            name: config.consumer.clone(),
            delivered: consumer.delivered,
            ack_floor: consumer.ack_floor,
            pending: consumer.pending,
            ack_pending: consumer.ack_pending,
            acknowledged: ending::is_acknowledged(inquiry),
        }),
    })
}

/// How many messages are before it.
fn waiting(inquiry: &Inquiry<'_>) -> Option<WaitingSays> {
    let (consumer, bounds) = (inquiry.consumer.as_ref()?, inquiry.bounds.as_ref()?);
    let after = consumer.delivered + 1;
    let before = inquiry.sequence?.checked_sub(after)?;
    // Fewer where the stream has holes, or the consumer takes some subjects alone.
    let all = (bounds.last_sequence + 1).saturating_sub(after);
    let before_is_exact = !consumer.is_filtered && consumer.pending >= all;
    let rate = inquiry.rate_per_second.filter(|rate| *rate > 0.0);
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    let seconds = rate.map(|rate| before as f64 / rate);
    Some(WaitingSays {
        before,
        before_is_exact,
        rate_per_second: inquiry.rate_per_second,
        seconds,
    })
}

/// How it waits, in words.
pub(super) fn waiting_in_words(inquiry: &Inquiry<'_>) -> Option<String> {
    let waiting = waiting(inquiry)?;
    let at_most = if waiting.before_is_exact || waiting.before == 0 {
        ""
    } else {
        "at most "
    };
    let before = waiting.before;
    let until = match (waiting.seconds, waiting.rate_per_second) {
        (Some(seconds), Some(rate)) => {
            format!("at {rate:.0} deliveries/s it is delivered in {seconds:.1} s")
        }
        _ => "nothing was delivered within a second, so how long is not known".to_owned(),
    };
    Some(format!("{at_most}{before} messages are before it; {until}"))
}

fn letter_says(letter: &Letter) -> LetterSays {
    let text = |name| letter.header(name).map(str::to_owned);
    let number = |name| letter.header(name)?.parse().ok();
    LetterSays {
        sequence: letter.sequence,
        written_at: letter.written_at.to_string(),
        reason: letter.reason().to_owned(),
        detail: text(DETAIL),
        subject: letter.subject().to_owned(),
        stream_sequence: number(STREAM_SEQUENCE),
        first_sequence: number(FIRST_SEQUENCE),
        generation: letter.generation(),
        deliveries: number(DELIVERIES),
        first_seen: text(FIRST_SEEN),
        last_seen: text(LAST_SEEN),
    }
}

fn trace_says(inquiry: &Inquiry<'_>) -> Option<TraceSays> {
    Some(TraceSays {
        id: inquiry.trace_id.clone()?,
        link: story::link(inquiry),
        kept: inquiry.kept.clone(),
        stored_after_ms: inquiry.row.as_ref().map(stored_after_ms),
    })
}

pub(super) fn stored_after_ms(row: &EventRow) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "centuries of microseconds fit")]
    let micros = (row.stored_at.micros() - row.published_at.micros()) as f64;
    micros / 1_000.0
}

fn subject_says(inquiry: &Inquiry<'_>) -> Option<SubjectSays> {
    let newest = inquiry.newest.clone()?;
    Some(SubjectSays {
        subject: newest.subject.clone()?,
        is_this: inquiry.is_newest(),
        newest,
    })
}
