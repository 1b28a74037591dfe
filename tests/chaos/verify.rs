//! The known answer: what the stream holds, message by message, against rows and dead letters.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{Context, Message};
use futures::{StreamExt, TryStreamExt};
use ganesh::event::{self, Event, Timestamp};
use sqlx::Executor;

use super::constraints::{self, Constrained};
use super::operator::{self, Now};
use super::postgres::FILLER;
use super::scene::Scene;
use super::schedule::REPLICAS;
use super::{neighbours, special};
use crate::support::reads::{latest_at, newest_in_postgres};
use crate::support::{PATIENCE, Stack};

/// Events whose row Postgres refuses begin with this.
pub const POISON: &str = "poison-";
/// All subjects that messages are published on which a client can read.
const READABLE: &[&str] = &[
    "events.device.>",
    "events.order.>",
    "events.page.>",
    "events.payment.>",
    special::SUBJECT,
];
/// Subjects whose newest state is compared.
const SUBJECTS_COMPARED: i64 = 300;

/// An event's identity, hashed: millions of them are compared.
pub type Key = u128;

/// A dead letter.
#[derive(Debug)]
pub struct Letter {
    /// `ganesh-dlq-reason`.
    pub reason: String,
    /// `ganesh-dlq-detail`.
    pub detail: String,
}

/// What ought to be there.
#[derive(Default)]
struct Expected {
    /// Messages that the stream holds.
    messages: u64,
    rows: HashSet<Key>,
    /// By stream sequence.
    letters: HashSet<u64>,
    /// These are either.
    constrained: Vec<Constrained>,
    /// Stream sequences of the events whose rows an operator deleted.
    deleted: HashMap<Key, Vec<usize>>,
}

/// What who published it says of it: at least so much is there, as it was acknowledged, and at most
/// so much, as no more was sent. Ganesh's own code has no part in it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sent {
    /// Messages of the stream.
    pub messages: [u64; 2],
    /// Rows.
    pub rows: [u64; 2],
    /// Dead letters.
    pub letters: [u64; 2],
}

impl std::ops::Add for Sent {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let sum = |[one, two]: [u64; 2], [three, four]: [u64; 2]| [one + three, two + four];
        Self {
            messages: sum(self.messages, other.messages),
            rows: sum(self.rows, other.rows),
            letters: sum(self.letters, other.letters),
        }
    }
}

impl Sent {
    /// Messages that become rows.
    pub fn rows(messages: [u64; 2]) -> Self {
        Self {
            messages,
            rows: messages,
            ..Self::default()
        }
    }

    /// Messages that become letters.
    pub fn letters(messages: [u64; 2]) -> Self {
        Self {
            messages,
            letters: messages,
            ..Self::default()
        }
    }

    fn assert_holds_for(&self, checked: &Checked) {
        let is_within = |[least, most]: [u64; 2], count: u64| (least..=most).contains(&count);
        assert!(
            is_within(self.messages, checked.messages)
                && is_within(self.rows, (checked.rows + checked.deleted) as u64)
                && is_within(self.letters, checked.letters as u64),
            "{checked:?} is not what was published: {self:?}"
        );
    }
}

/// What was compared.
#[derive(Debug, Clone, Copy)]
pub struct Checked {
    /// Messages of the stream.
    pub messages: u64,
    /// Rows of `events`.
    pub rows: usize,
    /// Rows that an operator deleted, and that stayed away.
    pub deleted: usize,
    /// Dead letters.
    pub letters: usize,
}

/// Every message of the stream is one row or one letter, and nothing else is there; reads of
/// every replica give what Postgres says is newest.
pub async fn verify(scene: &Scene, sent: Sent) -> Checked {
    let jetstream = scene.jetstream().await;
    let mut expected = expected(scene, &jetstream).await;
    let rows = rows(scene).await;
    let letters = letters(&jetstream).await;
    constraints::verify(&expected.constrained, &rows, &letters);
    for Constrained { key, sequence, .. } in &expected.constrained {
        if rows.contains(key) {
            expected.rows.insert(*key);
        } else {
            expected.letters.insert(*sequence);
        }
    }
    let deleted = take_deleted(scene, &mut expected, &rows);
    assert_rows(&expected, &rows);
    assert_letters(&expected, &letters);
    neighbours::verify(scene).await;
    let apis: Vec<String> = (0..REPLICAS).map(|replica| scene.api(replica)).collect();
    newest(&scene.stack, &apis).await;
    let checked = Checked {
        messages: expected.messages,
        rows: rows.len(),
        deleted,
        letters: letters.len(),
    };
    sent.assert_holds_for(&checked);
    checked
}

