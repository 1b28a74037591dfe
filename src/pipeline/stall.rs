//! Says when messages are held and nothing moves, whatever the reason.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::messaging::InFlight;
use crate::telemetry::health::NONE_SETTLED_LIMIT;
use crate::telemetry::{Health, Metrics};

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Looks until `stop`.
pub(super) async fn watch(
    in_flight: Arc<InFlight>,
    health: Health,
    metrics: Metrics,
    stop: CancellationToken,
) -> Result<(), Error> {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        let held_for = in_flight.held_for();
        metrics.oldest_held.set(held_for.oldest.as_secs_f64());
        health.set_none_settled(held_for.none_settled > NONE_SETTLED_LIMIT);
    }
}
