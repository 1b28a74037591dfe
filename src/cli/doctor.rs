//! `ganesh doctor`: each dependency, one line a finding, with the fix.

use std::fmt;
use std::time::Duration;

use anyhow::anyhow;
use async_nats::jetstream::{self, Context, stream};
use clap::Command;
use sqlx::PgPool;

use super::Failure;
use crate::config::Config;
use crate::error::Error;
use crate::messaging::consumer::{Unfit, consumer_unfit};
use crate::messaging::{connection, consumer, held, streams};
use crate::storage::{classify, pool, schema};
use crate::telemetry::{Health, Metrics};

/// How long each dependency may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The oldest server whose settings we know.
const NATS_MIN_VERSION: (i64, i64, i64) = (2, 11, 0);
/// What evicts keys as we want it: any key, the least used first.
const CACHE_POLICY_PREFIX: &str = "allkeys-";

pub(super) fn command() -> Command {
    Command::new("doctor").about(
        "Check each dependency: reachable, version, permissions, settings that break a promise \
         (exit code 0: nothing failed; 1: something did)",
    )
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    Warning,
    Failed,
}

/// One line.
struct Finding {
    verdict: Verdict,
    what: &'static str,
    detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Ok => "ok     ",
            Verdict::Warning => "warning",
            Verdict::Failed => "FAILED ",
        };
        write!(f, "{verdict}  {:<9} {}", self.what, self.detail)
    }
}

fn ok(what: &'static str, detail: impl Into<String>) -> Finding {
    finding(Verdict::Ok, what, detail)
}

fn warning(what: &'static str, detail: impl Into<String>) -> Finding {
    finding(Verdict::Warning, what, detail)
}

fn failed(what: &'static str, detail: impl Into<String>) -> Finding {
    finding(Verdict::Failed, what, detail)
}

fn finding(verdict: Verdict, what: &'static str, detail: impl Into<String>) -> Finding {
    Finding {
        verdict,
        what,
        detail: detail.into(),
    }
}

pub(super) async fn run(config: Config) -> Result<(), Failure> {
    let mut findings = nats(&config).await;
    findings.extend(postgres(&config).await);
    findings.extend(cache(&config).await);
    for finding in &findings {
        println!("{finding}");
    }
    let failures = findings
        .iter()
        .filter(|finding| finding.verdict == Verdict::Failed)
        .count();
    if failures > 0 {
        return Err(Failure::Running(anyhow!("{failures} checks failed")));
    }
    Ok(())
}

async fn nats(config: &Config) -> Vec<Finding> {
    // Handles without a recorder: nobody scrapes a doctor.
    let metrics = Metrics::register();
    let health = Health::new(metrics.clone());
    let connecting = connection::connect(&config.nats, 1, &health, &metrics);
    let client = match tokio::time::timeout(ANSWER_TIMEOUT, connecting).await {
        Ok(Ok(client)) => client,
        Ok(Err(error)) => return vec![nats_away(config, &error.detail)],
        Err(_) => return vec![nats_away(config, "no answer in time")],
    };
    let info = client.server_info();
    let (major, minor, patch) = NATS_MIN_VERSION;
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
    let least_bytes = client.max_payload() + held::SUBJECTS_MAX_BYTES;
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
            findings.extend(judged(&stream.name, &streams::event_stream_unfit(&stream)));
            findings.extend(limits(&stream));
            match consumer::existing(jetstream, nats).await? {
                Some(existing) => {
                    let unfit = consumer_unfit(&existing, nats, &config.pipeline);
                    findings.extend(judged(&nats.consumer, &unfit));
                }
                None => findings.push(missing("consumer", &nats.consumer)),
            }
        }
        None => findings.push(missing("stream", &nats.stream)),
    }
    match streams::existing(jetstream, &nats.dlq_stream).await? {
        Some(stream) => {
            findings.extend(judged(&stream.name, &streams::dlq_stream_unfit(&stream)));
            findings.extend(memory_storage(&stream));
        }
        None => findings.push(missing("stream", &nats.dlq_stream)),
    }
    Ok(findings)
}

fn missing(kind: &str, name: &str) -> Finding {
    ok(
        "jetstream",
        format!("{kind} {name} does not exist yet; serve makes it"),
    )
}

