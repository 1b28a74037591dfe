//! The answer in sentences: each with its time, if it has one, and the place that says it.

use serde::Serialize;
use utoipa::ToSchema;

use super::answer::{stored_after_ms, waiting_in_words};
use super::ending::{Ending, is_acknowledged, is_removed, is_removed_undelivered};
use super::inquiry::Inquiry;
use super::question::Question;
use crate::event::Timestamp;
use crate::event::replay::FIRST_SEQUENCE;
use crate::messaging::letters::{DELIVERIES, DETAIL, STREAM_SEQUENCE};
use crate::storage::trail::EventRow;
use crate::text::on_one_line;

const STREAM: &str = "the stream";
const CONSUMER: &str = "the consumer";
const POSTGRES: &str = "Postgres";
const LETTERS: &str = "the dead letters";
const JAEGER: &str = "Jaeger";
const CACHE: &str = "the cache";
const REPLICA: &str = "the replica";

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StoryLine {
    pub(crate) at: Option<String>,
    /// The place that says it.
    pub(crate) says: &'static str,
    pub(crate) text: String,
}

/// The sentences so far.
#[derive(Default)]
struct Story(Vec<StoryLine>);

impl Story {
    fn say(&mut self, says: &'static str, at: Option<Timestamp>, text: &str) {
        self.0.push(StoryLine {
            at: at.map(|at| at.to_string()),
            says,
            // Producers choose subjects and ids.
            text: on_one_line(text),
        });
    }
}

pub(super) fn of(inquiry: &Inquiry<'_>, ending: Ending) -> Vec<StoryLine> {
    let mut story = Story::default();
    of_stream(&mut story, inquiry);
    of_consumer(&mut story, inquiry, ending);
    of_postgres(&mut story, inquiry, ending);
    of_letters(&mut story, inquiry);
    of_trace(&mut story, inquiry);
    of_replica(&mut story, inquiry);
    of_subject(&mut story, inquiry);
    story.0
}

/// The outcome in one sentence.
pub(super) fn summary(inquiry: &Inquiry<'_>, asked: &Question, ending: Ending) -> String {
    let stream = &inquiry.places.config.nats.stream;
    let message = match inquiry.sequence {
        Some(sequence) => format!("message {sequence} of {stream}"),
        None => "the message".to_owned(),
    };
    let other = inquiry.other_row.as_ref().map_or(0, EventRow::sequence);
    let text = match ending {
        Ending::Stored => format!("{message} is stored"),
        Ending::Duplicate => {
            format!("{message} is a duplicate: message {other} made the row of its event")
        }
        Ending::Replayed => {
            format!("{message} was a dead letter, and its replay {other} is stored")
        }
        Ending::DeadLetter => match &inquiry.letter {
            Some(letter) => format!("{message} is a dead letter: {}", letter.reason()),
            None => format!("{message} became a dead letter, which is not there any more"),
        },
        Ending::Skipped => {
            format!("{message} is settled without a row: a trigger of events skipped it")
        }
        Ending::SettledWithoutRow => {
            format!("{message} is acknowledged, and has neither a row nor a dead letter")
        }
        Ending::Marker => format!("{message} is a marker of NATS's own, and no event"),
        Ending::Waiting => format!("{message} waits in the stream"),
        Ending::Held => format!("{message} is held: delivered, and not settled yet"),
        Ending::Removed => match is_removed_undelivered(inquiry) {
            Some(true) => format!("{message} was removed from the stream before it was delivered"),
            _ => format!(
                "{message} is gone from the stream, and has neither a row nor a dead letter"
            ),
        },
        Ending::NotInStreamYet => format!("{message} is not in the stream yet"),
        Ending::NotFound => match asked {
            Question::Subject { .. } => "not found: no row has this subject".to_owned(),
            _ => "not found: neither a row nor a dead letter has it".to_owned(),
        },
        Ending::NotKnown => format!("what happened to {message} is not known"),
    };
    on_one_line(&text)
}

