//! A flood of reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::task::JoinSet;

use super::Ganesh;

/// Clients that ask again as soon as they are answered, until it is dropped.
pub struct Flood {
    clients: JoinSet<()>,
    is_over: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
}

impl Flood {
    /// Half of them search, half ask for states that no cache has.
    pub fn start(ganesh: &Ganesh, clients: u64) -> Self {
        Self::of(ganesh, clients, |number| {
            if number % 2 == 0 {
                "events?data.none=eq.1&limit=100".to_owned()
            } else {
                unknown_state()
            }
        })
    }

    /// All ask for states that no cache has.
    pub fn of_states(ganesh: &Ganesh, clients: u64) -> Self {
        Self::of(ganesh, clients, |_| unknown_state())
    }

    fn of(ganesh: &Ganesh, clients: u64, path: fn(u64) -> String) -> Self {
        let mut flood = Self {
            clients: JoinSet::new(),
            is_over: Arc::default(),
            answered: Arc::default(),
            refused: Arc::default(),
        };
        for number in 0..clients {
            let api = ganesh.api.clone();
            let is_over = flood.is_over.clone();
            let (answered, refused) = (flood.answered.clone(), flood.refused.clone());
            flood.clients.spawn(async move {
                let http = reqwest::Client::new();
                while !is_over.load(Ordering::Relaxed) {
                    let path = path(number);
                    let answer = http.get(format!("{api}/v1/{path}")).send().await.unwrap();
                    let counted = match answer.status().as_u16() {
                        200 | 404 | 422 => &answered,
                        503 | 504 => &refused,
                        status => panic!("{path}: {status}"),
                    };
                    counted.fetch_add(1, Ordering::Relaxed);
                    answer.bytes().await.unwrap();
                }
            });
        }
        flood
    }

    /// Answers that say something.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Answers with 503 or 504.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Lets them end.
    pub async fn end(mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.unwrap();
        }
    }
}

fn unknown_state() -> String {
    format!("subjects/none-{:x}/latest", rand::random::<u64>())
}
