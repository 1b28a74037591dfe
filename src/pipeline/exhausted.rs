//! Store, for a message that was delivered too often: it is not written once more.

use std::sync::Arc;

use super::Backoff;
use super::batch::Batch;
use super::dead_letter::DeadLetter;
use super::decode::Decoded;
use super::store::{Committed, StoreStage, Written};
use crate::error::{Class, Dependency, Error};
use crate::event::Event;
use crate::labels::{Outcome, Reason};
use crate::telemetry::batch::BatchRecord;
use crate::telemetry::record::{Failures, now_nanos};

impl StoreStage {
    /// A duplicate where its event has a row, as after an acknowledgement that never arrived;
    /// otherwise a dead letter.
    pub(super) async fn decide_exhausted(&self, batch: Batch) -> Result<Written, Error> {
        let began = now_nanos();
        let Batch {
            messages,
            closed_at,
            mut failures,
            ..
        } = batch;
        let mut has_row = Vec::with_capacity(messages.len());
        for decoded in &messages {
            has_row.push(self.has_row(&decoded.event, &mut failures).await?);
        }
        let record = BatchRecord::new(closed_at, began, now_nanos(), messages.len(), failures);
        let mut committed = Committed {
            messages: Vec::new(),
            outcomes: Vec::new(),
            epoch_advanced: false,
            record: Arc::new(record),
        };
        let mut letters = Vec::new();
        for (decoded, has_row) in messages.into_iter().zip(has_row) {
            if has_row {
                committed.messages.push(decoded);
                committed.outcomes.push(Outcome::Duplicate);
            } else {
                letters.push(letter(decoded, &committed.record));
            }
        }
        Ok(Written::Decided(committed, letters))
    }

    /// Asks until Postgres answers.
    async fn has_row(&self, event: &Event, failures: &mut Failures) -> Result<bool, Error> {
        let mut backoff = Backoff::new();
        loop {
            let recovery = self.health.recovery(Dependency::Postgres);
            let error = match self.reads.has_event(event).await {
                Ok(has_row) => return Ok(has_row),
                Err(error) => error,
            };
            self.metrics.dependency_error(&error);
            if error.class == Class::Fatal {
                tracing::error!(%error, "Postgres refuses what we ask; stopping");
                return Err(error);
            }
            tracing::warn!(%error, "cannot ask whether an event has a row; trying again");
            failures.add(&error);
            backoff.wait_or(recovery).await;
        }
    }
}

fn letter(decoded: Decoded, record: &Arc<BatchRecord>) -> DeadLetter {
    let Decoded { delivery, event } = decoded;
    DeadLetter {
        reason: Reason::MaxDeliveries,
        detail: format!(
            "delivered {} times, more than twice GANESH_MAX_DELIVERIES, and it has no row",
            delivery.delivered
        ),
        delivery,
        event: Some(event),
        batch: Some(record.clone()),
    }
}
