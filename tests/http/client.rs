//! Requests, and whole answers.

use reqwest::{Method, RequestBuilder};
use serde_json::Value;

use crate::support::{Ganesh, Stack};

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    headers: reqwest::header::HeaderMap,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        Some(self.headers.get(name)?.to_str().unwrap())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// An error as RFC 9457 has it; its detail.
    pub fn problem(&self, status: u16, title: &str) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json")
        );
        assert_eq!(self.header("cache-control"), Some("no-store"));
        let problem = self.json();
        assert_eq!(problem["type"], "about:blank");
        assert_eq!(problem["title"], title);
        assert_eq!(problem["status"], status);
        assert!(problem["instance"].is_string(), "{problem}");
        problem["detail"].as_str().unwrap().to_owned()
    }
}

/// A request; the path is sent as it is written.
pub fn request(ganesh: &Ganesh, method: Method, path: &str) -> RequestBuilder {
    reqwest::Client::new().request(method, format!("{}{path}", ganesh.api))
}

pub async fn send(request: RequestBuilder) -> Answer {
    let answer = request.send().await.unwrap();
    Answer {
        status: answer.status().as_u16(),
        headers: answer.headers().clone(),
        body: answer.text().await.unwrap(),
    }
}

pub async fn get(ganesh: &Ganesh, path: &str) -> Answer {
    send(request(ganesh, Method::GET, path)).await
}

/// Publishes and waits until all is stored.
pub async fn store(stack: &Stack, events: &[ganesh::event::Event]) {
    crate::support::events::publish(&stack.jetstream().await, events).await;
    stack.wait_until_drained().await;
}
