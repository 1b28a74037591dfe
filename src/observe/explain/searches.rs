//! Where a message, its row and its letter are looked for.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::asking::AskedPlace;
use super::inquiry::Inquiry;
use super::{jaeger, remembered};
use crate::event::{Timestamp, replay};
use crate::messaging::letters::find::{FoundLetters, LetterSearch, find};
use crate::messaging::position;
use crate::storage::trail::{self, EventRow, FoundRows, RowSearch};

/// How long the consumer's deliveries are counted for their rate.
const RATE_OVER: Duration = Duration::from_secs(1);

impl Inquiry<'_> {
    /// Whether a row was found.
    pub(super) async fn find_row(&mut self, wanted: &RowSearch<'_>) -> bool {
        let Some(mut found) = self.rows(wanted).await else {
            self.is_search_open = true;
            return false;
        };
        if found.rows.is_empty() {
            self.is_search_open |= !found.is_complete;
            self.say_how_far(&found);
            return false;
        }
        self.row = Some(found.rows.remove(0));
        if matches!(wanted, RowSearch::Id { .. }) {
            self.namesakes = found.rows;
        }
        self.rows_complete = true;
        true
    }

    pub(super) async fn find_row_by_id(
        &mut self,
        id: &str,
        source: Option<&str>,
        time: Option<Timestamp>,
    ) -> bool {
        self.find_row(&RowSearch::Id { id, source, time }).await
    }

    pub(super) async fn find_letter_by_id(&mut self, id: &str, source: Option<&str>) {
        let Some(found) = self.letters(&LetterSearch::Event { id, source }).await else {
            self.is_search_open = true;
            return;
        };
        if found.letter.is_none() && found.not_looked_into > 0 {
            self.is_search_open = true;
            self.not_known.push(format!(
                "whether a letter has this id in its body alone, as {} may: see ganesh dlq list and show",
                found.not_looked_into
            ));
        }
        self.take_letter(found);
        if self.letter.is_none() {
            let what = "whether a message that the stream holds has this id: the stream is not read through; \
                        ask by its sequence";
            self.not_known.push(what.to_owned());
        }
    }

    /// The trace names the message, or a row or a letter has the trace id.
    pub(super) async fn find_by_trace(&mut self, id: &str) {
        self.read_spans(id).await;
        if let Some(spans) = &self.spans {
            let kept = jaeger::kept(spans, &self.places.config.nats.stream, None);
            self.sequence = kept.and_then(|kept| kept.sequence);
        }
        if let (None, Ok(messages)) = (self.sequence, &self.places.remembered) {
            let remembered = remembered::last(messages, None, Some(id));
            self.sequence = remembered.map(|message| message.stream_sequence);
        }
        if self.sequence.is_some() || self.find_row(&RowSearch::Trace(id)).await {
            return;
        }
        match self.letters(&LetterSearch::Trace(id)).await {
            Some(found) => self.take_letter(found),
            None => self.is_search_open = true,
        }
        let asks_jaeger = self.places.config.telemetry.jaeger_url.is_some();
        self.is_search_open |= asks_jaeger && !self.jaeger_answered;
        if self.letter.is_none() {
            let what = "which message that the stream holds has this trace id: the stream is not read \
                        through; ask by its sequence";
            self.not_known.push(what.to_owned());
        }
    }

    /// The stream's message of this sequence, and how far the consumer is.
    pub(super) async fn ask_stream(&mut self) {
        let Some(sequence) = self.sequence else {
            return;
        };
        let config = &self.places.config.nats;
        let Some(jetstream) = self.jetstream(AskedPlace::Stream) else {
            return;
        };
        let bounds = position::stream(&jetstream, &config.stream);
        let Some(bounds) = self.ask(AskedPlace::Stream, bounds).await else {
            return;
        };
        let Some(bounds) = bounds else {
            let why = format!("stream {} (GANESH_STREAM) does not exist", config.stream);
            self.gap(AskedPlace::Stream, why);
            return;
        };
        let consumer = position::consumer(&jetstream, &config.stream, &config.consumer);
        self.consumer = self.ask(AskedPlace::Consumer, consumer).await.flatten();
        if self.consumer.is_none() {
            let consumer = &config.consumer;
            let why = format!("consumer {consumer} (GANESH_CONSUMER) does not exist");
            self.gap(AskedPlace::Consumer, why);
        }
        if (bounds.first_sequence..=bounds.last_sequence).contains(&sequence) {
            let message = position::message(&jetstream, &config.stream, sequence);
            let Some(message) = self.ask(AskedPlace::Stream, message).await else {
                return;
            };
            self.message = message;
        }
        self.bounds = Some(bounds);
        if let (Some(held), Some(known)) = (&self.message, self.published_at_elsewhere())
            && held.published_at != known
        {
            let stored_at = held.published_at;
            self.forget_stream(stored_at);
            return;
        }
        self.decode();
        self.ask_rate(&jetstream, sequence).await;
    }

    /// How fast the consumer delivers, if the message waits for that.
    async fn ask_rate(&mut self, jetstream: &async_nats::jetstream::Context, sequence: u64) {
        let config = &self.places.config.nats;
        let delivered = match &self.consumer {
            Some(consumer) if consumer.delivered < sequence && self.message.is_some() => {
                consumer.delivered
            }
            _ => return,
        };
        if self.places.limits.left() < RATE_OVER {
            return;
        }
        let began = Instant::now();
        sleep(RATE_OVER).await;
        let later = position::consumer(jetstream, &config.stream, &config.consumer);
        if let Some(later) = self.ask(AskedPlace::Consumer, later).await.flatten() {
            #[allow(clippy::cast_precision_loss, reason = "messages of a second")]
            let more = later.delivered.saturating_sub(delivered) as f64;
            self.rate_per_second = Some(more / began.elapsed().as_secs_f64());
            self.consumer = Some(later);
        }
    }

    /// Its row, or the one of its event, and its fate.
    pub(super) async fn ask_rows(&mut self) {
        let Some(sequence) = self.sequence.filter(|_| !self.is_to_come()) else {
            return;
        };
        if self.row.is_some() || self.is_marker {
            return;
        }
        let key = self.event().map(|event| {
            let key = (event.id.clone(), event.source.clone(), event.time);
            (key, self.message.as_ref().map(|held| held.published_at))
        });
        if let Some(((id, source, time), published_at)) = key {
            let wanted = RowSearch::Id {
                id: &id,
                source: Some(&source),
                time: Some(time),
            };
            if let Some(found) = self.rows(&wanted).await {
                self.rows_complete = found.is_complete;
                let row = found.rows.into_iter().next();
                let is_own = row.as_ref().is_some_and(|row| {
                    row.sequence() == sequence && Some(row.published_at) == published_at
                });
                (self.row, self.other_row) = if is_own { (row, None) } else { (None, row) };
            }
        } else if self.message.is_none() {
            // Nothing but the sequence is known.
            if let Some(found) = self.rows(&RowSearch::Sequence(sequence)).await {
                self.rows_complete = found.is_complete;
                self.say_how_far(&found);
                if found.rows.len() > 1 {
                    let what = "which of several rows is meant: the stream was made anew since";
                    self.not_known.push(what.to_owned());
                }
                self.row = found.rows.into_iter().next();
            }
        } else {
            // It is no event, so it has no row.
            self.rows_complete = true;
        }
        if self.row.is_none()
            && let Some(pool) = self.pool()
        {
            let published_at = self.published_at();
            let stream = &self.places.config.nats.stream;
            let fate = trail::fate(&pool, stream, sequence, published_at);
            self.fate = self.ask(AskedPlace::Postgres, fate).await.flatten();
            let triggers = trail::skipping_triggers(&pool);
            let triggers = self.ask(AskedPlace::Postgres, triggers).await;
            self.triggers = triggers.unwrap_or_default();
        }
        self.ask_for_replay(sequence).await;
    }

    /// Whether the message that made the row of its event is a replay of it.
    async fn ask_for_replay(&mut self, sequence: u64) {
        let Some(other) = self.other_row.as_ref().map(EventRow::sequence) else {
            return;
        };
        let Some(jetstream) = self.jetstream(AskedPlace::Stream) else {
            return;
        };
        let stream = &self.places.config.nats.stream;
        let replay = position::message(&jetstream, stream, other);
        if let Some(Some(replay)) = self.ask(AskedPlace::Stream, replay).await
            && let Some(first) = replay::first_delivery(Some(&replay.headers), replay.published_at)
        {
            self.replayed_as = (first.sequence == sequence).then_some(other);
        }
    }

    pub(super) async fn ask_letters(&mut self) {
        let Some(sequence) = self.sequence.filter(|_| !self.is_to_come()) else {
            return;
        };
        let waits = self.message.is_some()
            && (self.consumer.as_ref()).is_some_and(|consumer| consumer.delivered < sequence);
        if self.row.is_some() || self.is_marker || self.letter.is_some() || waits {
            return;
        }
        let held = self.message.clone();
        let stream = self.places.config.nats.stream.clone();
        let known = held.as_ref();
        let wanted = LetterSearch::Message {
            stream: &stream,
            sequence,
            known: known.map(|held| (held.published_at, held.subject.as_str())),
        };
        if let Some(found) = self.letters(&wanted).await {
            self.take_letter(found);
        }
    }

    /// Whether the stream has not taken it yet.
    pub(super) fn is_to_come(&self) -> bool {
        let last = self.bounds.as_ref().map(|bounds| bounds.last_sequence);
        last.zip(self.sequence)
            .is_some_and(|(last, sequence)| sequence > last)
    }

    fn take_letter(&mut self, found: FoundLetters) {
        self.letters_complete = found.is_complete || found.letter.is_some();
        if !self.letters_complete {
            self.is_search_open = true;
            let what = "whether a dead letter names it: there are too many to look at all; ganesh dlq list";
            self.not_known.push(what.to_owned());
        }
        self.letter = found.letter;
    }

    async fn letters(&mut self, wanted: &LetterSearch<'_>) -> Option<FoundLetters> {
        let jetstream = self.jetstream(AskedPlace::DeadLetters)?;
        let limit = self.places.limits.of_search();
        let letters = &self.places.config.nats.dlq_stream;
        let found = Box::pin(find(&jetstream, letters, wanted, limit));
        self.ask(AskedPlace::DeadLetters, found).await
    }

    pub(super) async fn rows(&mut self, wanted: &RowSearch<'_>) -> Option<FoundRows> {
        let pool = self.pool()?;
        let found = trail::rows(&pool, wanted, self.places.limits.of_search());
        self.ask(AskedPlace::Postgres, found).await
    }

    /// A search without an index may end before it was through.
    fn say_how_far(&mut self, found: &FoundRows) {
        if let (false, Some(from)) = (found.is_complete, found.searched_from) {
            self.not_known.push(format!(
                "whether there is a row older than {from}: there is no index for this, and the search ended with its \
                 time; ask by the event's id"
            ));
        }
    }
}
