//! Reading the letters one after the other, however many there are: in pages that are bounded in
//! messages and in bytes, through one consumer that acknowledges nothing and changes nothing.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use async_nats::jetstream::consumer::pull::{self, BatchConfig};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer};
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{self, Context};
use async_nats::{Message, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use time::OffsetDateTime;

use super::{Letter, complete};
use crate::error::Error;
use crate::event::Timestamp;
use crate::messaging::streams::{DLQ_SUBJECT_PREFIX, api_error};

/// Messages of a page at most.
const PAGE_MAX_MESSAGES: usize = 512;
/// Bytes of a page at most, unless one message needs more.
const PAGE_MAX_BYTES: usize = 4 << 20;
/// What a message has besides headers and body, at most: its subject, and where it is delivered.
const SUBJECTS_MAX_BYTES: usize = 64 << 10;
/// How long a message of a page may take to arrive.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often in a row reading fails before it is given up, and how long between two attempts.
const ATTEMPTS_MAX: u32 = 5;
const ATTEMPT_EVERY: Duration = Duration::from_secs(1);
/// How long the server keeps the consumer of a scan that has gone, or pauses.
const CONSUMER_KEPT: Duration = Duration::from_secs(60);
/// First halves whose second one was not read yet; they are written one after the other.
const FIRST_HALVES_MAX: usize = 256;

/// Which letters.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// With one of these reasons, unless empty.
    pub reasons: Vec<String>,
    /// Of messages whose subject matches this pattern.
    pub subject: Option<String>,
    /// Written at this time or later.
    pub since: Option<Timestamp>,
}

impl Filter {
    /// The pattern of the subjects of the letters.
    pub fn letter_subjects(&self) -> String {
        format!(
            "{DLQ_SUBJECT_PREFIX}{}",
            self.subject.as_deref().unwrap_or(">")
        )
    }

    /// Whether the reason is one of those asked for; the rest of the filter the server applies.
    fn takes(&self, letter: &Letter) -> bool {
        self.reasons.is_empty() || self.reasons.iter().any(|reason| reason == letter.reason())
    }
}

/// Whether bodies are read too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bodies {
    /// With them.
    Read,
    /// Their length is enough.
    LeftOut,
}

/// How many letters there are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Count {
    /// All of them.
    pub letters: u64,
    /// Of those, what [`Letter::is_being_written`].
    pub being_written: u64,
}

/// The letters up to a sequence, oldest first; halves without the other one last.
pub struct Scan {
    jetstream: Context,
    stream: Stream,
    filter: Filter,
    bodies: Bodies,
    /// What is written later is not read: a replayed letter that fails again would be replayed again.
    last_sequence: u64,
    next_sequence: u64,
    inbox: Subject,
    messages: Subscriber,
    consumer: Option<PullConsumer>,
    /// What the consumer's next delivery is numbered, if none was lost on the way.
    next_delivery: u64,
    page: VecDeque<Letter>,
    pages_read: u64,
    first_halves: BTreeMap<u64, Letter>,
}

/// How a page ended.
enum PageEnd {
    /// There may be more.
    More,
    /// There is no more.
    Last,
    /// Some of it did not arrive.
    Failed(String),
}

impl Scan {
    /// Begins a scan of what the stream holds now, up to `last_sequence`.
    ///
    /// # Errors
    /// When the client is closed.
    pub async fn open(
        jetstream: &Context,
        stream: &Stream,
        filter: &Filter,
        bodies: Bodies,
        last_sequence: u64,
    ) -> Result<Self, Error> {
        let client = jetstream.client();
        let inbox = client.new_inbox();
        let messages = client
            .subscribe(format!("{inbox}.*"))
            .await
            .map_err(|error| api_error(&error.to_string()))?;
        Ok(Self {
            jetstream: jetstream.clone(),
            stream: stream.clone(),
            filter: filter.clone(),
            bodies,
            last_sequence,
            next_sequence: 0,
            inbox: inbox.into(),
            messages,
            consumer: None,
            next_delivery: 1,
            page: VecDeque::new(),
            pages_read: 0,
            first_halves: BTreeMap::new(),
        })
    }