fn of_stream(story: &mut Story, inquiry: &Inquiry<'_>) {
    let (Some(bounds), Some(sequence)) = (&inquiry.bounds, inquiry.sequence) else {
        return;
    };
    let (first, last) = (bounds.first_sequence, bounds.last_sequence);
    if inquiry.is_to_come() {
        let text = format!("has not taken message {sequence} yet: its last one is {last}");
        return story.say(STREAM, None, &text);
    }
    if let Some(held) = &inquiry.message {
        let text = format!("took message {sequence} under {}", held.subject);
        story.say(STREAM, Some(held.published_at), &text);
        if let Some(why) = held.unreadable {
            let text = format!("holds a message that no NATS client can read: {why}");
            story.say(STREAM, None, &text);
        }
        // A letter says so itself.
        if let (Some(Err(error)), None) = (&inquiry.decoded, &inquiry.letter) {
            story.say(STREAM, None, &format!("holds what is no event: {error}"));
        }
    } else if is_removed(inquiry) {
        let when = if inquiry.row.is_some() {
            "removed it after it was stored"
        } else if inquiry.letter.is_some() {
            "removed it after it became a dead letter"
        } else if is_removed_undelivered(inquiry) == Some(true) {
            "removed it before it was delivered: by a limit, a purge or a deletion"
        } else {
            "removed it"
        };
        let why = if bounds.has_limits_retention {
            ""
        } else {
            ", as it does with what is acknowledged"
        };
        story.say(
            STREAM,
            None,
            &format!("{when}{why}: it holds {first} to {last}"),
        );
    }
    if let Some(first) = &inquiry.replay_of {
        let (generation, first) = (first.generation, first.first_sequence);
        let text = format!("holds it as replay {generation} of message {first}");
        story.say(STREAM, None, &text);
    }
}

fn of_consumer(story: &mut Story, inquiry: &Inquiry<'_>, ending: Ending) {
    let Some(consumer) = &inquiry.consumer else {
        return;
    };
    let (floor, delivered) = (consumer.ack_floor, consumer.delivered);
    let text = match (ending, is_acknowledged(inquiry)) {
        (Ending::NotInStreamYet, _) => return,
        (Ending::Waiting, _) => match waiting_in_words(inquiry) {
            Some(waiting) => format!("has not delivered it: {waiting}"),
            None => return,
        },
        _ if is_removed(inquiry) && inquiry.row.is_none() => {
            format!("has delivered or passed over everything up to {delivered}")
        }
        (_, Some(true)) if inquiry.sequence <= Some(floor) => {
            format!("has it acknowledged, as everything up to {floor}")
        }
        (_, Some(true)) => "has it acknowledged: nothing that it delivered is open".to_owned(),
        (_, Some(false)) => "has delivered it, and nobody has acknowledged it".to_owned(),
        (_, None) => format!(
            "has delivered it; whether it is acknowledged the server does not say: {} of the messages \
             {} to {delivered} are open",
            consumer.ack_pending,
            floor + 1
        ),
    };
    story.say(CONSUMER, None, &text);
}

fn of_postgres(story: &mut Story, inquiry: &Inquiry<'_>, ending: Ending) {
    if let Some(row) = &inquiry.row {
        if inquiry.message.is_none() {
            let text = format!(
                "the stream took message {} under {}, by its row",
                row.sequence(),
                row.nats_subject
            );
            story.say(POSTGRES, Some(row.published_at), &text);
        }
        let text = format!(
            "stored it in {}: id {}, source {}, time {}",
            row.partition, row.id, row.source, row.time
        );
        story.say(POSTGRES, Some(row.stored_at), &text);
    }
    if let Some(row) = &inquiry.other_row {
        let how = match inquiry.replayed_as {
            Some(_) => "its replay",
            None => "the same source, id and time",
        };
        let text = format!(
            "stored the event from message {} ({how}) in {}: id {}, source {}, time {}",
            row.sequence(),
            row.partition,
            row.id,
            row.source,
            row.time
        );
        story.say(POSTGRES, Some(row.stored_at), &text);
    }
    if let Some(fate) = &inquiry.fate {
        let text = match fate.fate.as_str() {
            "skipped" => {
                "decided its fate: skipped, as a trigger of events left its row out".to_owned()
            }
            reason => format!("decided its fate: a dead letter, {reason}: {}", fate.detail),
        };
        story.say(POSTGRES, Some(fate.decided_at), &text);
    }
    let asked = inquiry.rows_complete && inquiry.sequence.is_some() && inquiry.event().is_some();
    if asked && inquiry.row.is_none() && inquiry.other_row.is_none() {
        story.say(POSTGRES, None, "has no row of it");
    }
    let is_unexplained = matches!(ending, Ending::SettledWithoutRow | Ending::Removed);
    if is_unexplained && !inquiry.triggers.is_empty() {
        let names = inquiry.triggers.join(", ");
        let text = format!("has triggers on events that can leave a row out: {names}");
        story.say(POSTGRES, None, &text);
    }
    for row in &inquiry.namesakes {
        let text = format!(
            "has another event of this id: source {}, time {}, message {}",
            row.source,
            row.time,
            row.sequence()
        );
        story.say(POSTGRES, Some(row.stored_at), &text);
    }
}

