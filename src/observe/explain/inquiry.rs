//! What the places say of one message, one place after the other.

use async_nats::jetstream::Context;
use serde::Serialize;
use sqlx::PgPool;

use super::Places;
use super::answer::{CacheSays, NotAsked, ReplaySays};
use super::jaeger::{self, JaegerSpan, KeptTrace};
use super::question::Question;
use crate::cache::peek::{Peeked, peek};
use crate::error::Error;
use crate::event::replay::{self, FIRST_SEEN};
use crate::event::{self, DecodeError, Event, Message, Timestamp, TraceId, trace_context};
use crate::messaging::letters::{Letter, STREAM, STREAM_SEQUENCE, TRACE_ID};
use crate::messaging::position::{ConsumerPosition, HeldMessage, StreamBounds};
use crate::storage::trail::{EventRow, FateRow, RowSearch};
use crate::storage::{classify, epoch};

/// A place that can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AskedPlace {
    Stream,
    Consumer,
    Postgres,
    DeadLetters,
    Jaeger,
    Cache,
}

impl AskedPlace {
    /// As people read it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Stream => "the stream",
            Self::Consumer => "the consumer",
            Self::Postgres => "Postgres",
            Self::DeadLetters => "the dead letters",
            Self::Jaeger => "Jaeger",
            Self::Cache => "the cache",
        }
    }
}

/// Everything that was learned of one message.
#[expect(clippy::struct_excessive_bools, reason = "each place says yes or no")]
pub(super) struct Inquiry<'a> {
    pub(super) places: &'a Places<'a>,
    pub(super) sequence: Option<u64>,
    pub(super) bounds: Option<StreamBounds>,
    pub(super) consumer: Option<ConsumerPosition>,
    /// Deliveries a second, while it waits.
    pub(super) rate_per_second: Option<f64>,
    pub(super) message: Option<HeldMessage>,
    pub(super) decoded: Option<Result<Event, DecodeError>>,
    pub(super) is_marker: bool,
    /// Its own row.
    pub(super) row: Option<EventRow>,
    /// The row of its event that another message made.
    pub(super) other_row: Option<EventRow>,
    /// Further events of the same id.
    pub(super) namesakes: Vec<EventRow>,
    /// Postgres would have named its row.
    pub(super) rows_complete: bool,
    pub(super) fate: Option<FateRow>,
    /// Triggers of `events` that can leave a row out.
    pub(super) triggers: Vec<String>,
    pub(super) letter: Option<Letter>,
    /// The dead letters would have named it.
    pub(super) letters_complete: bool,
    pub(super) replay_of: Option<ReplaySays>,
    /// The message that replayed it.
    pub(super) replayed_as: Option<u64>,
    pub(super) trace_id: Option<String>,
    pub(super) spans: Option<Vec<JaegerSpan>>,
    pub(super) kept: Option<KeptTrace>,
    pub(super) jaeger_answered: bool,
    /// The newest row of its subject.
    pub(super) newest: Option<EventRow>,
    pub(super) cache: Option<CacheSays>,
    pub(super) not_known: Vec<String>,
    pub(super) not_asked: Vec<NotAsked>,
    /// Some place answered.
    pub(super) has_answer: bool,
}

impl<'a> Inquiry<'a> {
    pub(super) fn new(places: &'a Places<'a>) -> Self {
        Self {
            places,
            sequence: None,
            bounds: None,
            consumer: None,
            rate_per_second: None,
            message: None,
            decoded: None,
            is_marker: false,
            row: None,
            other_row: None,
            namesakes: Vec::new(),
            rows_complete: false,
            fate: None,
            triggers: Vec::new(),
            letter: None,
            letters_complete: false,
            replay_of: None,
            replayed_as: None,
            trace_id: None,
            spans: None,
            kept: None,
            jaeger_answered: false,
            newest: None,
            cache: None,
            not_known: Vec::new(),
            not_asked: Vec::new(),
            has_answer: false,
        }
    }

