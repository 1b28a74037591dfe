//! Removing objects that no letter names: a crash between object and letter leaves one, and so does a
//! letter that somebody deletes by hand.
//!
//! An object is abandoned when it has not changed for [`ABANDONED_AFTER`] and no letter names it. A letter
//! that comes late is safe: see [`super::publish`]. What is removed is that version of the object, not one
//! that was put in its place meanwhile.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::stream::{LastRawMessageErrorKind, State, Stream};
use futures::StreamExt;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::bucket::{Bucket, Found, subjects};
use super::publish::LETTER_WITHIN;
use super::scan::{Filter, Scan, prefix_of};
use crate::error::Error;
use crate::messaging::streams::api_error;

/// An older object without a letter is abandoned: the time that a letter has, doubled.
pub const ABANDONED_AFTER: Duration = LETTER_WITHIN.saturating_mul(2);
/// How often it is looked for them. A look at what has not changed since the last one is a few requests.
pub(crate) const SWEEP_EVERY: Duration = Duration::from_mins(5);

pub(crate) async fn run(bucket: Bucket, stop: CancellationToken) {
    let mut sweeper = Sweeper::new(bucket, ABANDONED_AFTER);
    // The first one notes what is there, so that a process need not live long to remove it.
    let mut ticks = interval(SWEEP_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
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
    /// Versions of objects that have chunks: how many, and when that was first seen.
    versions: HashMap<String, (usize, Instant)>,
    /// What the last sweep found, unless objects were too young to be judged.
    swept: Option<Activity>,
}

/// An object is abandoned only after the bucket or the number of letters ever deleted has changed.
#[derive(Debug, PartialEq, Eq)]
struct Activity {
    bucket_messages: u64,
    bucket_last_sequence: u64,
    letters_deleted: u64,
}

/// What may be abandoned: objects by name, and versions without a description.
#[derive(Debug, Default)]
struct Suspects {
    objects: HashMap<String, Found>,
    versions: Vec<String>,
}

impl Sweeper {
    /// Takes objects that have not changed for so long for abandoned.
    pub fn new(bucket: Bucket, abandoned_after: Duration) -> Self {
        Self {
            bucket,
            abandoned_after,
            versions: HashMap::new(),
            swept: None,
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
        let bucket = self.look_at_bucket().await?;
        let state = &letters.cached_info().state;
        let activity = Activity {
            bucket_messages: bucket.messages,
            bucket_last_sequence: bucket.last_sequence,
            letters_deleted: state.last_sequence.saturating_sub(state.messages),
        };
        if self.swept.as_ref() == Some(&activity) {
            return Ok(0);
        }
        let (old, all_are_old) = self.old_versions();
        let mut suspects = self.suspects(old).await?;
        if !suspects.objects.is_empty() {
            acquit(&letters, &mut suspects.objects).await?;
        }
        for version in &suspects.versions {
            self.bucket.purge(version).await?;
        }
        for object in suspects.objects.values() {
            self.bucket.remove_found(object).await?;
        }
        self.swept = all_are_old.then_some(activity);
        Ok(suspects.versions.len() + suspects.objects.len())
    }

    /// Notes all versions of objects that have chunks. Returns what the server said of the stream
    /// before.
    async fn look_at_bucket(&mut self) -> Result<State, Error> {
        let [chunks, _] = subjects(&self.bucket.name);
        let prefix = chunks.trim_end_matches('>');
        let stream = self.bucket.stream().await?;
        let listing = stream.info_with_subjects(&chunks).await;
        let mut listing = listing.map_err(|error| self.bucket.failed(&error))?;
        let state = listing.info.state.clone();
        let now = Instant::now();
        let mut versions = HashMap::new();
        while let Some(listed) = listing.next().await {
            let (subject, count) = listed.map_err(|error| self.bucket.failed(&error))?;
            let version = subject.trim_start_matches(prefix);
            let before = self.versions.get(version);
            // While a version is put, it grows.
            let since = before.filter(|(chunks, _)| *chunks == count);
            let since = since.map_or(now, |(_, since)| *since);
            versions.insert(version.to_owned(), (count, since));
        }
        self.versions = versions;
        Ok(state)
    }

    /// Those that are old enough to be abandoned, and whether these are all.
    fn old_versions(&self) -> (Vec<String>, bool) {
        let is_old = |since: Instant| since.elapsed() >= self.abandoned_after;
        let old = self
            .versions
            .iter()
            .filter(|(_, (_, since))| is_old(*since));
        let old: Vec<String> = old.map(|(version, _)| version.clone()).collect();
        let all_are_old = old.len() == self.versions.len();
        (old, all_are_old)
    }

    async fn suspects(&self, old: Vec<String>) -> Result<Suspects, Error> {
        let mut suspects = Suspects::default();
        for version in old {
            // What others put into the bucket has other names.
            let Some((name, _)) = version.rsplit_once(':') else {
                continue;
            };
            match self.bucket.find(name).await? {
                Some(found) if found.version == version => {
                    suspects.objects.insert(name.to_owned(), found);
                }
                _ => suspects.versions.push(version),
            }
        }
        Ok(suspects)
    }
}

/// Takes those that a letter names out of the suspects.
///
/// # Errors
/// Also when not all letters were read: the consumer may be where the stream is behind.
async fn acquit(letters: &Stream, suspects: &mut HashMap<String, Found>) -> Result<(), Error> {
    let subjects = format!("{}>", prefix_of(letters));
    let last = match letters.get_last_raw_message_by_subject(&subjects).await {
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