fn of_letters(story: &mut Story, inquiry: &Inquiry<'_>) {
    let Some(letter) = &inquiry.letter else {
        if inquiry.letters_complete && inquiry.sequence.is_some() {
            let text = match &inquiry.fate {
                Some(fate) if fate.fate != "skipped" => {
                    "no longer have its letter: it was replayed or purged; which is not known"
                }
                _ => "have no letter of it",
            };
            story.say(LETTERS, None, text);
        }
        return;
    };
    let header = |name| letter.header(name).unwrap_or("?");
    let text = format!(
        "have it as letter {}: {}: {} (deliveries: {}; ganesh dlq show {})",
        letter.sequence,
        letter.reason(),
        header(DETAIL),
        header(DELIVERIES),
        letter.sequence
    );
    story.say(LETTERS, Some(letter.written_at), &text);
    let text = match letter.generation() {
        0 => "it was never replayed".to_owned(),
        generation => format!(
            "it failed again after each replay ({generation}), the last time as message {}; first it was message {}",
            header(STREAM_SEQUENCE),
            header(FIRST_SEQUENCE)
        ),
    };
    story.say(LETTERS, None, &text);
}

/// Where its trace is, for a browser.
pub(super) fn link(inquiry: &Inquiry<'_>) -> Option<String> {
    let config = &inquiry.places.config.telemetry;
    let url = config
        .jaeger_ui_url
        .as_ref()
        .or(config.jaeger_url.as_ref())?;
    inquiry.spans.as_ref()?;
    let id = inquiry.trace_id.as_ref()?;
    let url = url.expose().trim_end_matches('/');
    Some(format!("{url}/trace/{id}"))
}

fn of_trace(story: &mut Story, inquiry: &Inquiry<'_>) {
    let Some(id) = &inquiry.trace_id else {
        return;
    };
    if let Some(kept) = &inquiry.kept {
        let at = Timestamp::parse_rfc3339(&kept.settled_at);
        let reason = &kept.keep_reason;
        let link = link(inquiry).unwrap_or_default();
        let settled = kept.outcome.as_deref().unwrap_or("?");
        let text = format!("has its trace, kept as {reason}, settled as {settled}: {link}");
        story.say(JAEGER, at, &text);
        for stage in &kept.stages {
            let error = stage.error.as_ref();
            let error = error.map_or(String::new(), |error| format!(", which failed: {error}"));
            let text = format!("{} took {:.3} ms{error}", stage.stage, stage.milliseconds);
            story.say(JAEGER, Timestamp::parse_rfc3339(&stage.began), &text);
        }
        return;
    }
    if inquiry.spans.is_some() {
        let link = link(inquiry).unwrap_or_default();
        let text = format!("has trace {id}, without this message: {link}");
        story.say(JAEGER, None, &text);
    } else if inquiry.jaeger_answered {
        let text = format!("has no trace {id}: it was not kept, or is gone");
        story.say(JAEGER, None, &text);
    }
    if let Some(row) = &inquiry.row {
        let milliseconds = stored_after_ms(row);
        let text = format!("began to write it {milliseconds:.1} ms after the stream took it");
        story.say(POSTGRES, None, &text);
    }
}

fn of_replica(story: &mut Story, inquiry: &Inquiry<'_>) {
    if let Some(message) = inquiry.remembered {
        let at = Timestamp::parse_rfc3339(&message.settled_at);
        story.say(REPLICA, at, &message.in_words());
    }
}

fn of_subject(story: &mut Story, inquiry: &Inquiry<'_>) {
    if let Some(newest) = &inquiry.newest {
        let subject = newest.subject.as_deref().unwrap_or_default();
        let text = if inquiry.is_newest() {
            format!("has it as the newest event of subject {subject}")
        } else {
            format!(
                "has a newer event of subject {subject}: id {}, source {}, time {}",
                newest.id, newest.source, newest.time
            )
        };
        story.say(POSTGRES, None, &text);
    }
    let Some(cache) = &inquiry.cache else {
        return;
    };
    let text = match (cache.holds, cache.is_newest) {
        ("state", is_newest) => {
            let which = match is_newest {
                Some(true) => "the newest event",
                Some(false) => "another event than Postgres",
                None => "an event",
            };
            format!(
                "answers for its subject with {which}: id {}, for {:.0} s",
                cache.id.as_deref().unwrap_or("?"),
                cache.age_seconds.unwrap_or_default()
            )
        }
        ("no_event", _) => format!(
            "answers for its subject that there is no event, for {:.0} s",
            cache.age_seconds.unwrap_or_default()
        ),
        ("nothing", _) => "has nothing of its subject: the next read asks Postgres".to_owned(),
        ("lease", _) => "is being given the state of its subject by a reader".to_owned(),
        ("not_used", _) => {
            "is not in use: the epoch belongs to another cache server, or to none yet".to_owned()
        }
        _ => "holds an unusable entry: reads go to Postgres".to_owned(),
    };
    story.say(CACHE, None, &text);
}