/// Rows that an operator deleted are expected no more, but for those whose message came again; how many.
fn take_deleted(scene: &Scene, expected: &mut Expected, rows: &HashSet<Key>) -> usize {
    let deliveries = scene.deliveries.counts();
    let mut gone = 0;
    for (key, deletion) in &scene.operated.deleted {
        let sequences = &expected.deleted[key];
        let now = deletion.now(sequences, &deliveries);
        let is_there = rows.contains(key);
        let is_right = match now {
            Now::Gone => !is_there,
            Now::Back => is_there,
            Now::Either => true,
        };
        assert!(
            is_right,
            "an operator deleted the row of {sequences:?}: is there {is_there}, expected {now:?}"
        );
        if !is_there {
            expected.rows.remove(key);
            gone += 1;
        }
    }
    gone
}

fn assert_rows(expected: &Expected, rows: &HashSet<Key>) {
    let missing = expected.rows.difference(rows).count();
    let unknown = rows.difference(&expected.rows).count();
    assert_eq!(
        (missing, unknown),
        (0, 0),
        "rows that are missing, that nobody sent"
    );
}

fn assert_letters(expected: &Expected, letters: &HashMap<u64, Vec<Letter>>) {
    let twice: Vec<_> = letters.iter().filter(|(_, all)| all.len() > 1).collect();
    assert!(twice.is_empty(), "messages with two letters: {twice:?}");
    let found: HashSet<u64> = letters.keys().copied().collect();
    let missing: Vec<_> = expected.letters.difference(&found).collect();
    let unknown: Vec<_> = found.difference(&expected.letters).collect();
    let why: Vec<_> = unknown.iter().map(|sequence| &letters[sequence]).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "letters: missing {missing:?}, unknown {unknown:?}: {why:?}"
    );
}

/// An event's identity, hashed.
pub fn key(source: &str, id: &str, time: Timestamp) -> Key {
    let text = format!("{source}\0{id}\0{}", time.micros());
    xxhash_rust::xxh3::xxh3_128(text.as_bytes())
}

