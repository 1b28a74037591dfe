//! Lag: what the consumer still has before it, asked of the server.

use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::streams::api_error;
use crate::telemetry::Metrics;

/// How often the server is asked.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How long its answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Exports the consumer's pending counts until `stop`.
pub async fn watch(mut consumer: PullConsumer, metrics: Metrics, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(ASK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let failed = match tokio::time::timeout(ANSWER_TIMEOUT, consumer.info()).await {
            Ok(Ok(info)) => {
                #[allow(clippy::cast_precision_loss, reason = "gauges")]
                {
                    metrics.consumer_pending.set(info.num_pending as f64);
                    metrics
                        .consumer_ack_pending
                        .set(info.num_ack_pending as f64);
                }
                None
            }
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("no answer in time".to_owned()),
        };
        if let Some(error) = &failed {
            metrics.dependency_error(&api_error(error));
            if !failing {
                tracing::warn!(error, "cannot ask for the consumer's lag");
            }
        }
        failing = failed.is_some();
    }
}
