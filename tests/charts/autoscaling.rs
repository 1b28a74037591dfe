//! The chart's own query, asked of a real Prometheus while a model of ganesh under load writes its metrics there, and a
//! model of Kubernetes' autoscaler follows the answers. `--nocapture` shows the replicas over time.

mod autoscaler;
mod history;
mod load;

use self::autoscaler::Autoscaler;
use self::history::History;
use self::load::{Cluster, Load};
use super::{Chart, fetched, the};
use crate::support::monitoring::word;

/// Prometheus scrapes, and the autoscaler asks, so often.
const STEP_SECS: u32 = 15;
/// What one replica stores in a second, as the example says.
const RATE: f64 = 10_000.0;
/// In which a backlog should be gone, as the example says.
const DRAIN_SECS: u32 = 300;
/// Before a replica more has an effect: a scrape, the autoscaler's window and its round, the start of a pod.
const REACTION_SECS: u32 = 180;
const MOST: usize = 5;

/// One round of the autoscaler.
struct Point {
    at_secs: u32,
    replicas: usize,
    backlog: f64,
}

/// What happened, a point every [`STEP_SECS`].
struct Course(Vec<Point>);

impl Course {
    fn between(&self, from_secs: u32, to_secs: u32) -> impl Iterator<Item = &Point> {
        let points = self.0.iter();
        points.filter(move |point| (from_secs..=to_secs).contains(&point.at_secs))
    }

    fn replicas_between(&self, from_secs: u32, to_secs: u32) -> Vec<usize> {
        let mut seen: Vec<_> = self
            .between(from_secs, to_secs)
            .map(|p| p.replicas)
            .collect();
        seen.dedup();
        seen
    }

    /// How often it turned: up and later down is one turn.
    fn turns(&self) -> usize {
        let mut changes: Vec<bool> = self
            .0
            .windows(2)
            .filter(|two| two[0].replicas != two[1].replicas)
            .map(|two| two[0].replicas < two[1].replicas)
            .collect();
        changes.dedup();
        changes.len().saturating_sub(1)
    }

    /// When the backlog was last more than the work of five seconds.
    fn behind_until(&self) -> u32 {
        let behind = self.0.iter().rev().find(|point| point.backlog > 5.0 * RATE);
        behind.map_or(0, |point| point.at_secs)
    }
}

/// Lets the autoscaler of the example follow a load. `None` where there is no Helm.
async fn follow(load: Load) -> Option<Course> {
    let chart = Chart::find()?;
    let documents = chart.example("keda");
    let scaled = &the(&documents, "ScaledObject")["spec"];
    let trigger = &scaled["triggers"][0];
    assert_eq!(trigger["type"], "prometheus");
    assert_eq!(trigger["metadata"]["ignoreNullValues"], "false");
    let query = word(&trigger["metadata"]["query"]);
    let history = History::start(&fetched("prometheus")?, load.minutes * 60).await;
    let mut autoscaler = Autoscaler::of(scaled);
    let mut cluster = Cluster::new(autoscaler.least());
    let mut course = Vec::new();
    for at_secs in 0..load.minutes * 60 {
        cluster.run_for_a_second(&load, at_secs);
        if at_secs % STEP_SECS != 0 {
            continue;
        }
        if (load.is_scraped)(at_secs) {
            history.write(at_secs, &cluster.series()).await;
        }
        let wanted = history.ask(query, at_secs).await;
        let replicas = autoscaler.next(at_secs, cluster.replicas(), wanted);
        cluster.scale(replicas, at_secs);
        let backlog = cluster.backlog();
        if at_secs % 60 == 0 {
            let wanted = wanted.map_or("none".to_owned(), |wanted| format!("{wanted:.2}"));
            println!(
                "{:3} min: {replicas} replicas, {wanted} wanted, backlog {backlog:9.0}",
                at_secs / 60
            );
        }
        course.push(Point {
            at_secs,
            replicas,
            backlog,
        });
    }
    Some(Course(course))
}

const fn minutes(minutes: u32) -> u32 {
    minutes * 60
}

/// Nothing special.
const PLAIN: Load = Load {
    minutes: 60,
    inflow: |_| 0.0,
    is_stored: |_| true,
    is_scraped: |_| true,
    ceiling: f64::INFINITY,
};

#[tokio::test]
async fn a_steady_load_gets_its_replicas_once() {
    let Some(course) = follow(Load {
        inflow: |_| 2.6 * RATE,
        ..PLAIN
    })
    .await
    else {
        return;
    };
    assert_eq!(course.replicas_between(0, minutes(60)), [2, 3]);
    assert!(
        course.behind_until() < DRAIN_SECS + REACTION_SECS,
        "{}",
        course.behind_until()
    );
}