    /// The next letter.
    ///
    /// # Errors
    /// When JetStream does not answer, however often it is asked.
    pub async fn next(&mut self) -> Result<Option<Letter>, Error> {
        loop {
            let letter = match self.read().await? {
                Some(message) => match self.joined(message).await? {
                    Some(letter) => letter,
                    None => continue,
                },
                None => match self.first_halves.pop_first() {
                    Some((_, half)) => half,
                    None => return Ok(None),
                },
            };
            if self.filter.takes(&letter) {
                return Ok(Some(letter));
            }
        }
    }

    /// How many letters there are still.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn count(mut self) -> Result<Count, Error> {
        let mut count = Count::default();
        while let Some(letter) = self.next().await? {
            count.letters += 1;
            count.being_written += u64::from(letter.is_being_written());
        }
        self.close().await;
        Ok(count)
    }

    /// Removes the consumer, which would end by itself a little later.
    pub async fn close(self) {
        if let Some(consumer) = &self.consumer {
            let name = &consumer.cached_info().name;
            let _ = self.stream.delete_consumer(name).await;
        }
    }

    /// A first half waits for the second one, which takes it.
    async fn joined(&mut self, mut letter: Letter) -> Result<Option<Letter>, Error> {
        if letter.is_first_half() {
            // Many of them may wait: a body that is wanted is read once more.
            letter.body = Bytes::new();
            self.first_halves.insert(letter.sequence, letter);
            let too_many = self.first_halves.len() > FIRST_HALVES_MAX;
            let oldest = too_many.then(|| self.first_halves.pop_first()).flatten();
            return Ok(oldest.map(|(_, half)| half));
        }
        let first = letter
            .other_part()
            .and_then(|sequence| self.first_halves.remove(&sequence));
        match first {
            Some(first) if self.bodies == Bodies::LeftOut && letter.is_continued_from(&first) => {
                letter.continue_from(&first);
            }
            _ => complete(&self.stream, &mut letter).await?,
        }
        Ok(Some(letter))
    }

    /// The next message, until the last one.
    async fn read(&mut self) -> Result<Option<Letter>, Error> {
        let mut failures = 0;
        while self.page.is_empty() && self.next_sequence <= self.last_sequence {
            // On the heap: making a consumer is large.
            match Box::pin(self.read_page()).await {
                PageEnd::More => failures = 0,
                PageEnd::Last => self.next_sequence = self.last_sequence + 1,
                PageEnd::Failed(why) => {
                    self.consumer = None;
                    failures += u32::from(self.page.is_empty());
                    if failures == ATTEMPTS_MAX {
                        return Err(api_error(&format!("reading the dead letters: {why}")));
                    }
                    tracing::warn!(why, "reading the dead letters failed; trying again");
                    tokio::time::sleep(ATTEMPT_EVERY).await;
                }
            }
        }
        Ok(self.page.pop_front())
    }

    /// Asks for a page and takes what arrives of it.
    async fn read_page(&mut self) -> PageEnd {
        if self.consumer.is_none() {
            match self.consume().await {
                Ok(consumer) => {
                    self.next_delivery = 1;
                    self.consumer = Some(consumer);
                }
                Err(why) => return PageEnd::Failed(why),
            }
        }
        let Some(consumer) = &self.consumer else {
            return PageEnd::Last; // It was made just now.
        };
        self.pages_read += 1;
        let reply = Subject::from(format!("{}.{}", self.inbox, self.pages_read));
        let least_bytes = self.jetstream.client().max_payload() + SUBJECTS_MAX_BYTES;
        let request = BatchConfig {
            batch: PAGE_MAX_MESSAGES,
            max_bytes: PAGE_MAX_BYTES.max(least_bytes),
            no_wait: true,
            ..BatchConfig::default()
        };
        if let Err(error) = consumer.request_batch(request, reply.clone()).await {
            return PageEnd::Failed(error.to_string());
        }
        for _ in 0..PAGE_MAX_MESSAGES {
            let message = match tokio::time::timeout(MESSAGE_TIMEOUT, self.messages.next()).await {
                Ok(Some(message)) => message,
                Ok(None) => return PageEnd::Failed("the connection is closed".to_owned()),
                Err(_) => return PageEnd::Failed("no answer in time".to_owned()),
            };
            if let Some(end) = self.take(message, &reply) {
                return end;
            }
        }
        PageEnd::More
    }

    /// A consumer that begins where the scan is. In memory and of one replica, as it is soon gone.
    async fn consume(&self) -> Result<PullConsumer, String> {
        let deliver_policy = match self.filter.since {
            Some(since) if self.next_sequence == 0 => DeliverPolicy::ByStartTime {
                start_time: offset_date_time(since),
            },
            _ if self.next_sequence == 0 => DeliverPolicy::All,
            _ => DeliverPolicy::ByStartSequence {
                start_sequence: self.next_sequence,
            },
        };
        let config = pull::Config {
            description: Some("ganesh dlq".to_owned()),
            deliver_policy,
            ack_policy: AckPolicy::None,
            filter_subject: self.filter.letter_subjects(),
            headers_only: self.bodies == Bodies::LeftOut,
            inactive_threshold: CONSUMER_KEPT,
            num_replicas: 1,
            memory_storage: true,
            ..pull::Config::default()
        };
        self.stream
            .create_consumer(config)
            .await
            .map_err(|error| error.to_string())
    }

    /// Takes a message into the page, or says how the page ended.
    fn take(&mut self, message: Message, reply: &Subject) -> Option<PageEnd> {
        match message.status {
            None | Some(StatusCode::OK) => {}
            // The end of an earlier page, or of a message of it, whose loss we had assumed.
            Some(_) if message.subject != *reply => return None,
            Some(status) => return Some(end_of_page(status, message.description.as_deref())),
        }
        let context = self.jetstream.clone();
        let message = jetstream::Message { message, context };
        let Ok(info) = message.info() else {
            return None; // A stranger's, on our inbox.
        };
        let sequence = info.stream_sequence;
        if info.consumer != self.consumer_name() {
            return None;
        }
        if info.consumer_sequence != self.next_delivery {
            return Some(PageEnd::Failed("a message was lost on the way".to_owned()));
        }
        self.next_delivery += 1;
        let (last, written_at) = (info.pending == 0, info.published.unix_timestamp_nanos());
        if sequence > self.last_sequence {
            return Some(PageEnd::Last);
        }
        self.next_sequence = sequence + 1;
        let message = message.message;
        self.page.push_back(Letter::read(
            sequence,
            Timestamp::from_nanos(written_at),
            &message.subject,
            message.headers.unwrap_or_default(),
            message.payload,
        ));
        last.then_some(PageEnd::Last)
    }

    fn consumer_name(&self) -> &str {
        let consumer = self.consumer.as_ref();
        consumer.map_or("", |consumer| &consumer.cached_info().name)
    }
}

fn end_of_page(status: StatusCode, description: Option<&str>) -> PageEnd {
    let description = description.unwrap_or_default();
    match status {
        // All that there were; or fewer than asked for, and the next page says whether that was all.
        StatusCode::NOT_FOUND => PageEnd::Last,
        StatusCode::TIMEOUT => PageEnd::More,
        StatusCode::REQUEST_TERMINATED
            if description.eq_ignore_ascii_case("batch completed")
                || description.eq_ignore_ascii_case("message size exceeds maxbytes") =>
        {
            PageEnd::More
        }
        StatusCode::NO_RESPONDERS => PageEnd::Failed(
            "JetStream does not answer, or the consumer of this scan is gone".to_owned(),
        ),
        status => PageEnd::Failed(format!("{status} {description}")),
    }
}

fn offset_date_time(time: Timestamp) -> OffsetDateTime {
    let nanos = i128::from(time.micros()) * 1_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos)
        .expect("a Timestamp lies in the years 0001 to 9999")
}
