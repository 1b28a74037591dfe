//! Dragonfly or Redis.

use super::{ANSWER_TIMEOUT, Findings, links};
use crate::cache::{NOT_SUPPORTED, client, is_cluster, words};
use crate::config::Config;

/// Prefix of the policies that may evict any key, the least used first.
const POLICY_PREFIX: &str = "allkeys-";

/// A cache that is away is a warning only: without it reads are slower, and nothing else.
pub(super) async fn check(config: &Config, findings: &mut Findings) {
    let why = match tokio::time::timeout(ANSWER_TIMEOUT, ask(config, findings)).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => client::refusal(&error, &config.cache).unwrap_or_else(|| words(&error)),
        Err(_) => "no answer in time".to_owned(),
    };
    findings.warning(format_args!(
        "{} does not answer ({why}): reads go to Postgres until it does; start it, or correct REDIS_URL",
        config.cache.url
    ));
}

async fn ask(config: &Config, findings: &mut Findings) -> Result<(), redis::RedisError> {
    let client = client::open(&config.cache)?;
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
    findings.ok(format_args!("{product} {version} at {}", config.cache.url));
    links::cache(config, findings).await;
    if is_cluster(&mut connection).await {
        findings.failed(NOT_SUPPORTED);
        return Ok(());
    }
    if field("role").is_some_and(|role| role != "master") {
        findings.warning("it is a replica and refuses writes: name the primary in REDIS_URL");
    }
    let policy = field("maxmemory_policy").unwrap_or("");
    if product == "Redis" && !policy.starts_with(POLICY_PREFIX) {
        findings.warning(format_args!(
            "maxmemory-policy is {policy:?}: a full cache would refuse writes; set allkeys-lru"
        ));
    }
    let scripted: Result<i64, _> = redis::cmd("EVAL")
        .arg("return 1")
        .arg(0)
        .query_async(&mut connection)
        .await;
    if let Err(error) = scripted {
        findings.failed(format_args!(
            "this user may not run scripts ({}): allow EVAL, EVALSHA and SCRIPT",
            words(&error)
        ));
    }
    Ok(())
}
