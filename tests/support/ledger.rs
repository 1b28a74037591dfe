//! The known answer to every fault: each event that was published is one row or one dead
//! letter, and never both.

use std::collections::BTreeMap;

use ganesh::event::Event;

use super::Stack;

/// A dead letter as the stream has it.
#[derive(Debug, Clone)]
pub struct Letter {
    /// `ce-id`; empty when the original had none.
    pub id: String,
    /// `ganesh-dlq-reason`.
    pub reason: String,
    /// `ganesh-dlq-detail`.
    pub detail: String,
    /// The original's body.
    pub body: bytes::Bytes,
}

/// Every dead letter, in the order in which they were written.
pub async fn letters(stack: &Stack) -> Vec<Letter> {
    let jetstream = stack.jetstream().await;
    let stream = jetstream.get_stream("EVENTS_DLQ").await.unwrap();
    let state = &stream.cached_info().state;
    let mut letters = Vec::new();
    // An empty stream begins with 0, which is no sequence.
    for sequence in state.first_sequence.max(1)..=state.last_sequence {
        let message = stream.get_raw_message(sequence).await.unwrap();
        let header = |name: &str| message.headers.get(name).map(ToString::to_string);
        letters.push(Letter {
            id: header("ce-id").unwrap_or_default(),
            reason: header("ganesh-dlq-reason").unwrap_or_default(),
            detail: header("ganesh-dlq-detail").unwrap_or_default(),
            body: message.payload,
        });
    }
    letters
}

/// How often each event is a row and a dead letter, after all that happened to it.
pub async fn assert_each_is_one_row_or_one_letter(stack: &Stack, published: &[Event]) {
    let rows: Vec<String> = sqlx::query_scalar("SELECT id FROM events")
        .fetch_all(&stack.pool)
        .await
        .unwrap();
    let mut ended: BTreeMap<String, (u32, u32)> = BTreeMap::new();
    for id in rows {
        ended.entry(id).or_default().0 += 1;
    }
    for letter in letters(stack).await {
        ended.entry(letter.id).or_default().1 += 1;
    }
    for event in published {
        let (rows, letters) = ended.remove(&event.id).unwrap_or_default();
        assert_eq!(
            rows + letters,
            1,
            "{}: {rows} rows, {letters} letters",
            event.id
        );
    }
    assert!(ended.is_empty(), "nobody published {ended:?}");
}
