//! One stream: what its client gets next.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, Sse};
use bytes::Bytes;
use futures::stream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, sleep_until};

use super::StreamPlace;
use crate::api::cursor::TailPlace;
use crate::api::guard::GivenToken;
use crate::api::{Api, cursor};
use crate::storage::search::EventFilter;
use crate::storage::tail::{TailPace, TailPage, TailPosition, TailState};
use crate::storage::turn::ReadError;

/// The pause after the last page: so long, or so many times what the page took.
const POLL_EVERY: Duration = Duration::from_millis(300);
const REST_FACTOR: u32 = 4;
/// After an error.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// A transaction that runs for longer is named.
const HELD_AFTER: Duration = Duration::from_secs(10);
/// After the end of a stream a client comes back in this time.
const RECONNECT_AFTER: Duration = Duration::from_secs(1);
/// The stream ends after so many failures in a row to read the events of one transaction and one `time`.
const TOO_MUCH_MAX: u32 = 5;
/// How often a stream that waits asks whether its token is in force.
const TOKEN_CHECK_EVERY: Duration = Duration::from_secs(1);
const GAP: &str = "events were stored that this stream does not know, as nothing asked Postgres for it for an hour, \
    its clock was set, another server took over, or somebody changed a trigger: begin without an id, and read what is missing with \
    GET /v1/events?from=";
const TOO_MUCH: &str = "one transaction stored more events of one time than there is time to read";

pub(super) struct Stream {
    api: Api,
    filter: EventFilter,
    /// What the client has, or gets next.
    place: TailPlace,
    pace: TailPace,
    page: VecDeque<(TailPosition, Bytes)>,
    /// Where the page ends.
    page_end: TailPosition,
    page_memory: Option<OwnedSemaphorePermit>,
    read_at: Instant,
    heartbeat_at: Instant,
    /// When the client was sent something last.
    sent_at: Option<Instant>,
    too_much: u32,
    is_waiting_for_postgres: bool,
    has_gap: bool,
    is_over: bool,
    heartbeat_every: Duration,
    /// For the client to take what was sent.
    take_limit: Duration,
    token: GivenToken,
    _stream_place: StreamPlace,
}

impl Stream {
    pub(super) fn new(
        api: Api,
        (stream_place, token): (StreamPlace, GivenToken),
        filter: EventFilter,
        begin: TailPlace,
    ) -> Self {
        let now = Instant::now();
        // The connection waits for so long.
        let limit = api.config.http.client_timeout;
        Self {
            heartbeat_every: limit / 2,
            take_limit: limit * 2 / 3,
            api,
            filter,
            page_end: begin.position.clone(),
            place: begin,
            pace: TailPace::default(),
            page: VecDeque::new(),
            page_memory: None,
            read_at: now,
            heartbeat_at: now + limit / 2,
            sent_at: None,
            too_much: 0,
            is_waiting_for_postgres: false,
            has_gap: false,
            is_over: false,
            token,
            _stream_place: stream_place,
        }
    }

    pub(super) fn into_sse(self) -> Sse<impl stream::Stream<Item = Result<Event, Infallible>>> {
        Sse::new(stream::unfold(self, |mut stream| async move {
            let event = stream.next().await?;
            Some((Ok(event), stream))
        }))
    }

    /// Called when the client has taken what came before.
    async fn next(&mut self) -> Option<Event> {
        if self.is_over {
            return None;
        }
        let event = match self.sent_at {
            // Whoever gets no event can go on from here, too.
            None => Event::default().retry(RECONNECT_AFTER).id(self.id()),
            Some(sent_at) if sent_at.elapsed() > self.take_limit => {
                let limit = self.take_limit.as_secs();
                self.lagged(&format!("what was sent was not taken within {limit} s"))
            }
            Some(_) => self.next_of_tail().await?,
        };
        self.sent_at = Some(Instant::now());
        Some(event)
    }

    async fn next_of_tail(&mut self) -> Option<Event> {
        let (stop, token) = (self.api.tails.stop.clone(), self.token.clone());
        let next = stop.run_until_cancelled(async {
            // Its client comes back, and is asked for a token that is in force.
            tokio::select! {
                biased;
                () = is_withdrawn(&token) => None,
                next = self.wait_for_next() => next,
            }
        });
        next.await.flatten()
    }

