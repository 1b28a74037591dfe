//! A client of `GET /v1/events/stream`.

use std::time::Duration;

use reqwest::{Method, Response};
use serde_json::Value;

use super::client::{Answer, get, request};
use crate::support::{Ganesh, PATIENCE, Stack};

/// What came between two empty lines.
#[derive(Debug, Default, Clone)]
pub struct Message {
    pub event: Option<String>,
    pub id: Option<String>,
    pub data: Option<String>,
    pub comment: Option<String>,
    pub retry: Option<String>,
}

impl Message {
    fn of(text: &str) -> Self {
        let mut message = Self::default();
        for line in text.trim_end().lines() {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
            let place = match field {
                "event" => &mut message.event,
                "id" => &mut message.id,
                "data" => &mut message.data,
                "retry" => &mut message.retry,
                "" => &mut message.comment,
                other => panic!("a field {other:?}"),
            };
            assert!(place.replace(value).is_none(), "{text}");
        }
        message
    }
}

/// An open stream.
pub struct Tail {
    answer: Response,
    unread: Vec<u8>,
    /// Of the last message.
    pub id: String,
}

impl Tail {
    /// Opens one, and waits until it has begun.
    pub async fn open(ganesh: &Ganesh, query: &str) -> Self {
        Self::open_after(ganesh, query, None).await
    }

    /// The same with `Last-Event-ID`.
    pub async fn open_after(ganesh: &Ganesh, query: &str, last: Option<&str>) -> Self {
        let mut asked = request(ganesh, Method::GET, &format!("/v1/events/stream?{query}"));
        if let Some(last) = last {
            asked = asked.header("last-event-id", last);
        }
        let asked = asked.header("accept-encoding", "gzip");
        let answer = asked.send().await.unwrap();
        assert_eq!(answer.status(), 200, "{query}: {:?}", answer.text().await);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        assert!(!answer.headers().contains_key("content-encoding"));
        let mut tail = Self {
            answer,
            unread: Vec::new(),
            id: String::new(),
        };
        let first = tail.next().await.unwrap();
        assert!(first.retry.is_some() && first.event.is_none(), "{first:?}");
        tail
    }

    /// The next message; `None` when the stream has ended.
    pub async fn next(&mut self) -> Option<Message> {
        loop {
            let end = self.unread.windows(2).position(|two| two == b"\n\n");
            if let Some(end) = end {
                let text = self.unread.drain(..end + 2).collect();
                let message = Message::of(&String::from_utf8(text).unwrap());
                if let Some(id) = &message.id {
                    self.id.clone_from(id);
                }
                return Some(message);
            }
            let more = tokio::time::timeout(PATIENCE, self.answer.chunk());
            let more = more.await.expect("heartbeats come");
            self.unread.extend(more.unwrap()?);
        }
    }

    /// The next message that is more than a heartbeat: `lagged`.
    pub async fn lagged(&mut self) -> Message {
        let told = async {
            loop {
                let message = self.next().await.expect("it is told");
                if message.event.is_some() {
                    break message;
                }
            }
        };
        let told = tokio::time::timeout(PATIENCE, told).await;
        let told = told.expect("it is told");
        assert_eq!(told.event.as_deref(), Some("lagged"), "{told:?}");
        told
    }

    /// The next event.
    pub async fn event(&mut self) -> Value {
        let event = tokio::time::timeout(PATIENCE, self.next_event()).await;
        event.expect("an event comes")
    }

    async fn next_event(&mut self) -> Value {
        loop {
            let message = self.next().await.expect("the stream goes on");
            if let Some(event) = &message.event {
                assert_eq!(event, "event", "{message:?}");
                return serde_json::from_str(&message.data.unwrap()).unwrap();
            }
        }
    }

    /// The ids of the next so many events.
    pub async fn ids(&mut self, count: usize) -> Vec<String> {
        let mut ids = Vec::new();
        while ids.len() < count {
            ids.push(id_of(&self.event().await));
        }
        ids
    }

    /// Whether an event comes within this time.
    pub async fn has_event_within(&mut self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.event()).await.is_ok()
    }
}

/// The answer where no stream begins.
pub async fn refused(ganesh: &Ganesh, query: &str) -> Answer {
    let path = format!("/v1/events/stream?{query}");
    let refused = tokio::time::timeout(PATIENCE, get(ganesh, &path)).await;
    refused.expect("a stream began")
}

pub fn id_of(event: &Value) -> String {
    event["id"].as_str().unwrap().to_owned()
}

/// All ids in the order of the tail, those without a mark first.
pub async fn stored(stack: &Stack) -> Vec<String> {
    sqlx::query_scalar("SELECT id FROM events ORDER BY stored_in NULLS FIRST, time, source, id")
        .fetch_all(&stack.pool)
        .await
        .unwrap()
}

/// All ids in the order of time, as `newest` has them.
pub async fn by_time(stack: &Stack) -> Vec<String> {
    sqlx::query_scalar("SELECT id FROM events ORDER BY time, source, id")
        .fetch_all(&stack.pool)
        .await
        .unwrap()
}
