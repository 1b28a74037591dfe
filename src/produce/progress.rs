//! Shows how far a run is: a bar on a terminal, a log line elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::options::End;
use super::publisher::Publisher;

const REDRAWN_EVERY: Duration = Duration::from_millis(200);
const LOGGED_EVERY: Duration = Duration::from_secs(10);

pub(super) async fn show(publisher: &Publisher, end: End) {
    if std::io::stderr().is_terminal() {
        draw(publisher, end).await;
    } else {
        log(publisher).await;
    }
}

async fn draw(publisher: &Publisher, end: End) {
    let bar = bar(end);
    loop {
        tokio::time::sleep(REDRAWN_EVERY).await;
        let (counts, in_flight) = snapshot(publisher);
        bar.set_position(match end {
            End::After(_) => whole_millis(publisher.now()),
            End::Count(_) | End::Never => counts.acknowledged,
        });
        let rate = counts.acknowledged * 1_000 / whole_millis(publisher.now()).max(1);
        bar.set_message(format!(
            "{} acknowledged, {rate}/s, {in_flight} in flight, {} retries, {} failed",
            counts.acknowledged, counts.retries, counts.failed
        ));
    }
}

fn bar(end: End) -> ProgressBar {
    let length = match end {
        End::Count(count) => Some(count),
        End::After(duration) => Some(whole_millis(duration)),
        End::Never => None,
    };
    let template = match length {
        Some(_) => "{bar:30} {percent:>3} % {msg}",
        None => "{spinner} {elapsed} {msg}",
    };
    let style = ProgressStyle::with_template(template).expect("a valid template");
    ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr()).with_style(style)
}

async fn log(publisher: &Publisher) {
    let mut before = 0;
    loop {
        tokio::time::sleep(LOGGED_EVERY).await;
        let (counts, in_flight) = snapshot(publisher);
        tracing::info!(
            published = counts.published,
            acknowledged = counts.acknowledged,
            rate_per_second = (counts.acknowledged - before) / LOGGED_EVERY.as_secs(),
            in_flight,
            retries = counts.retries,
            failed = counts.failed,
            "producing"
        );
        before = counts.acknowledged;
    }
}

fn snapshot(publisher: &Publisher) -> (super::report::Counts, usize) {
    let ledger = publisher.ledger();
    (ledger.counts, ledger.in_flight())
}

fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
