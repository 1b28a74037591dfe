//! No payload is in a log, whatever level is asked for and whatever becomes of the message.

use async_nats::HeaderMap;
use bytes::Bytes;
use ganesh::event::Data;

use crate::support::events::{event, publish};
use crate::support::{Stack, eventually};

/// Stands in every payload below.
const SECRET: &str = "swordfish";

#[tokio::test]
async fn no_payload_is_logged_at_any_level() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[("GANESH_LOG", "trace")]).await;
    let jetstream = stack.jetstream().await;
    let json = |text: String| Data::Json(Bytes::from(text));
    let mut stored = event("stored");
    stored.data = json(format!("{{\"password\":\"{SECRET}\"}}"));
    let mut bytes = event("bytes");
    bytes.datacontenttype = None;
    bytes.data = Data::Binary(Bytes::from(SECRET));
    // Postgres refuses these.
    let mut rejected = event("rejected");
    rejected.data = json(format!("{{\"a\":\"{SECRET}\\u0000\"}}"));
    let mut surrogate = event("surrogate");
    surrogate.data = json(format!("{{\"{SECRET}\":\"\\ud800\"}}"));
    publish(&jetstream, &[stored, bytes, rejected, surrogate]).await;
    // And these are no events.
    for body in [
        format!("{{\"data\":\"{SECRET}\"}}"),
        format!("\"{SECRET}\""),
        format!("{{\"{SECRET}"),
        format!(
            "{{\"specversion\":\"1.0\",\"id\":[\"{SECRET}\"],\"source\":\"/x\",\"type\":\"t\"}}"
        ),
        format!(
            "{{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/x\",\"type\":\"t\",\
             \"data_base64\":\"{SECRET}!\"}}"
        ),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert("Content-Type", "application/cloudevents+json");
        let published = jetstream.publish_with_headers("events.test", headers, body.into());
        published.await.unwrap().await.unwrap();
    }
    eventually("all are settled", || async {
        stack.rows().await == 2 && stack.dead_letters().await == 7
    })
    .await;
    // Reads carry it too.
    for path in ["/v1/events/stored", "/v1/subjects/subject-6/latest"] {
        for _ in 0..2 {
            let answer = reqwest::get(format!("{}{path}", ganesh.api)).await.unwrap();
            assert!(answer.text().await.unwrap().contains(SECRET));
        }
    }
    let log = ganesh.log();
    assert!(log.len() > 10_000, "at this level there is more to see");
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(SECRET)).collect();
    assert!(lines.is_empty(), "{lines:#?}");
}