#[tokio::test]
async fn a_load_at_the_edge_of_two_replicas_does_not_flap() {
    // Every ten minutes a little more than two replicas store, then a little less.
    let inflow =
        |at: u32| (2.0 + 0.06 * (f64::from(at) / 600.0 * std::f64::consts::TAU).sin()) * RATE;
    let Some(course) = follow(Load {
        minutes: 60,
        inflow,
        ..PLAIN
    })
    .await
    else {
        return;
    };
    assert!(
        course.turns() <= 1,
        "{:?}",
        course.replicas_between(0, minutes(60))
    );
    assert!(
        course
            .between(minutes(15), minutes(60))
            .all(|point| point.backlog < 60.0 * RATE)
    );
}

#[tokio::test]
async fn a_step_up_and_down_is_followed_and_the_backlog_gone_in_time() {
    let inflow = |at: u32| {
        if (minutes(20)..minutes(40)).contains(&at) {
            3.4 * RATE
        } else {
            0.5 * RATE
        }
    };
    let Some(course) = follow(Load {
        minutes: 70,
        inflow,
        ..PLAIN
    })
    .await
    else {
        return;
    };
    assert_eq!(course.replicas_between(0, minutes(20)), [2]);
    let high = course.replicas_between(minutes(33), minutes(40));
    assert_eq!(high, [4], "enough for what comes in");
    assert!(
        course.behind_until() < minutes(20) + DRAIN_SECS + REACTION_SECS,
        "{}",
        course.behind_until()
    );
    assert_eq!(course.replicas_between(minutes(60), minutes(70)), [2]);
    assert_eq!(course.turns(), 1, "up, then down");
}

#[tokio::test]
async fn a_slow_ramp_is_followed_step_by_step() {
    let inflow =
        |at: u32| (0.5 + 4.0 * (1.0 - (f64::from(at) / 2700.0 - 1.0).abs()).max(0.0)) * RATE;
    let Some(course) = follow(Load {
        minutes: 110,
        inflow,
        ..PLAIN
    })
    .await
    else {
        return;
    };
    let mut up: Vec<_> = course.replicas_between(0, minutes(50));
    assert_eq!(up, [2, 3, 4, 5]);
    up.reverse();
    assert_eq!(course.replicas_between(minutes(50), minutes(110)), up);
    assert_eq!(course.turns(), 1);
    for point in &course.0 {
        let at = point.at_secs;
        assert!(point.backlog < 30.0 * inflow(at), "behind at {at} s");
    }
}

#[tokio::test]
async fn nothing_changes_while_postgres_is_down_and_then_the_backlog_is_gone_in_time() {
    let down = minutes(20)..minutes(30);
    let Some(course) = follow(Load {
        minutes: 75,
        inflow: |_| 1.2 * RATE,
        is_stored: |at| !(minutes(20)..minutes(30)).contains(&at),
        ..PLAIN
    })
    .await
    else {
        return;
    };
    assert_eq!(course.replicas_between(down.start, down.end), [2], "held");
    let most = course.0.iter().map(|point| point.replicas).max().unwrap();
    assert!((3..=MOST).contains(&most), "{most}");
    let gone = course.behind_until() - down.end;
    assert!(gone < DRAIN_SECS + REACTION_SECS, "gone after {gone} s");
    assert_eq!(course.replicas_between(minutes(60), minutes(75)), [2]);
    assert_eq!(course.turns(), 1, "up, then down");
}

#[tokio::test]
async fn nothing_changes_while_prometheus_has_no_data() {
    let inflow = |at: u32| {
        if at < minutes(20) {
            2.6 * RATE
        } else {
            0.1 * RATE
        }
    };
    let Some(course) = follow(Load {
        inflow,
        is_scraped: |at| !(minutes(15)..minutes(45)).contains(&at),
        ..PLAIN
    })
    .await
    else {
        return;
    };
    // The last values count for five minutes.
    assert_eq!(
        course.replicas_between(minutes(10), minutes(45)),
        [3],
        "held"
    );
    assert_eq!(course.replicas_between(minutes(59), minutes(60)), [2]);
}

#[tokio::test]
async fn more_replicas_than_postgres_can_serve_stay_at_the_maximum() {
    let inflow = |at: u32| {
        if at < minutes(25) {
            3.2 * RATE
        } else {
            1.0 * RATE
        }
    };
    let Some(course) = follow(Load {
        minutes: 60,
        inflow,
        ceiling: 2.8 * RATE,
        ..PLAIN
    })
    .await
    else {
        return;
    };
    assert_eq!(course.replicas_between(minutes(20), minutes(25)), [MOST]);
    assert_eq!(course.turns(), 1, "up, then down");
}
