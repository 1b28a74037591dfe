//! Reading the letters one after the other, however many there are: without their bodies, in pages,
//! through one consumer that acknowledges nothing and changes nothing.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::Stream;
use futures::StreamExt;
use time::OffsetDateTime;

use super::Letter;
use crate::backoff::Backoff;
use crate::error::Error;
use crate::event::Timestamp;
use crate::messaging::streams::{api_error, letter_prefix};

/// Letters of a page at most. Each has headers of at most 64 KiB and no body.
const PAGE_MAX_LETTERS: usize = 64;
/// How long a message of a page may take to arrive.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often in a row reading fails before it is given up.
const ATTEMPTS_MAX: u32 = 5;
/// How long the first wait after a failure is: elections of a cluster take seconds.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// How long the server keeps the consumer of a scan that has gone, or pauses.
const CONSUMER_KEPT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    /// With one of these reasons, unless empty.
    pub(crate) reasons: Vec<String>,
    /// The subject matches this pattern.
    pub(crate) subject: Option<String>,
    /// Written at this time or later.
    pub(crate) since: Option<Timestamp>,
}

impl Filter {
    /// The pattern of the subjects of the letters.
    fn letter_subjects(&self, stream: &Stream) -> String {
        let prefix = prefix_of(stream);
        format!("{prefix}{}", self.subject.as_deref().unwrap_or(">"))
    }

    /// Returns whether the reason matches; the server applies the rest of the filter.
    fn takes(&self, letter: &Letter) -> bool {
        self.reasons.is_empty() || self.reasons.iter().any(|reason| reason == letter.reason())
    }
}

/// The letters up to a sequence, oldest first.
pub(crate) struct Scan {
    stream: Stream,
    filter: Filter,
    /// Later letters are not read: a replayed letter that fails again would be replayed again.
    last_sequence: u64,
    next_sequence: u64,
    consumer: Option<PullConsumer>,
    /// The expected number of the consumer's next delivery.
    next_delivery: u64,
    page: VecDeque<Letter>,
}

impl Scan {
    /// A scan of what the stream holds now, up to `last_sequence`.
    pub(crate) fn open(stream: &Stream, filter: &Filter, last_sequence: u64) -> Self {
        Self {
            stream: stream.clone(),
            filter: filter.clone(),
            last_sequence,
            next_sequence: 0,
            consumer: None,
            next_delivery: 1,
            page: VecDeque::new(),
        }
    }

    /// The next letter, without its body.
    ///
    /// # Errors
    /// When JetStream does not answer, however often it is asked.
    pub(crate) async fn next(&mut self) -> Result<Option<Letter>, Error> {
        let mut failures = 0;
        let mut backoff = Backoff::between(RETRY_AFTER, MESSAGE_TIMEOUT);
        loop {
            while let Some(letter) = self.page.pop_front() {
                if self.filter.takes(&letter) {
                    return Ok(Some(letter));
                }
            }
            if self.next_sequence > self.last_sequence {
                return Ok(None);
            }
            // On the heap: making a consumer is large.
            let Err(why) = Box::pin(self.read_page()).await else {
                failures = 0;
                backoff.reset();
                continue;
            };
            self.consumer = None;
            failures += u32::from(self.page.is_empty());
            if failures == ATTEMPTS_MAX {
                return Err(api_error(&format!("reading the dead letters: {why}")));
            }
            tracing::warn!(why, "reading the dead letters failed; trying again");
            backoff.wait().await;
        }
    }

    /// How many letters there are still.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub(crate) async fn count(mut self) -> Result<u64, Error> {
        let mut count = 0;
        while self.next().await?.is_some() {
            count += 1;
        }
        self.close().await;
        Ok(count)
    }

    pub(crate) async fn close(self) {
        if let Some(consumer) = &self.consumer {
            let name = &consumer.cached_info().name;
            let _ = self.stream.delete_consumer(name).await;
        }
    }

    async fn read_page(&mut self) -> Result<(), String> {
        if self.consumer.is_none() {
            self.consumer = Some(self.consume().await?);
            self.next_delivery = 1;
        }
        let Some(consumer) = &self.consumer else {
            return Ok(()); // It was made just now.
        };
        // Servers can have a limit of their own.
        let limit = usize::try_from(consumer.cached_info().config.max_batch);
        let page = limit.ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let page = page.min(PAGE_MAX_LETTERS);
        let fetching = consumer.fetch().max_messages(page).messages();
        let mut messages = fetching.await.map_err(|error| error.to_string())?;
        let before = self.next_sequence;
        while self.next_sequence <= self.last_sequence {
            let next = tokio::time::timeout(MESSAGE_TIMEOUT, messages.next()).await;
            match next.map_err(|_| "no answer in time")? {
                Some(Ok(message)) => self.take(message)?,
                Some(Err(error)) => return Err(error.to_string()),
                None if self.next_sequence > before => return Ok(()),
                // An empty page: the letters that were left have been deleted meanwhile.
                None => break,
            }
        }
        self.next_sequence = self.last_sequence + 1;
        Ok(())
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
            filter_subject: self.filter.letter_subjects(&self.stream),
            headers_only: true,
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

    fn take(&mut self, message: Message) -> Result<(), String> {
        let info = message.info().map_err(|error| error.to_string())?;
        if info.consumer_sequence != self.next_delivery {
            return Err("a message was lost on the way".to_owned());
        }
        self.next_delivery += 1;
        let (sequence, is_last) = (info.stream_sequence, info.pending == 0);
        let written_at = Timestamp::from_nanos(info.published.unix_timestamp_nanos());
        self.next_sequence = if is_last {
            self.last_sequence + 1
        } else {
            sequence + 1
        };
        if sequence <= self.last_sequence {
            let message = message.message;
            self.page.push_back(Letter::new(
                sequence,
                written_at,
                &message.subject,
                message.headers.unwrap_or_default(),
                message.payload,
            ));
        }
        Ok(())
    }
}

/// What the subjects of the letters begin with.
pub(super) fn prefix_of(letters: &Stream) -> String {
    let config = &letters.cached_info().config;
    let subjects: Vec<&str> = config.subjects.iter().map(String::as_str).collect();
    letter_prefix(&config.name, &subjects)
}

fn offset_date_time(time: Timestamp) -> OffsetDateTime {
    let nanos = i128::from(time.micros()) * 1_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos)
        .expect("a Timestamp lies in the years 0001 to 9999")
}
