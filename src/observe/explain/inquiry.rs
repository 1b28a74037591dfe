//! What the places say of one message, one place after the other.

use super::Places;
use super::answer::{CacheSays, ReplaySays};
use super::asking::{AskedPlace, NotAsked};
use super::jaeger::{self, JaegerSpan, KeptTrace};
use super::question::Question;
use super::remembered::{self, RememberedMessage};
use crate::cache::peek::{Peeked, peek};
use crate::event::replay::{self, FIRST_SEEN};
use crate::event::{self, DecodeError, Event, Message, Timestamp, TraceId, trace_context};
use crate::messaging::letters::{Letter, STREAM, STREAM_SEQUENCE, TRACE_ID};
use crate::messaging::position::{ConsumerPosition, HeldMessage, StreamBounds};
use crate::storage::trail::{EventRow, FateRow, RowSearch};
use crate::storage::{classify, epoch};

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
    /// What the replica remembers of it.
    pub(super) remembered: Option<&'a RememberedMessage>,
    /// The newest row of its subject.
    pub(super) newest: Option<EventRow>,
    pub(super) cache: Option<CacheSays>,
    pub(super) not_known: Vec<String>,
    pub(super) not_asked: Vec<NotAsked>,
    /// Some place answered.
    pub(super) has_answer: bool,
    /// While it was looked for, a place that could have named it did not answer, or not to its end.
    pub(super) is_search_open: bool,
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
            remembered: None,
            newest: None,
            cache: None,
            not_known: Vec::new(),
            not_asked: Vec::new(),
            has_answer: false,
            is_search_open: false,
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
        if self.is_silent(AskedPlace::Jaeger) {
            return;
        }
        match jaeger::spans(url, id, self.places.limits.left()).await {
            Ok(spans) => {
                self.spans = spans;
                self.jaeger_answered = true;
                self.has_answer = true;
            }
            Err(why) => self.add_gap(AskedPlace::Jaeger, why, true),
        }
    }

    /// Its stages, if the replica that is asked settled it lately and remembers it.
    pub(super) fn ask_replica(&mut self) {
        match &self.places.remembered {
            Ok(messages) => {
                let id = self.trace_id.as_deref();
                let sequence = self.sequence;
                self.remembered = sequence.and_then(|_| remembered::last(messages, sequence, id));
            }
            Err(why) => self.gap(AskedPlace::Replica, why.clone()),
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
        let epoch = async { epoch::read(&pool).await.map_err(|error| classify(&error)) };
        let Some(epoch) = self.ask(AskedPlace::Postgres, epoch).await else {
            let why = "its keys contain the epoch, which Postgres holds";
            self.gap(AskedPlace::Cache, why.to_owned());
            return;
        };
        let peeked = peek(&self.places.config.cache, &epoch, &subject);
        let peeked = self.ask(AskedPlace::Cache, peeked).await;
        self.cache = peeked.map(|peeked| cache_says(&peeked, self.newest.as_ref()));
    }
}

fn cache_says(peeked: &Peeked, newest: Option<&EventRow>) -> CacheSays {
    let holds = match peeked {
        Peeked::State { .. } => "state",
        Peeked::NoEvent { .. } => "no_event",
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
    if let Peeked::NoEvent { age } = peeked {
        says.age_seconds = Some(age.as_secs_f64());
    }
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