fn judged(name: &str, unfit: &[Unfit]) -> Vec<Finding> {
    if unfit.is_empty() {
        return vec![ok("jetstream", format!("{name} is fit"))];
    }
    unfit
        .iter()
        .map(|unfit| failed("jetstream", unfit.to_string()))
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

async fn postgres(config: &Config) -> Vec<Finding> {
    match tokio::time::timeout(ANSWER_TIMEOUT, postgres_findings(config)).await {
        Ok(Ok(findings)) => findings,
        Ok(Err(error)) => vec![failed(
            "postgres",
            format!(
                "{} ({}): start it, or correct POSTGRES_URL",
                config.postgres.url,
                classify(&error).detail
            ),
        )],
        Err(_) => vec![failed(
            "postgres",
            format!(
                "{} does not answer in time: start it, or correct POSTGRES_URL",
                config.postgres.url
            ),
        )],
    }
}

async fn postgres_findings(config: &Config) -> Result<Vec<Finding>, sqlx::Error> {
    let pool = pool::lazy(&config.postgres, 1)?;
    let facts = schema::facts(&pool).await?;
    let (major, minor) = (facts.version_num / 10_000, facts.version_num % 10_000);
    let mut findings: Vec<Finding> = facts
        .unfit()
        .into_iter()
        .map(|unfit| failed("postgres", unfit))
        .collect();
    if findings.is_empty() {
        findings.push(ok(
            "postgres",
            format!("server {major}.{minor} at {}", config.postgres.url),
        ));
    }
    if facts.read_only {
        findings.push(failed(
            "postgres",
            "the server is a standby and refuses writes: name the primary in POSTGRES_URL",
        ));
    }
    if !facts.full_page_writes {
        findings.push(warning(
            "postgres",
            "full_page_writes is off: a power failure can corrupt pages; set it to on",
        ));
    }
    findings.push(schema_finding(&pool).await?);
    findings.push(room_for_connections(&pool, config).await?);
    pool.close().await;
    Ok(findings)
}

async fn schema_finding(pool: &PgPool) -> Result<Finding, sqlx::Error> {
    let missing = schema::missing_migrations(pool).await?;
    if missing > 0 {
        let may_create: bool = sqlx::query_scalar(
            "SELECT has_schema_privilege(current_user, current_schema()::text, 'CREATE')",
        )
        .fetch_one(pool)
        .await?;
        return Ok(if may_create {
            warning(
                "postgres",
                format!(
                    "{missing} migrations are missing: run `ganesh migrate` (serve does it at start unless told not to)"
                ),
            )
        } else {
            failed(
                "postgres",
                format!(
                    "{missing} migrations are missing, and this role may not create tables: GRANT CREATE ON SCHEMA public, or migrate as another role"
                ),
            )
        });
    }
    // Partitions can be attached and dropped by the table's owner only.
    let (may_write, owns): (bool, bool) = sqlx::query_as(
        "SELECT has_table_privilege('events', 'SELECT, INSERT') AND \
                has_table_privilege('cache_epoch', 'SELECT, UPDATE'), \
                pg_has_role(c.relowner, 'USAGE') \
         FROM pg_class c WHERE c.oid = 'events'::regclass",
    )
    .fetch_one(pool)
    .await?;
    Ok(if !may_write {
        failed(
            "postgres",
            "this role may not write events and cache_epoch: GRANT SELECT, INSERT, UPDATE ON them",
        )
    } else if !owns {
        failed(
            "postgres",
            "this role does not own events and cannot make partitions: ALTER TABLE events OWNER TO this role",
        )
    } else {
        ok(
            "postgres",
            "the schema is up to date, and this role may use it",
        )
    })
}

async fn room_for_connections(pool: &PgPool, config: &Config) -> Result<Finding, sqlx::Error> {
    let free: i64 = sqlx::query_scalar(
        "SELECT current_setting('max_connections')::bigint \
              - current_setting('superuser_reserved_connections')::bigint \
              - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')",
    )
    .fetch_one(pool)
    .await?;
    let wanted = i64::from(pool::max_connections(config.pipeline.writers));
    Ok(if free < wanted {
        warning(
            "postgres",
            format!(
                "{free} connections are free and a process uses up to {wanted}: raise max_connections"
            ),
        )
    } else {
        ok(
            "postgres",
            format!("{free} connections are free, a process uses up to {wanted}"),
        )
    })
}

async fn cache(config: &Config) -> Vec<Finding> {
    match tokio::time::timeout(ANSWER_TIMEOUT, cache_findings(config)).await {
        Ok(Ok(findings)) => findings,
        Ok(Err(error)) => vec![cache_away(config, &error.to_string())],
        Err(_) => vec![cache_away(config, "no answer in time")],
    }
}

/// A warning only: without the cache reads are slower, and nothing else.
fn cache_away(config: &Config, detail: &str) -> Finding {
    warning(
        "cache",
        format!(
            "{} does not answer ({detail}): reads go to Postgres until it does; start it, or correct REDIS_URL",
            config.cache.url
        ),
    )
}

async fn cache_findings(config: &Config) -> Result<Vec<Finding>, redis::RedisError> {
    let client = redis::Client::open(config.cache.url.expose())?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    let info: String = redis::cmd("INFO").query_async(&mut connection).await?;
    let field = |name: &str| {
        info.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
    };
    let (product, version) = match field("dragonfly_version") {
        Some(version) => ("Dragonfly", version),
        None => (
            "Redis",
            field("redis_version").unwrap_or("of unknown version"),
        ),
    };
    let mut findings = vec![ok(
        "cache",
        format!("{product} {version} at {}", config.cache.url),
    )];
    if field("role").is_some_and(|role| role != "master") {
        findings.push(warning(
            "cache",
            "it is a replica and refuses writes: name the primary in REDIS_URL",
        ));
    }
    let policy = field("maxmemory_policy").unwrap_or("");
    if product == "Redis" && !policy.starts_with(CACHE_POLICY_PREFIX) {
        findings.push(warning(
            "cache",
            format!(
                "maxmemory-policy is {policy:?}: a full cache would refuse writes; set allkeys-lru"
            ),
        ));
    }
    let scripted: Result<i64, _> = redis::cmd("EVAL")
        .arg("return 1")
        .arg(0)
        .query_async(&mut connection)
        .await;
    if let Err(error) = scripted {
        findings.push(failed(
            "cache",
            format!("this user may not run scripts ({error}): allow EVAL, EVALSHA and SCRIPT"),
        ));
    }
    Ok(findings)
}
