//! Reads of newest states, and what they must equal.

use ganesh::event::{Event, Timestamp};
use sqlx::PgPool;

use super::events::event;
use super::{Ganesh, Stack};

/// An answer of `GET /v1/subjects/{subject}/latest`.
#[derive(Debug, Clone)]
pub struct Latest {
    pub status: u16,
    /// The event's id; `None` when the answer is a 404.
    pub id: Option<String>,
    /// `Cache-Status`.
    pub cache: String,
    /// `Age`, in seconds.
    pub age: Option<u64>,
}

/// Asks for the newest event of a subject.
pub async fn latest(ganesh: &Ganesh, subject: &str) -> Latest {
    latest_at(&reqwest::Client::new(), &ganesh.api, subject).await
}

/// The same, over connections that are kept.
pub async fn latest_at(client: &reqwest::Client, api: &str, subject: &str) -> Latest {
    let url = format!("{api}/v1/subjects/{subject}/latest");
    let answer = client.get(url).send().await.unwrap();
    let header = |name: &str| Some(answer.headers().get(name)?.to_str().unwrap().to_owned());
    let cache = header("cache-status").unwrap_or_default();
    let age = header("age").map(|age| age.parse().unwrap());
    let status = answer.status().as_u16();
    let body: serde_json::Value = answer.json().await.unwrap();
    let id = body["id"].as_str().map(str::to_owned);
    Latest {
        status,
        id,
        cache,
        age,
    }
}

/// Asks until the answer does not go past the cache: a process that had to wait for the
/// machine does not know the epoch for a moment, and then asks Postgres.
pub async fn latest_by_cache(ganesh: &Ganesh, subject: &str) -> Latest {
    for _ in 0..200 {
        let answer = latest(ganesh, subject).await;
        if !answer.cache.contains("bypass") {
            return answer;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the cache is not used: {}", ganesh.log())
}

/// What the answer must be: the id of the newest event by (`time`, `stream_seq`).
pub async fn newest_in_postgres(pool: &PgPool, subject: &str) -> Option<String> {
    let newest =
        "SELECT id FROM events WHERE subject = $1 ORDER BY time DESC, stream_seq DESC LIMIT 1";
    sqlx::query_scalar(newest)
        .bind(subject)
        .fetch_optional(pool)
        .await
        .unwrap()
}

/// Asks every process twice, so that the second answer can come from the cache.
pub async fn assert_newest(stack: &Stack, processes: &[&Ganesh], subjects: &[String]) {
    for subject in subjects {
        let expected = newest_in_postgres(&stack.pool, subject).await;
        for ganesh in processes {
            for _ in 0..2 {
                let answer = latest(ganesh, subject).await;
                assert_eq!(answer.id, expected, "{subject}: {answer:?}");
            }
        }
    }
}

/// An event of a subject at a time.
pub fn of(subject: &str, id: &str, time: Timestamp) -> Event {
    Event {
        subject: Some(subject.to_owned()),
        time,
        ..event(id)
    }
}

/// So many milliseconds before now.
pub fn ago(millis: i64) -> Timestamp {
    Timestamp::from_micros(Timestamp::now().micros() - millis * 1_000)
}