    /// Which message it is.
    pub(super) async fn find(&mut self, question: &Question) {
        match question {
            Question::Sequence { sequence } => self.sequence = Some(*sequence),
            Question::Id { id, source, time } => {
                if !self.find_row_by_id(id, source.as_deref(), *time).await {
                    self.find_letter_by_id(id, source.as_deref()).await;
                }
            }
            Question::TraceId { trace_id } => self.find_by_trace(trace_id).await,
            Question::Subject { subject } => {
                if !self.find_row(&RowSearch::Subject(subject)).await {
                    let what = "whether a message without a row has this subject: only rows are found by it";
                    self.not_known.push(what.to_owned());
                }
            }
            Question::IdOrSubject { text } => {
                let is_found = self.find_row_by_id(text, None, None).await
                    || self.find_row(&RowSearch::Subject(text)).await;
                if !is_found {
                    self.find_letter_by_id(text, None).await;
                }
            }
        }
        let Self { row, letter, .. } = self;
        if let Some(row) = row {
            self.sequence = Some(row.sequence());
        } else if let Some(letter) = letter {
            let stream = letter.header(STREAM).unwrap_or_default();
            if stream == self.places.config.nats.stream {
                let sequence = letter.header(STREAM_SEQUENCE);
                self.sequence = sequence.and_then(|text| text.parse().ok());
            } else {
                let what = format!(
                    "what the stream has: the letter is of stream {stream}, and GANESH_STREAM is another one"
                );
                self.not_known.push(what);
            }
        }
    }

    /// Forgets what the stream said: it was made anew, and the sequence means another message there.
    pub(super) fn forget_stream(&mut self, stored_at: Timestamp) {
        self.not_known.push(format!(
            "what the original stream had: it was deleted and made again; its present message {} was stored at {stored_at}",
            self.sequence.unwrap_or_default()
        ));
        (self.message, self.bounds, self.consumer) = (None, None, None);
    }

    /// Reads the message as the pipeline does.
    pub(super) fn decode(&mut self) {
        let (Some(held), Some(sequence)) = (&self.message, self.sequence) else {
            return;
        };
        let config = self.places.config;
        let headers = (!held.headers.is_empty()).then_some(&held.headers);
        let message = Message {
            subject: &held.subject,
            headers,
            payload: &held.body,
            stream: &config.nats.stream,
            stream_sequence: sequence,
            published_at: held.published_at,
        };
        if held.unreadable.is_none() {
            self.is_marker = event::is_marker(&message);
            if !self.is_marker {
                self.decoded = Some(event::decode(&message, config.pipeline.accept_plain));
            }
        }
        let first = replay::first_delivery(headers, held.published_at);
        self.replay_of = first.map(|first| ReplaySays {
            generation: first.generation,
            first_sequence: first.sequence,
            first_seen: first.seen.to_string(),
        });
        let producer = trace_context(headers);
        let stream = &config.nats.stream;
        let id = TraceId::of_message(producer.as_ref(), stream, sequence, held.published_at);
        self.trace_id = Some(id.to_string());
    }

    pub(super) fn event(&self) -> Option<&Event> {
        self.decoded.as_ref()?.as_ref().ok()
    }

    /// When the stream took it, as far as anything says that.
    pub(super) fn published_at(&self) -> Option<Timestamp> {
        let held = self.message.as_ref().map(|held| held.published_at);
        held.or_else(|| self.published_at_elsewhere())
    }

    /// When the stream took it, by what the row, the fate or the letter says.
    pub(super) fn published_at_elsewhere(&self) -> Option<Timestamp> {
        let by_row = self.row.as_ref().map(|row| row.published_at);
        let by_fate = || self.fate.as_ref().map(|fate| fate.published_at);
        by_row.or_else(by_fate).or_else(|| {
            let letter = self.letter.as_ref()?;
            let is_first = letter.generation() == 0;
            Timestamp::parse_rfc3339(letter.header(FIRST_SEEN).filter(|_| is_first)?)
        })
    }

    pub(super) async fn ask_jaeger(&mut self, question: &Question) {
        let by_row = self.row.as_ref().map(|row| row.trace_id.clone());
        let by_letter = || Some(self.letter.as_ref()?.header(TRACE_ID)?.to_owned());
        let id = by_row.or_else(by_letter).or_else(|| self.trace_id.take());
        self.trace_id = id.or_else(|| match question {
            Question::TraceId { trace_id } => Some(trace_id.clone()),
            _ => None,
        });
        // Others may have written the row.
        let is_id = |id: &String| super::question::trace_id(id).is_some();
        let Some(id) = self.trace_id.clone().filter(is_id) else {
            return;
        };
        if self.spans.is_none() && !self.jaeger_answered {
            self.read_spans(&id).await;
        }
        let stream = &self.places.config.nats.stream;
        let spans = self.spans.as_deref().unwrap_or_default();
        self.kept = jaeger::kept(spans, stream, self.sequence);
    }

