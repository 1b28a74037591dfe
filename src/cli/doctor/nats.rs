//! NATS: the server, the streams and the consumer.

use std::fmt::Display;

use async_nats::jetstream::Context;

use super::{ANSWER_TIMEOUT, Findings, links};
use crate::config::Config;
use crate::messaging::reported::ReportedConfig;
use crate::messaging::requirements::{Existing, limits};
use crate::messaging::{connection, in_flight, lag};
use crate::storage::{identity, pool};
use crate::telemetry::{Health, Metrics};

/// The oldest supported server.
const MIN_VERSION: (i64, i64, i64) = (2, 11, 0);
/// A message that waits for longer is worth a warning.
const OLD_SECONDS: f64 = 10.0;

pub(super) async fn check(config: &Config, findings: &mut Findings) {
    // Nobody scrapes a doctor.
    let metrics = Metrics::default();
    let health = Health::new(metrics.clone());
    let away = |why: &dyn Display| {
        let url = &config.nats.url;
        format!("{url} does not answer ({why}): start it, or correct NATS_URL")
    };
    let connecting = connection::connect("ganesh", &config.nats, 1, &health, &metrics);
    let client = match tokio::time::timeout(ANSWER_TIMEOUT, connecting).await {
        Ok(Ok((client, _))) => client,
        Ok(Err(error)) => return findings.failed(away(&error.detail)),
        Err(_) => return findings.failed(away(&"no answer in time")),
    };
    let version = client.server_info().version;
    let (major, minor, patch) = MIN_VERSION;
    if client.is_server_compatible(major, minor, patch) {
        findings.ok(format_args!("server {version} at {}", config.nats.url));
    } else {
        findings.warning(format_args!(
            "server {version}: tested from {major}.{minor}; upgrade it"
        ));
    }
    links::nats(&config.nats, client.server_info().tls_required, findings).await;
    let least_bytes = client.max_payload() + in_flight::SUBJECTS_MAX_BYTES;
    if config.pipeline.max_in_flight_bytes < least_bytes {
        findings.failed(format_args!(
            "GANESH_MAX_IN_FLIGHT_BYTES is below the server's maximum payload: set it to {least_bytes} or more"
        ));
    }
    findings.dependency = "jetstream";
    let jetstream = connection::jetstream(client, &config.nats);
    match Existing::find(&jetstream, &config.nats).await {
        Ok(existing) => {
            // Whether it answers is a check of its own.
            let asking = tokio::time::timeout(ANSWER_TIMEOUT, database(config));
            let database = asking.await.ok().and_then(Result::ok);
            check_jetstream(&existing, config, database.as_deref(), findings);
            warn_of_lag(&jetstream, config, findings).await;
        }
        Err(error) => findings.failed(format_args!(
            "{}: enable JetStream, and allow this user its API ($JS.API.>)",
            error.detail
        )),
    }
}

/// A service that stands still, or none that runs.
async fn warn_of_lag(jetstream: &Context, config: &Config, findings: &Findings) {
    match lag::consumer_lag(jetstream, &config.nats).await {
        Ok(Some(lag)) if lag.oldest_seconds >= OLD_SECONDS => {
            findings.warning(format_args!(
                "consumer {}: the oldest unacknowledged message is {:.0} s old, expected less than {OLD_SECONDS} s \
                 ({} wait, {} are held): start ganesh; if it runs, see lag-old in its runbook",
                config.nats.consumer, lag.oldest_seconds, lag.pending, lag.ack_pending
            ));
        }
        Ok(_) => {}
        Err(error) => findings.warning(format_args!(
            "consumer {}: cannot ask for its lag ({error})",
            config.nats.consumer
        )),
    }
}

async fn database(config: &Config) -> Result<String, sqlx::Error> {
    let pool = pool::lazy(&config.postgres, 1, &Metrics::default(), |_| {})?;
    let database = identity::database(&pool).await;
    pool.close().await;
    database
}

fn check_jetstream(
    existing: &Existing,
    config: &Config,
    database: Option<&str>,
    findings: &mut Findings,
) {
    for verdict in existing.verdicts(&config.nats, &config.pipeline, database) {
        for violation in &verdict.violations {
            findings.failed(violation);
        }
        for warning in &verdict.warnings {
            findings.warning(warning);
        }
        if !verdict.exists {
            findings.ok(format_args!(
                "{} does not exist yet; serve makes it",
                verdict.name
            ));
        } else if verdict.violations.is_empty() && verdict.warnings.is_empty() {
            findings.ok(format_args!("{} is fit", verdict.name));
        }
    }
    let Some(events) = &existing.events else {
        return;
    };
    warn_of_limits(events, findings);
    if events.text("storage") != "file" {
        findings.warning(format_args!(
            "stream {} is in memory: a restart of the server loses it; use file storage",
            config.nats.stream
        ));
    }
}

/// The stream's own limits can remove a message before it was stored.
fn warn_of_limits(stream: &ReportedConfig, findings: &Findings) {
    let limits = limits(stream);
    if !limits.is_empty() {
        findings.warning(format_args!(
            "stream {} drops messages by its limits, stored by us or not ({}): keep the lag \
             below them, or raise them",
            stream.text("name"),
            limits.join(", ")
        ));
    }
}
