//! ganesh beside the producer: what rate it holds, and how long a message takes from the moment at which it was to be
//! sent to the commit of its row. The event's time is that moment, so a producer that falls behind hides nothing.

use std::time::Duration;

use super::cpu;
use super::processes::Processes;
use super::report::Live;
use super::servers::BenchServers;

/// What comes before belongs to the start.
const WARM_UP_SECONDS: i32 = 2;
const LAG_EVERY: Duration = Duration::from_millis(250);

/// Messages come at this rate, for so long, into an empty stream and an empty table.
pub(super) async fn measure(
    servers: &BenchServers,
    processes: &Processes,
    rate: u32,
    time: Duration,
) -> anyhow::Result<Live> {
    servers.stream().await?.purge().await?;
    servers.start_over().await?;
    let serve = processes.serve().await?;
    let before = cpu::Sample::take()?;
    let (rate_text, time) = (rate.to_string(), format!("{}ms", time.as_millis()));
    let arguments = ["--rate", &rate_text, "--duration", &time];
    let mut producing = std::pin::pin!(processes.produce(&arguments));
    let mut lag_max = 0;
    let produced = loop {
        tokio::select! {
            produced = &mut producing => break produced?,
            () = tokio::time::sleep(LAG_EVERY) => lag_max = lag_max.max(servers.waiting().await?),
        }
    };
    servers.wait_until_drained().await?;
    let cpu = before.until_now()?;
    let resident_bytes = serve.resident_bytes();
    serve.terminate().await?;
    servers
        .expect_rows(&servers.pool, produced.published - produced.failed)
        .await?;
    let (per_second, quantiles) = committed(servers).await?;
    Ok(Live::new(
        rate,
        per_second,
        &quantiles,
        lag_max,
        &produced,
        resident_bytes,
        &cpu,
    ))
}

/// Rows a second by the times at which they were to be sent, and milliseconds from there to the commit: the median,
/// p99, p99.9, and the longest.
async fn committed(servers: &BenchServers) -> anyhow::Result<(f64, Vec<f64>)> {
    let statement = "SELECT (count(*) / nullif(extract(epoch FROM max(time) - min(time)), 0))::float8, \
            percentile_disc(ARRAY[0.5, 0.99, 0.999, 1]) WITHIN GROUP (ORDER BY \
                extract(epoch FROM pg_xact_commit_timestamp(xmin) - time)::float8 * 1000) \
         FROM events WHERE time > (SELECT min(time) FROM events) + $1 * interval '1 second'";
    let found: (f64, Vec<f64>) = sqlx::query_as(statement)
        .bind(WARM_UP_SECONDS)
        .fetch_one(&servers.pool)
        .await?;
    Ok(found)
}
