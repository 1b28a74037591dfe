//! What the producer does not make: rows that Postgres refuses, messages that are no CloudEvents,
//! events of days to come, and what no client can read.

use std::ops::Range;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use bytes::Bytes;
use ganesh::event::{self, Data, Event, Timestamp};
use tokio_util::sync::CancellationToken;

use super::verify::{POISON, Sent};
use crate::support::events::event as ordinary;

/// Where it goes.
pub const SUBJECT: &str = "events.special";
/// How often one comes.
const SPECIAL_EVERY: Duration = Duration::from_millis(100);
/// Of a large event's data: a message may have a megabyte.
const LARGE_BYTES: usize = 900_000;
/// Days ahead of the last partition that is there.
pub const DAYS_AHEAD: i64 = 3;

enum Special {
    /// Its row is refused.
    Poison,
    /// No CloudEvent.
    Plain,
    /// Its time is in the last partition.
    Ahead,
    /// Almost all that a message may have.
    Large,
}

/// Publishes them one after the other, until it is told to stop; how many.
pub async fn publish_some(jetstream: Context, stop: CancellationToken) -> Sent {
    let mut sent = Sent::default();
    let kinds = [Special::Poison, Special::Plain, Special::Ahead];
    for (number, kind) in kinds.iter().cycle().enumerate() {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(SPECIAL_EVERY) => {}
        }
        sent = sent + publish(&jetstream, kind, number).await;
    }
    sent
}

/// Publishes rows that are refused, all at once; how many.
pub async fn publish_poison(jetstream: &Context, numbers: Range<usize>) -> Sent {
    publish_all(jetstream, &Special::Poison, numbers).await
}

/// Publishes large events, all at once; how many.
pub async fn publish_large(jetstream: &Context, numbers: Range<usize>) -> Sent {
    publish_all(jetstream, &Special::Large, numbers).await
}

async fn publish_all(jetstream: &Context, kind: &Special, numbers: Range<usize>) -> Sent {
    let published = numbers.map(|number| publish(jetstream, kind, number));
    let sent = futures::future::join_all(published).await;
    sent.into_iter()
        .fold(Sent::default(), |sum, sent| sum + sent)
}

async fn publish(jetstream: &Context, kind: &Special, number: usize) -> Sent {
    let (headers, body) = match kind {
        Special::Poison => event::encode_binary(&Event {
            data: Data::Json(Bytes::from_static(b"{\"nul\":\"\\u0000\"}")),
            ..ordinary(&format!("{POISON}{number}"))
        }),
        Special::Plain => {
            let body = format!("{{\"plain\":{number}}}");
            (HeaderMap::new(), Bytes::from(body))
        }
        Special::Ahead => {
            let now = Timestamp::now().micros();
            event::encode_binary(&Event {
                time: Timestamp::from_micros(now + DAYS_AHEAD * 24 * 3_600_000_000),
                ..ordinary(&format!("ahead-{number}"))
            })
        }
        Special::Large => event::encode_binary(&Event {
            data: Data::Binary(vec![b'x'; LARGE_BYTES].into()),
            datacontenttype: Some("application/octet-stream".to_owned()),
            ..ordinary(&format!("large-{number}"))
        }),
    };
    let published = jetstream.publish_with_headers(SUBJECT, headers, body);
    let is_acknowledged = match published.await {
        Ok(acknowledgement) => acknowledgement.await.is_ok(),
        Err(_) => false,
    };
    // Without an answer it can have been stored or not.
    let counts = [u64::from(is_acknowledged), 1];
    match kind {
        Special::Poison => Sent::letters(counts),
        Special::Plain | Special::Ahead | Special::Large => Sent::rows(counts),
    }
}