    pub(super) async fn read_spans(&mut self, id: &str) {
        let Some(url) = &self.places.config.telemetry.jaeger_url else {
            self.gap(AskedPlace::Jaeger, "JAEGER_URL is not set".to_owned());
            return;
        };
        match jaeger::spans(url, id).await {
            Ok(spans) => {
                self.spans = spans;
                self.jaeger_answered = true;
                self.has_answer = true;
            }
            Err(why) => self.gap(AskedPlace::Jaeger, why),
        }
    }

    /// Its event's subject, as far as anything says that.
    pub(super) fn subject(&self) -> Option<String> {
        let row = self.row.as_ref().or(self.other_row.as_ref());
        match (row, self.event()) {
            (Some(row), _) => row.subject.clone(),
            (None, Some(event)) => event.subject.clone(),
            (None, None) => None,
        }
    }

    /// Whether its event is the newest of its subject.
    pub(super) fn is_newest(&self) -> bool {
        let row = self.row.as_ref().or(self.other_row.as_ref());
        row.is_some() && row == self.newest.as_ref()
    }

    /// The newest event of its subject, and what the cache would answer for that.
    pub(super) async fn ask_subject(&mut self) {
        let Some(subject) = self.subject() else {
            return;
        };
        let newest = self.rows(&RowSearch::Subject(&subject)).await;
        self.newest = newest.and_then(|found| found.rows.into_iter().next());
        let Some(pool) = self.pool() else {
            let why = "its keys contain the epoch, which Postgres holds";
            self.gap(AskedPlace::Cache, why.to_owned());
            return;
        };
        let epoch = epoch::read(&pool).await.map_err(|error| classify(&error));
        let Some(epoch) = self.noted(AskedPlace::Postgres, epoch) else {
            return;
        };
        let peeked = peek(&self.places.config.cache, &epoch, &subject).await;
        let peeked = self.noted(AskedPlace::Cache, peeked);
        self.cache = peeked.map(|peeked| cache_says(&peeked, self.newest.as_ref()));
    }

    pub(super) fn pool(&mut self) -> Option<PgPool> {
        match &self.places.postgres {
            Ok(pool) => Some(pool.clone()),
            Err(why) => {
                self.gap(AskedPlace::Postgres, why.clone());
                None
            }
        }
    }

    pub(super) fn jetstream(&mut self, place: AskedPlace) -> Option<Context> {
        match &self.places.jetstream {
            Ok(jetstream) => Some(jetstream.clone()),
            Err(why) => {
                self.gap(place, why.clone());
                None
            }
        }
    }

    /// Notes that a place answered, or why it did not.
    pub(super) fn noted<T>(&mut self, place: AskedPlace, answer: Result<T, Error>) -> Option<T> {
        match answer {
            Ok(answer) => {
                self.has_answer = true;
                Some(answer)
            }
            Err(error) => {
                self.gap(place, error.detail);
                None
            }
        }
    }

    /// Says once why a place could not be asked.
    pub(super) fn gap(&mut self, place: AskedPlace, why: String) {
        if self.not_asked.iter().all(|gap| gap.place != place) {
            self.not_asked.push(NotAsked { place, why });
        }
    }
}

fn cache_says(peeked: &Peeked, newest: Option<&EventRow>) -> CacheSays {
    let holds = match peeked {
        Peeked::State { .. } => "state",
        Peeked::Nothing => "nothing",
        Peeked::Lease => "lease",
        Peeked::Large => "too_large",
        Peeked::Foreign => "foreign",
        Peeked::NotUsed => "not_used",
    };
    let mut says = CacheSays {
        holds,
        ..CacheSays::default()
    };
    if let Peeked::State { age, event } = peeked {
        let event: serde_json::Value = serde_json::from_slice(event).unwrap_or_default();
        let text = |name: &str| event[name].as_str().map(str::to_owned);
        says.age_seconds = Some(age.as_secs_f64());
        (says.id, says.source, says.time) = (text("id"), text("source"), text("time"));
        let is_newest = |row: &EventRow| {
            let time = says.time.as_deref().and_then(Timestamp::parse_rfc3339);
            says.id.as_deref() == Some(row.id.as_str())
                && says.source.as_deref() == Some(row.source.as_str())
                && time == Some(row.time)
        };
        says.is_newest = newest.map(is_newest);
    }
    says
}
