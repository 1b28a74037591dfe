//! What goes over the wire: the event in its mode, the headers around it, and
//! the ways in which a message can be wrong.

use async_nats::header::{HeaderName, NATS_MESSAGE_ID};
use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use strum::VariantArray;

use super::events::{EventKind, Events};
use super::options::Mode;
use super::random::{Purpose, Random};
use super::report::ListedEvent;
use crate::event::{Event, Timestamp, TraceContext, encode_binary, encode_structured};

/// All that it takes to write a message, and to write it again when its
/// acknowledgement does not come: a few words instead of the message itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recipe {
    /// Which message of the run this is.
    pub number: u64,
    /// Which event it carries: its own number, or that of the one it repeats.
    pub event: u64,
    /// When that event happened.
    pub time: Timestamp,
    /// What the message is to its receiver.
    pub variant: Variant,
}

/// What the message is to its receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// An event that was not sent before.
    New,
    /// An event once more, under another `Nats-Msg-Id`.
    Duplicate,
    /// No event: to be refused, for this reason.
    Invalid(Flaw),
}

/// Why a message is no event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, VariantArray)]
pub enum Flaw {
    /// There is no `id`.
    MissingId,
    /// `time` is no time.
    BadTime,
    /// The body ends in the middle of its JSON.
    BrokenJson,
    /// Another version of `CloudEvents`.
    WrongVersion,
}

/// One message, ready to be published.
#[derive(Debug)]
pub struct OutgoingMessage {
    /// The NATS subject.
    pub subject: Subject,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub payload: Bytes,
}

/// Writes the messages of one run.
#[derive(Debug, Clone)]
pub struct MessageWriter {
    events: Events,
    mode: Mode,
    seed: u64,
    /// One message in so many is sampled; 0 is none.
    sample: u32,
    /// The NATS subject of each kind, in the order of `EventKind`.
    subjects: Vec<Subject>,
}

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const CONTENT_TYPE: HeaderName = HeaderName::from_static("content-type");

impl MessageWriter {
    /// A writer of `events` of this seed, on subjects that match `pattern`.
    pub fn new(events: Events, mode: Mode, seed: u64, sample: u32, pattern: &str) -> Self {
        let kinds = EventKind::VARIANTS.iter();
        Self {
            events,
            mode,
            seed,
            sample,
            subjects: kinds
                .map(|kind| nats_subject(pattern, *kind).into())
                .collect(),
        }
    }

    /// The subjects that it writes to.
    pub fn subjects(&self) -> &[Subject] {
        &self.subjects
    }

    /// The message of a recipe: the same whenever it is asked for.
    pub fn write(&self, recipe: &Recipe) -> OutgoingMessage {
        let (subject, event) = self.subject_and_event(recipe);
        let (mut headers, payload) = self.encode(&event, recipe.variant);
        headers.insert(NATS_MESSAGE_ID, message_id(&event.id, recipe));
        headers.insert(TRACEPARENT, traceparent(&self.trace_context(recipe.number)));
        OutgoingMessage {
            subject: subject.clone(),
            headers,
            payload,
        }
    }

    fn encode(&self, event: &Event, variant: Variant) -> (HeaderMap, Bytes) {
        match (self.mode, variant) {
            (Mode::Structured, Variant::Invalid(flaw)) => {
                let (headers, payload) = encode_structured(event);
                (headers, flawed_json(flaw, &payload))
            }
            (Mode::Structured, _) => encode_structured(event),
            (Mode::Plain, Variant::New | Variant::Duplicate) => plain(event),
            // Almost nothing plain is refused, so the invalid ones say that they are binary.
            (_, Variant::Invalid(flaw)) => flawed_binary(flaw, encode_binary(event)),
            (Mode::Binary, _) => encode_binary(event),
        }
    }

    /// The trace context of a message; one in `sample` says that its trace is recorded.
    pub(super) fn trace_context(&self, number: u64) -> TraceContext {
        let mut random = Random::new(self.seed, number, Purpose::Trace);
        // The standard forbids ids of zeros only.
        let (high, low, span) = (random.next(), random.next() | 1, random.next() | 1);
        let trace_id = u128::from(high) << 64 | u128::from(low);
        TraceContext {
            trace_id: trace_id.to_be_bytes(),
            parent_id: span.to_be_bytes(),
            sampled: self.is_sampled(number),
        }
    }