    async fn wait_for_next(&mut self) -> Option<Event> {
        loop {
            if let Some((position, json)) = self.page.pop_front() {
                self.place.position = position;
                let json = str::from_utf8(&json).expect("JSON is UTF-8");
                return Some(Event::default().event("event").id(self.id()).data(json));
            }
            self.place.position = self.page_end.clone();
            // What a page has gathered on its way is in memory, too.
            if !self.pace.is_on_its_way() {
                self.page_memory = None;
            }
            if self.is_over {
                return None;
            }
            if self.has_gap {
                return Some(self.lagged(GAP));
            }
            if self.too_much >= TOO_MUCH_MAX {
                return Some(self.lagged(TOO_MUCH));
            }
            if self.heartbeat_at <= self.read_at {
                sleep_until(self.heartbeat_at).await;
                return Some(self.heartbeat().await);
            }
            sleep_until(self.read_at).await;
            self.read().await;
        }
    }

    /// Reads the next page, if it is time for it.
    async fn read(&mut self) {
        let began = Instant::now();
        let reads = &self.api.reads;
        let place = (self.place.marking, &self.place.position);
        let page = reads.tail_page(&self.filter, place, &self.pace).await;
        self.read_at = Instant::now() + POLL_EVERY.max(began.elapsed() * REST_FACTOR);
        self.is_waiting_for_postgres = page.is_err();
        match page {
            Ok(page) => {
                // With a gap, too: the server is to note it, whatever its clock says then.
                if matches!(page.state, TailState::EndsSoon | TailState::HasGap) {
                    self.renew().await;
                }
                self.take(page);
            }
            Err(ReadError::Failed(error)) => {
                self.api.failed(&error);
                self.read_at = Instant::now() + RETRY_EVERY;
            }
            Err(ReadError::NoTurn) => {}
            Err(ReadError::TooMuch) => self.too_much += 1,
        }
    }

    /// Has rows marked for another hour. There is time to try again.
    async fn renew(&self) {
        if let Err(error) = self.api.tails.lease.renew().await {
            self.api.failed(&error);
        }
    }

    fn take(&mut self, page: TailPage) {
        // Its client comes back, and is told.
        self.is_over = page.state == TailState::IsBehind;
        self.has_gap = page.state == TailState::HasGap;
        // What the page before had on its way, this one has, or has given up.
        self.page_memory = None;
        // Others have all of the memory: the page is read again, from its beginning, so that none waits for others
        // with a part of it.
        let Some(memory) = self.api.tails.memory.hold(page.bytes()) else {
            self.pace.turn_back();
            return;
        };
        self.too_much = 0;
        self.page_memory = Some(memory);
        // The position stays while the end of the last transaction is not on disk.
        let has_moved = page.end != self.place.position || page.pace.is_on_its_way();
        self.page = page.events.into();
        self.page_end = page.end;
        self.pace = page.pace;
        if !page.is_last && has_moved {
            self.read_at = Instant::now();
        }
    }

    fn id(&self) -> String {
        cursor::of_tail(&self.place)
    }

    /// Without data, so that the client notes the id alone.
    async fn heartbeat(&mut self) -> Event {
        let comment = if self.is_waiting_for_postgres {
            "waiting to read".to_owned()
        } else if let Some((transaction, since)) = self.held() {
            let seconds = since.elapsed().as_secs();
            self.say_held(transaction, seconds).await;
            format!("held back for {seconds} s by a transaction that has not ended")
        } else {
            "nothing more yet".to_owned()
        };
        self.heartbeat_at = Instant::now() + self.heartbeat_every;
        Event::default().comment(comment).id(self.id())
    }

    async fn say_held(&self, transaction: u64, seconds: u64) {
        let Some(suppressed) = self.api.tails.said.allow() else {
            return;
        };
        if let Ok(who) = self.api.reads.who_runs(transaction).await {
            tracing::warn!(
                who,
                seconds,
                suppressed,
                "streams are held back: a transaction has not ended"
            );
        }
    }

    /// What has held the stream back for longer than others take.
    fn held(&self) -> Option<(u64, std::time::Instant)> {
        let held = self.pace.held();
        held.filter(|(_, since)| since.elapsed() >= HELD_AFTER)
    }

    /// The last event: the client goes on after its id.
    fn lagged(&mut self, why: &str) -> Event {
        self.is_over = true;
        let event = Event::default().event("lagged").id(self.id());
        event.data(serde_json::json!({ "detail": why }).to_string())
    }
}

/// Waits until the token is not in force any more.
async fn is_withdrawn(token: &GivenToken) {
    while token.is_in_force() {
        sleep(TOKEN_CHECK_EVERY).await;
    }
}
