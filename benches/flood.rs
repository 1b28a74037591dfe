//! What a flood of reads costs the pipeline, by measurement: drains of a full stream alone and beside 64 clients
//! that search and ask for states that no cache has, in turn. Prints what it found, and fails when that is more
//! than was promised.
//!
//! `make flood`; `MESSAGES=100000 PAIRS=3 make flood` takes less time.

#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    missing_docs,
    reason = "a measurement may panic, and shows figures"
)]
#![allow(
    dead_code,
    unreachable_pub,
    reason = "what the tests share has more than is used here"
)]

mod drain;
#[path = "../tests/support/mod.rs"]
mod support;

use drain::{Cost, compare, drain, drain_beside, produce};
use support::flood::Flood;
use support::{Stack, stack};

const CLIENTS: u64 = 64;
/// Of throughput.
const COST_MAX: f64 = 0.1;

fn main() {
    tokio::runtime::Runtime::new().unwrap().block_on(flood());
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

async fn flood() {
    let (messages, pairs) = (setting("MESSAGES", 300_000), setting("PAIRS", 5));
    let stack = Stack::start_with_own_postgres().await;
    let url = stack::read_url(&stack.database_url);
    let settings = [("POSTGRES_READ_URL", url.as_str())];
    stack.make_streams().await;
    let count = messages.to_string();
    produce(&stack, &["--rate", "0", "--seed", "1", "--count", &count]);
    println!("{messages} messages drained in each run, in the first beside a flood of reads");
    println!("  the {CLIENTS} clients run on the same processors, and their time counts as cost");
    println!("  messages/s, µs of processor time per message; reads answered and refused");
    let alone = async || drain(&stack, &settings, messages, messages).await;
    // The first run finds cold files.
    alone().await;
    let (mut costs, mut controls) = (Vec::new(), Vec::new());
    for pair in 0..pairs {
        let first = alone().await;
        let mut reads = (0, 0);
        let beside = drain_beside(&stack, &settings, (messages, messages), |ganesh| {
            Counted(Flood::start(ganesh, CLIENTS), &mut reads)
        });
        let beside = beside.await;
        let again = alone().await;
        println!("  {beside}   {first}   {again}   {reads:?}");
        assert!(
            reads.0 > 0,
            "no read was answered: it was no flood of reads"
        );
        // In turn, so that what a machine does over time falls on both alike.
        let other = if pair % 2 == 0 { first } else { again };
        costs.push(beside.cost_over(other));
        controls.push(first.cost_over(again));
    }
    let throughput = |cost: &Cost| cost.throughput;
    let (cost, _) = compare(
        "throughput lost to the flood",
        &costs,
        &controls,
        throughput,
    );
    assert!(
        cost < COST_MAX,
        "a flood of reads costs {:.1} % of throughput: expected less than {:.0} %",
        cost * 100.0,
        COST_MAX * 100.0
    );
}

/// Says how many reads there were when it is over.
struct Counted<'a>(Flood, &'a mut (u64, u64));

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        *self.1 = (self.0.answered(), self.0.refused());
    }
}
