//! Removing objects that no letter names: a crash between object and letter leaves one, and so does a
//! letter that somebody deletes by hand.
//!
//! An object is abandoned when it is older than [`ABANDONED_AFTER`] and no letter names it. A letter that
//! comes late is safe: see [`super::publish`]. Ages are told by the server's clock, and what is removed is
//! that version of the object, not one that was put in its place meanwhile.

use std::collections::HashMap;
use std::fmt::Display;
use std::time::Duration;

use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use serde::Deserialize;
use serde_json::json;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::bucket::{Bucket, Found, stream_name, subjects};
use super::publish::LETTER_WITHIN;
use super::scan::{Filter, Scan};
use crate::config::DLQ_SUBJECTS;
use crate::error::Error;
use crate::event::Timestamp;
use crate::messaging::streams::api_error;

/// An older object without a letter is abandoned: the time that a letter has, doubled.
pub const ABANDONED_AFTER: Duration = LETTER_WITHIN.saturating_mul(2);
/// How often it is looked for them. A look at what has not changed since the last one is two requests.
pub(crate) const SWEEP_EVERY: Duration = Duration::from_mins(5);

pub(crate) async fn run(bucket: Bucket, stop: CancellationToken) {
    let mut sweeper = Sweeper::new(bucket, ABANDONED_AFTER);
    while stop.run_until_cancelled(sleep(SWEEP_EVERY)).await.is_some() {
        // On the heap: scanning letters is large.
        let sweeping = Box::pin(sweeper.sweep());
        match stop.run_until_cancelled(sweeping).await {
            Some(Ok(removed @ 1..)) => {
                tracing::info!(removed, "removed objects that no dead letter names");
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "cannot look for objects that no dead letter names");
            }
            Some(Ok(0)) | None => {}
        }
    }
}

/// Looks for abandoned objects.
#[derive(Debug)]
pub struct Sweeper {
    bucket: Bucket,
    abandoned_after: Duration,
    /// The last sweep's activity: nothing can have been abandoned while it stays the same.
    seen: Option<BucketActivity>,
}

/// An object is abandoned only after the bucket or the number of letters ever deleted has changed.
#[derive(Debug, PartialEq, Eq)]
struct BucketActivity {
    bucket_messages: u64,
    bucket_last_sequence: u64,
    letters_deleted: u64,
}

/// The state of the bucket's stream.
#[derive(Debug, Deserialize)]
struct Info {
    /// The server's time.
    ts: String,
    /// How many subjects there are; not all of them may be in one answer.
    #[serde(default)]
    total: usize,
    state: StreamState,
}

#[derive(Debug, Deserialize)]
struct StreamState {
    messages: u64,
    last_seq: u64,
    #[serde(default)]
    subjects: HashMap<String, u64>,
}

/// Objects by name that may be abandoned, and versions without a description.
#[derive(Debug, Default)]
struct Suspects {
    objects: HashMap<String, Found>,
    versions: Vec<String>,
    /// Whether others will be suspects when they are older.
    more_later: bool,
}

impl Sweeper {
    /// Takes objects of this age for abandoned.
    pub fn new(bucket: Bucket, abandoned_after: Duration) -> Self {
        Self {
            bucket,
            abandoned_after,
            seen: None,
        }
    }

    /// Removes what is abandoned; how many objects, whole or not, that were.
    ///
    /// # Errors
    /// When JetStream does not answer, or refuses.
    pub async fn sweep(&mut self) -> Result<usize, Error> {
        let (jetstream, name) = (&self.bucket.jetstream, &self.bucket.name);
        let letters = jetstream.get_stream(name).await;
        let letters = letters.map_err(|error| api_error(&format!("stream {name}: {error}")))?;
        let (info, versions) = self.versions().await?;
        let state = &letters.cached_info().state;
        let seen = BucketActivity {
            bucket_messages: info.state.messages,
            bucket_last_sequence: info.state.last_seq,
            letters_deleted: state.last_sequence.saturating_sub(state.messages),
        };
        if self.seen.as_ref() == Some(&seen) {
            return Ok(0);
        }
        let now = Timestamp::parse_rfc3339(&info.ts)
            .ok_or_else(|| api_error("the server does not say what time it is"))?;
        let mut suspects = self.suspects(now, versions).await?;
        if !suspects.objects.is_empty() {
            self.acquit(&letters, &mut suspects.objects).await?;
        }
        for version in &suspects.versions {
            self.bucket.purge(version).await?;
        }
        for object in suspects.objects.values() {
            self.bucket.remove_found(object).await?;
        }
        self.seen = (!suspects.more_later).then_some(seen);
        Ok(suspects.versions.len() + suspects.objects.len())
    }

