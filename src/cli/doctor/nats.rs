//! NATS: the server, the streams and the consumer.

use std::time::Duration;

use async_nats::jetstream::{self, Context, stream};

use super::{ANSWER_TIMEOUT, Finding, failed, ok, warning};
use crate::config::Config;
use crate::error::Error;
use crate::messaging::letters::bucket;
use crate::messaging::requirements::{Violation, consumer_violations};
use crate::messaging::{connection, consumer, in_flight, streams};
use crate::telemetry::{Health, Metrics};

/// The oldest supported server.
const MIN_VERSION: (i64, i64, i64) = (2, 11, 0);

pub(super) async fn check(config: &Config) -> Vec<Finding> {
    // Nobody scrapes a doctor.
    let metrics = Metrics::default();
    let health = Health::new(metrics.clone());
    let connecting = connection::connect("ganesh", &config.nats, 1, &health, &metrics);
    let client = match tokio::time::timeout(ANSWER_TIMEOUT, connecting).await {
        Ok(Ok((client, _))) => client,
        Ok(Err(error)) => return vec![nats_away(config, &error.detail)],
        Err(_) => return vec![nats_away(config, "no answer in time")],
    };
    let info = client.server_info();
    let (major, minor, patch) = MIN_VERSION;
    let mut findings = if client.is_server_compatible(major, minor, patch) {
        vec![ok(
            "nats",
            format!("server {} at {}", info.version, config.nats.url),
        )]
    } else {
        vec![warning(
            "nats",
            format!(
                "server {}: tested from {major}.{minor}; upgrade it",
                info.version
            ),
        )]
    };
    let least_bytes = client.max_payload() + in_flight::SUBJECTS_MAX_BYTES;
    if config.pipeline.max_in_flight_bytes < least_bytes {
        findings.push(failed(
            "nats",
            format!("GANESH_MAX_IN_FLIGHT_BYTES is below the server's maximum payload: set it to {least_bytes} or more"),
        ));
    }
    let jetstream = jetstream::new(client);
    match jetstream_findings(&jetstream, config).await {
        Ok(more) => findings.extend(more),
        Err(error) => findings.push(failed(
            "jetstream",
            format!(
                "{}: enable JetStream, and allow this user its API ($JS.API.>)",
                error.detail
            ),
        )),
    }
    findings
}

fn nats_away(config: &Config, detail: &str) -> Finding {
    failed(
        "nats",
        format!(
            "{} does not answer ({detail}): start it, or correct NATS_URL",
            config.nats.url
        ),
    )
}

async fn jetstream_findings(jetstream: &Context, config: &Config) -> Result<Vec<Finding>, Error> {
    let nats = &config.nats;
    let mut findings = Vec::new();
    match streams::existing(jetstream, &nats.stream).await? {
        Some(stream) => {
            findings.extend(judged(
                &stream.name,
                &streams::event_stream_violations(&stream),
            ));
            findings.extend(limits(&stream));
            match consumer::existing(jetstream, nats).await? {
                Some(existing) => {
                    let violations = consumer_violations(&existing, nats, &config.pipeline);
                    findings.extend(judged(&nats.consumer, &violations));
                }
                None => findings.push(missing("consumer", &nats.consumer)),
            }
        }
        None => findings.push(missing("stream", &nats.stream)),
    }
    let letters = streams::existing(jetstream, &nats.dlq_stream).await?;
    match &letters {
        Some(stream) => {
            findings.extend(judged(
                &stream.name,
                &streams::dlq_stream_violations(stream),
            ));
            findings.extend(memory_storage(stream));
        }
        None => findings.push(missing("stream", &nats.dlq_stream)),
    }
    let letters = letters.unwrap_or_else(|| streams::dlq_stream(nats));
    let bucket = bucket::stream_name(&nats.dlq_stream);
    match streams::existing(jetstream, &bucket).await? {
        Some(stream) => {
            let violations = streams::bucket_stream_violations(&stream, &letters);
            findings.extend(judged(&stream.name, &violations));
        }
        None => findings.push(missing("stream", &bucket)),
    }
    Ok(findings)
}

fn missing(kind: &str, name: &str) -> Finding {
    ok(
        "jetstream",
        format!("{kind} {name} does not exist yet; serve makes it"),
    )
}

fn judged(name: &str, violations: &[Violation]) -> Vec<Finding> {
    if violations.is_empty() {
        return vec![ok("jetstream", format!("{name} is fit"))];
    }
    violations
        .iter()
        .map(|violation| failed("jetstream", violation.to_string()))
        .collect()
}

/// The stream's own limits can remove a message before it was stored.
fn limits(stream: &stream::Config) -> Vec<Finding> {
    let mut findings = memory_storage(stream);
    let mut limited = Vec::new();
    if stream.max_age > Duration::ZERO {
        limited.push(format!("max_age {:?}", stream.max_age));
    }
    if stream.max_bytes > 0 {
        limited.push(format!("max_bytes {}", stream.max_bytes));
    }
    if stream.max_messages > 0 {
        limited.push(format!("max_msgs {}", stream.max_messages));
    }
    if stream.max_messages_per_subject > 0 {
        limited.push(format!(
            "max_msgs_per_subject {}",
            stream.max_messages_per_subject
        ));
    }
    if !limited.is_empty() {
        findings.push(warning(
            "jetstream",
            format!(
                "stream {} drops messages by its limits, stored by us or not ({}): keep the lag \
                 below them, or raise them",
                stream.name,
                limited.join(", ")
            ),
        ));
    }
    findings
}

fn memory_storage(stream: &stream::Config) -> Vec<Finding> {
    if stream.storage == stream::StorageType::File {
        return Vec::new();
    }
    vec![warning(
        "jetstream",
        format!(
            "stream {} is in memory: a restart of the server loses it; use file storage",
            stream.name
        ),
    )]
}