    /// Returns whether a message's trace is recorded; costs no random number.
    pub(super) fn is_sampled(&self, number: u64) -> bool {
        self.sample != 0 && number.is_multiple_of(u64::from(self.sample))
    }

    /// The parts by which a stored event can be found.
    pub(super) fn listed(&self, recipe: &Recipe) -> ListedEvent {
        let (nats_subject, event) = self.subject_and_event(recipe);
        let trace_id = u128::from_be_bytes(self.trace_context(recipe.number).trace_id);
        let trace_id = format!("{trace_id:032x}");
        if self.mode == Mode::Plain {
            return ListedEvent {
                id: message_id(&event.id, recipe),
                event_type: nats_subject.to_string(),
                subject: None,
                trace_id,
            };
        }
        ListedEvent {
            id: event.id,
            event_type: event.event_type,
            subject: event.subject,
            trace_id,
        }
    }

    pub(super) fn subject_and_event(&self, recipe: &Recipe) -> (&Subject, Event) {
        let (kind, event) = self.events.event(recipe.event, recipe.time);
        (&self.subjects[kind as usize], event)
    }
}

/// W3C trace context, version 00.
fn traceparent(context: &TraceContext) -> String {
    let trace_id = u128::from_be_bytes(context.trace_id);
    let parent_id = u64::from_be_bytes(context.parent_id);
    let flags = u8::from(context.sampled);
    format!("00-{trace_id:032x}-{parent_id:016x}-{flags:02x}")
}

/// The `Nats-Msg-Id`, made of id and time: a second run of a seed has the same ids and other
/// events, which must not be dropped. A repeated event has the message's number besides.
fn message_id(event_id: &str, recipe: &Recipe) -> String {
    let micros = recipe.time.micros();
    match recipe.variant {
        Variant::Duplicate => format!("{event_id}-{micros:x}-{}", recipe.number),
        Variant::New | Variant::Invalid(_) => format!("{event_id}-{micros:x}"),
    }
}

fn plain(event: &Event) -> (HeaderMap, Bytes) {
    let (_, payload) = encode_binary(event);
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, "application/json");
    (headers, payload)
}

fn flawed_binary(flaw: Flaw, (headers, payload): (HeaderMap, Bytes)) -> (HeaderMap, Bytes) {
    match flaw {
        Flaw::MissingId => (without(&headers, "ce-id"), payload),
        Flaw::BadTime => (with(headers, "ce-time", "yesterday"), payload),
        Flaw::WrongVersion => (with(headers, "ce-specversion", "0.3"), payload),
        Flaw::BrokenJson => (headers, cut_in_half(&payload)),
    }
}

fn with(mut headers: HeaderMap, name: &'static str, value: &str) -> HeaderMap {
    headers.insert(HeaderName::from_static(name), value);
    headers
}

/// A `HeaderMap` cannot forget a header.
fn without(headers: &HeaderMap, unwanted: &str) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for (name, values) in headers.iter() {
        let name: &str = name.as_ref();
        if name != unwanted {
            for value in values {
                kept.append(name, value.as_str());
            }
        }
    }
    kept
}

fn flawed_json(flaw: Flaw, payload: &Bytes) -> Bytes {
    let (from, to) = match flaw {
        Flaw::MissingId => (",\"id\":\"", ",\"identifier\":\""),
        Flaw::BadTime => (",\"time\":\"", ",\"time\":\"yesterday "),
        Flaw::WrongVersion => ("\"specversion\":\"1.0\"", "\"specversion\":\"0.3\""),
        Flaw::BrokenJson => return cut_in_half(payload),
    };
    let text = std::str::from_utf8(payload).expect("the codec writes UTF-8");
    Bytes::from(text.replacen(from, to, 1))
}

fn cut_in_half(payload: &Bytes) -> Bytes {
    payload.slice(..payload.len() / 2)
}

/// A subject that `pattern` matches: its own tokens stay, one token of the kind
/// stands for each `*`, and all that are left stand for `>`.
fn nats_subject(pattern: &str, kind: EventKind) -> String {
    let mut left = kind.subject_tokens().peekable();
    let mut subject: Vec<&str> = Vec::new();
    for token in pattern.split('.') {
        match token {
            "*" | ">" if left.peek().is_none() => subject.push("all"),
            "*" => subject.extend(left.next()),
            ">" => left.by_ref().for_each(|token| subject.push(token)),
            literal => subject.push(literal),
        }
    }
    subject.join(".")
}
