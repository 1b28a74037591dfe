//! The message that a letter is replayed as. Pure.

use async_nats::{HeaderMap, HeaderValue};
use bytes::Bytes;

use super::write::{HEADERS_MAX_BYTES, block_len};
use super::{Letter, STREAM, STREAM_SEQUENCE, UNREADABLE, is_acted_on, lines};
use crate::config::covers;
use crate::event::replay::{FIRST_SEEN, FIRST_SEQUENCE, GENERATION, GENERATION_MARK};
use crate::messaging::reported::ReportedConfig;

#[derive(Debug, Clone)]
pub(crate) struct Replay {
    pub(crate) subject: String,
    /// Its headers, and those that make it the same event again.
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Its `Nats-Msg-Id`.
    pub(crate) id: String,
}

/// What a replay must fit.
#[derive(Debug)]
pub(crate) struct ReplayLimits {
    /// The event stream.
    pub(crate) stream: ReportedConfig,
    pub(crate) max_generation: u32,
    pub(crate) payload_max_bytes: usize,
}

/// Whether a letter can be replayed, by what it says without its body.
///
/// # Errors
/// Why it is not replayed.
pub(crate) fn check(letter: &Letter, limits: &ReplayLimits) -> Result<(), String> {
    let max_generation = limits.max_generation;
    if letter.reason() == UNREADABLE {
        return Err(
            "the headers of its message are not what a NATS client can read or write; ganesh dlq show \
             has them: publish the event anew"
                .to_owned(),
        );
    }
    // As a message without headers may have. What a replay sends has headers.
    if letter.subject().contains(char::is_whitespace) {
        return Err(
            "its subject has white space in it, and a replay has headers, with which no NATS client \
             can read that: publish the event anew, on another subject"
                .to_owned(),
        );
    }
    check_subject(letter.subject())?;
    let (stream, ..) = first_place(letter)?;
    check_is_taken(letter.subject(), stream, &limits.stream)?;
    let generation = letter.generation();
    if generation >= max_generation {
        return Err(format!(
            "it was replayed {generation} times and failed each time; --max-generation {} replays it \
             once more",
            generation + 1
        ));
    }
    fits(letter.body_bytes, limits.payload_max_bytes)
}

/// Whoever may publish to the dead-letter stream chooses the subject, and an operator may publish where
/// that one may not.
fn check_subject(subject: &str) -> Result<(), String> {
    if subject.starts_with('$') {
        return Err(format!(
            "its subject is {subject}, and a replay never publishes to a subject that begins with $: somebody \
             else wrote this letter"
        ));
    }
    if subject
        .split('.')
        .any(|token| ["", "*", ">"].contains(&token))
    {
        return Err(format!(
            "no message can have the subject {subject}: somebody else wrote this letter"
        ));
    }
    Ok(())
}

/// The message must come back into the event stream, and nowhere else.
fn check_is_taken(subject: &str, of: &str, events: &ReportedConfig) -> Result<(), String> {
    let name = events.text("name");
    if of != name {
        return Err(format!(
            "its message is of stream {of}, and GANESH_STREAM is {name}: replay it with --stream {of}"
        ));
    }
    if let Some(origin) = events.get("mirror")["name"].as_str() {
        return Err(format!(
            "stream {name} is a mirror of {origin}, and takes no messages itself: publish the event anew on \
             {origin}"
        ));
    }
    let mut patterns = events.texts("subjects").into_iter();
    if patterns.any(|pattern| covers(pattern, subject)) {
        return Ok(());
    }
    let sources = events.get("sources").as_array().into_iter().flatten();
    let sources: Vec<&str> = sources
        .filter_map(|source| source["name"].as_str())
        .collect();
    let refusal = format!("stream {name} does not take the subject {subject}");
    Err(if sources.is_empty() {
        format!("{refusal}: add it to the subjects of the stream, or publish the event anew")
    } else {
        let sources = sources.join(", ");
        format!("{refusal}; it has messages from {sources}: publish the event anew there")
    })
}

fn fits(bytes: u64, max_bytes: usize) -> Result<(), String> {
    if bytes > max_bytes as u64 {
        return Err(format!(
            "its message has {bytes} bytes, and the server takes {max_bytes}: raise the server's \
             max_payload above {bytes} to replay it"
        ));
    }
    Ok(())
}

/// Builds the message of a replay, one generation further. Headers that NATS acts on (expected
/// sequence, rollup, time to live) are left out: they took effect when the message was first
/// published.
///
/// # Errors
/// Why it is not replayed.
pub(crate) fn replay(letter: &Letter, limits: &ReplayLimits) -> Result<Replay, String> {
    check(letter, limits)?;
    let (stream, seen, sequence) = first_place(letter)?;
    let generation = letter.generation();
    let original = letter.original_headers();
    let first_id = first_id(&original, generation);
    let first_id = first_id.unwrap_or_else(|| format!("{stream}:{sequence}"));
    let generation = generation + 1;
    let id = format!("{first_id}{GENERATION_MARK}{generation}");
    let mut headers = HeaderMap::new();
    for (name, value) in lines(&original).filter(|(name, _)| !is_acted_on(name.as_ref())) {
        headers.append(name.clone(), value.clone());
    }
    headers.insert("Nats-Msg-Id", id.as_str());
    // Another stream would make another source of a plain message.
    headers.insert("Nats-Expected-Stream", stream);
    headers.insert(GENERATION, HeaderValue::from(u64::from(generation)));
    headers.insert(FIRST_SEEN, seen);
    headers.insert(FIRST_SEQUENCE, sequence);
    let headers_bytes = block_len(&headers);
    if headers_bytes > HEADERS_MAX_BYTES {
        return Err(format!(
            "with those of a replay it has {headers_bytes} bytes of headers, and JetStream stores \
             {HEADERS_MAX_BYTES}: publish the event anew"
        ));
    }
    fits(
        (headers_bytes + letter.body.len()) as u64,
        limits.payload_max_bytes,
    )?;
    Ok(Replay {
        subject: letter.subject().to_owned(),
        headers,
        body: letter.body.clone(),
        id,
    })
}

/// Stream, time and sequence of the first delivery.
fn first_place(letter: &Letter) -> Result<(&str, &str, &str), String> {
    let sequence = letter.header(FIRST_SEQUENCE);
    let sequence = sequence.or_else(|| letter.header(STREAM_SEQUENCE));
    match (letter.header(STREAM), letter.header(FIRST_SEEN), sequence) {
        (Some(stream), Some(seen), Some(sequence)) => Ok((stream, seen, sequence)),
        _ => Err(
            "it does not say from which stream, sequence and time its message is: not written by ganesh"
                .to_owned(),
        ),
    }
}

/// The `Nats-Msg-Id` of the first delivery, if it had one.
fn first_id(original: &HeaderMap, generation: u32) -> Option<String> {
    let (_, id) = lines(original).find(|(name, _)| {
        let name: &str = name.as_ref();
        name.eq_ignore_ascii_case("nats-msg-id")
    })?;
    let id = id.as_str();
    if id.is_empty() {
        return None;
    }
    let suffix = format!("{GENERATION_MARK}{generation}");
    match generation {
        0 => Some(id.to_owned()),
        _ => Some(id.strip_suffix(&suffix).unwrap_or(id).to_owned()),
    }
}