/// The messages of a stream on these subjects, and how many they are.
async fn messages_of(
    stream: &Stream,
    subjects: &[&str],
) -> (u64, impl futures::Stream<Item = Message> + Unpin) {
    let config = OrderedConfig {
        filter_subjects: subjects.iter().map(|&subject| subject.to_owned()).collect(),
        ..OrderedConfig::default()
    };
    // The cluster can have just lost a server.
    let began = Instant::now();
    let consumer = loop {
        match stream.create_consumer(config.clone()).await {
            Ok(consumer) => break consumer,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    let count = consumer.cached_info().num_pending;
    let messages = consumer.messages().await.unwrap();
    let messages = messages.map(Result::unwrap);
    (count, messages.take(usize::try_from(count).unwrap()))
}

/// By the stream's own messages, decoded as ganesh does; but for those that a client cannot read,
/// which are known.
async fn expected(scene: &Scene, jetstream: &Context) -> Expected {
    let unreadable = &scene.unreadable;
    let stream = jetstream.get_stream("EVENTS").await.unwrap();
    let began = Instant::now();
    // In a cluster the two were once seen to differ.
    let (messages, mut stored) = loop {
        let (readable, stored) = messages_of(&stream, READABLE).await;
        let delivers = readable + unreadable.len() as u64;
        let holds = stream.get_info().await.unwrap().state.messages;
        if holds == delivers {
            break (holds, stored);
        }
        println!("the stream holds {holds} messages, and delivers {delivers}");
        assert!(began.elapsed() < PATIENCE, "which is not the same");
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    let mut expected = Expected {
        messages,
        letters: unreadable.iter().copied().collect(),
        ..Expected::default()
    };
    while let Some(message) = stored.next().await {
        let sequence = message.info().unwrap().stream_sequence;
        let Some(event) = decoded(&message).filter(|event| !event.id.starts_with(POISON)) else {
            expected.letters.insert(sequence);
            continue;
        };
        let key = key(&event.source, &event.id, event.time);
        if scene.operated.deleted.contains_key(&key) {
            let sequence = usize::try_from(sequence).unwrap();
            expected.deleted.entry(key).or_default().push(sequence);
        }
        if event.source.starts_with(constraints::SOURCE) {
            expected.constrained.push(Constrained {
                sequence,
                key,
                source: event.source,
                id: event.id,
            });
        } else {
            expected.rows.insert(key);
        }
    }
    expected
}

/// None: it has to become a letter.
fn decoded(message: &Message) -> Option<Event> {
    let info = message.info().unwrap();
    let published_at = Timestamp::from_nanos(info.published.unix_timestamp_nanos());
    event::decode(
        &event::Message {
            subject: &message.subject,
            headers: message.headers.as_ref(),
            payload: &message.payload,
            stream: "EVENTS",
            stream_sequence: info.stream_sequence,
            published_at,
        },
        true,
    )
    .ok()
}

/// Those of messages; those that no message made are as they have to be.
///
/// While rows of the default partition move to a new one, a statement that was planned before it waits,
/// and then finds them in neither; holding the default one keeps them where they are.
async fn rows(scene: &Scene) -> HashSet<Key> {
    let mut transaction = scene.stack.pool.begin().await.unwrap();
    transaction
        .execute("LOCK TABLE events_default IN ACCESS SHARE MODE")
        .await
        .unwrap();
    operator::verify_fillers(scene, &mut transaction).await;
    operator::verify_changed(scene, &mut transaction).await;
    let statement = format!(
        "SELECT source, id, (extract(epoch FROM time) * 1000000)::bigint FROM events \
         WHERE source <> '{FILLER}'"
    );
    let rows: Vec<Key> = sqlx::query_as::<_, (String, String, i64)>(&statement)
        .fetch(&mut *transaction)
        .map_ok(|(source, id, micros)| key(&source, &id, Timestamp::from_micros(micros)))
        .try_collect()
        .await
        .unwrap();
    let distinct: HashSet<Key> = rows.iter().copied().collect();
    assert_eq!(rows.len(), distinct.len(), "an event is a row twice");
    distinct
}

/// By stream sequences of the originals.
async fn letters(jetstream: &Context) -> HashMap<u64, Vec<Letter>> {
    let stream = jetstream.get_stream("EVENTS_DLQ").await.unwrap();
    let (_, mut stored) = messages_of(&stream, &[]).await;
    let mut letters: HashMap<u64, Vec<Letter>> = HashMap::new();
    while let Some(letter) = stored.next().await {
        let headers = letter.headers.as_ref().unwrap();
        let header = |name: &str| headers.get(name).map(ToString::to_string);
        let sequence = header("ganesh-dlq-stream-sequence").unwrap();
        letters
            .entry(sequence.parse().unwrap())
            .or_default()
            .push(Letter {
                reason: header("ganesh-dlq-reason").unwrap(),
                detail: header("ganesh-dlq-detail").unwrap_or_default(),
            });
    }
    letters
}

async fn newest(stack: &Stack, apis: &[String]) {
    let statement = "SELECT subject FROM events WHERE subject IS NOT NULL \
        GROUP BY subject ORDER BY count(*) DESC LIMIT $1";
    let subjects: Vec<String> = sqlx::query_scalar(statement)
        .bind(SUBJECTS_COMPARED)
        .fetch_all(&stack.pool)
        .await
        .unwrap();
    let client = reqwest::Client::new();
    for subject in &subjects {
        let expected = newest_in_postgres(&stack.pool, subject).await;
        for api in apis {
            let answer = latest_at(&client, api, subject).await;
            assert_eq!(answer.id, expected, "{subject} at {api}: {answer:?}");
        }
    }
}