    /// All versions of objects that have chunks, and what the server said of the stream before.
    async fn versions(&self) -> Result<(Info, Vec<String>), Error> {
        let [chunks, _] = subjects(&self.bucket.name);
        let prefix = chunks.trim_end_matches('>');
        let mut versions = Vec::new();
        let mut first = None;
        loop {
            let mut info = self.info(&chunks, versions.len()).await?;
            let page = std::mem::take(&mut info.state.subjects);
            let is_last = page.is_empty() || versions.len() + page.len() >= info.total;
            let subjects = page.into_keys();
            versions.extend(subjects.map(|subject| subject.trim_start_matches(prefix).to_owned()));
            let info = first.take().unwrap_or(info);
            if is_last {
                return Ok((info, versions));
            }
            first = Some(info);
        }
    }

    async fn info(&self, filter: &str, offset: usize) -> Result<Info, Error> {
        let request = json!({ "subjects_filter": filter, "offset": offset });
        let stream = stream_name(&self.bucket.name);
        let failed = |why: &dyn Display| api_error(&format!("stream {stream}: {why}"));
        let asking = self
            .bucket
            .jetstream
            .request(format!("STREAM.INFO.{stream}"), &request);
        match asking.await.map_err(|error| failed(&error))? {
            Response::Ok(info) => Ok(info),
            Response::Err { error } => Err(failed(&error)),
        }
    }

    /// Objects old enough to be abandoned.
    async fn suspects(&self, now: Timestamp, versions: Vec<String>) -> Result<Suspects, Error> {
        let abandoned_after = i64::try_from(self.abandoned_after.as_micros()).unwrap_or(i64::MAX);
        let is_young = |at: Timestamp| now.micros() - at.micros() < abandoned_after;
        let mut suspects = Suspects::default();
        for version in versions {
            // What others put into the bucket has other names.
            let Some((name, _)) = version.rsplit_once(':') else {
                continue;
            };
            let found = self.bucket.find(name).await?;
            let found = found.filter(|found| found.version == version);
            let stored_at = match &found {
                Some(found) => Some(found.stored_at),
                None => self.bucket.last_chunk(&version).await?,
            };
            if stored_at.is_none_or(is_young) {
                suspects.more_later = true;
            } else if let Some(found) = found {
                suspects.objects.insert(name.to_owned(), found);
            } else {
                suspects.versions.push(version);
            }
        }
        Ok(suspects)
    }

    /// Takes those that a letter names out of the suspects.
    ///
    /// # Errors
    /// Also when not all letters were read: the consumer may be where the stream is behind.
    async fn acquit(
        &self,
        letters: &Stream,
        suspects: &mut HashMap<String, Found>,
    ) -> Result<(), Error> {
        let last = match letters.get_last_raw_message_by_subject(DLQ_SUBJECTS).await {
            Ok(letter) => letter.sequence,
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => return Ok(()),
            Err(error) => return Err(api_error(&format!("the last dead letter: {error}"))),
        };
        let mut scan = Scan::open(letters, &Filter::default(), last);
        let mut read = 0;
        while let Some(letter) = scan.next().await? {
            read = letter.sequence;
            if let Some(name) = letter.object() {
                suspects.remove(name);
            }
            if suspects.is_empty() {
                break;
            }
        }
        scan.close().await;
        if suspects.is_empty() || read == last {
            return Ok(());
        }
        Err(api_error(&format!(
            "of the dead letters up to {last}, only those up to {read} were read"
        )))
    }
}
