//! Dragonfly or Redis.

use super::{ANSWER_TIMEOUT, Finding, failed, ok, warning};
use crate::config::Config;

/// Prefix of the policies that may evict any key, the least used first.
const POLICY_PREFIX: &str = "allkeys-";

pub(super) async fn check(config: &Config) -> Vec<Finding> {
    match tokio::time::timeout(ANSWER_TIMEOUT, findings(config)).await {
        Ok(Ok(findings)) => findings,
        Ok(Err(error)) => vec![away(config, &error.to_string())],
        Err(_) => vec![away(config, "no answer in time")],
    }
}

/// A warning only: without the cache reads are slower, and nothing else.
fn away(config: &Config, detail: &str) -> Finding {
    warning(
        "cache",
        format!(
            "{} does not answer ({detail}): reads go to Postgres until it does; start it, or correct REDIS_URL",
            config.cache.url
        ),
    )
}

async fn findings(config: &Config) -> Result<Vec<Finding>, redis::RedisError> {
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
    if product == "Redis" && !policy.starts_with(POLICY_PREFIX) {
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
