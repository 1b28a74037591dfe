//! Pages of events and of subjects while events arrive, and partitions come and go: nothing twice, and nothing
//! missing that was there.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ganesh::config::PartitionInterval;
use ganesh::event::{Event, Timestamp};
use ganesh::storage::partitions::{drop_expired, make_ahead};
use sqlx::PgPool;
use tokio::time::MissedTickBehavior;

use super::client::{Answer, get, store};
use super::search::{events_of, next_of};
use crate::support::events::{event, publish};
use crate::support::{Ganesh, Stack};

const DAY: i64 = 86_400_000_000;
/// Days ahead that events have; partitions are made for three at first.
pub const DAYS: i64 = 16;

pub fn in_days(days: i64) -> Timestamp {
    Timestamp::from_micros(Timestamp::now().micros() + days * DAY)
}

/// Makes partitions for the days ahead, to which rows move from the default one, and others that are dropped.
pub async fn change_partitions(pool: &PgPool) {
    for day in 4..DAYS {
        for of in [in_days(day), in_days(-100 - day)] {
            // A lock that a read holds can keep one from being made: the next round does.
            let _ = make_ahead(pool, PartitionInterval::Day, of).await;
        }
        let _ = drop_expired(pool, 60, Timestamp::now()).await;
    }
}

/// On a busy machine a page can run out of time while partitions are locked: it is asked for again.
async fn page_of(ganesh: &Ganesh, path: &str) -> Answer {
    for _ in 0..10 {
        let page = get(ganesh, path).await;
        if page.status == 200 {
            return page;
        }
    }
    panic!("no page in ten attempts: {path}");
}

#[tokio::test]
async fn pages_miss_and_repeat_nothing_while_events_arrive_and_partitions_change() {
    let stack = Stack::start().await;
    let ganesh = stack
        .serve(&[("GANESH_LOG", "warn,ganesh::api=debug")])
        .await;
    let of = |prefix: &str, i: i64| Event {
        time: Timestamp::from_micros(in_days(i % DAYS).micros() / DAY * DAY + i % 5),
        ..event(&format!("{prefix}-{i}"))
    };
    let there: Vec<Event> = (0..600).map(|i| of("there", i)).collect();
    store(&stack, &there).await;
    let jetstream = stack.jetstream().await;
    let (is_over, are_changed) = (AtomicBool::new(false), AtomicBool::new(false));
    let arriving = async {
        let mut i = 0;
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while i < 3_000 && !is_over.load(Ordering::Relaxed) {
            ticks.tick().await;
            let some: Vec<Event> = (i..i + 20).map(|i| of("arriving", i)).collect();
            publish(&jetstream, &some).await;
            i += 20;
        }
    };
    let reading = async {
        let mut walks = 0;
        while walks < 3 || !are_changed.load(Ordering::Relaxed) {
            let mut seen = BTreeSet::new();
            let mut last = None;
            let mut path = Some("/v1/events?limit=40".to_owned());
            while let Some(asked) = path {
                let page = page_of(&ganesh, &asked).await;
                for event in events_of(&page) {
                    let part = |name: &str| event[name].as_str().unwrap().to_owned();
                    let time = Timestamp::parse_rfc3339(&part("time")).unwrap();
                    let key = (time, part("source"), part("id"));
                    assert!(
                        last.is_none_or(|last| key < last),
                        "{key:?} is out of order"
                    );
                    assert!(seen.insert(key.2.clone()), "{} came twice", key.2);
                    last = Some(key);
                }
                path = next_of(&page);
            }
            let missing: Vec<_> = there
                .iter()
                .filter(|event| !seen.contains(&event.id))
                .collect();
            assert!(
                missing.is_empty(),
                "{} are missing: {:?}",
                missing.len(),
                missing[0]
            );
            walks += 1;
        }
        is_over.store(true, Ordering::Relaxed);
    };
    let changing = async {
        change_partitions(&stack.pool).await;
        are_changed.store(true, Ordering::Relaxed);
    };
    let partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'events'::regclass";
    let count = async || -> i64 {
        let count = sqlx::query_scalar(partitions).fetch_one(&stack.pool);
        count.await.unwrap()
    };
    let before = count().await;
    tokio::join!(arriving, reading, changing);
    assert!(count().await > before + 5, "rows have moved");
}

#[tokio::test]
async fn subjects_are_listed_once_while_events_of_them_and_of_others_arrive() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let of = |subject: String, i: i64| Event {
        time: in_days(i % 3),
        subject: Some(subject),
        ..event(&format!("e-{i}"))
    };
    let there: Vec<Event> = (0..300).map(|i| of(format!("s-{i:03}"), i)).collect();
    store(&stack, &there).await;
    let jetstream = stack.jetstream().await;
    let is_over = AtomicBool::new(false);
    let arriving = async {
        let mut i = 300;
        while i < 6_000 && !is_over.load(Ordering::Relaxed) {
            // Between those that are there, and newer events of these.
            let some = (i..i + 20).map(|i| match i % 2 {
                0 => of(format!("s-{:03}", i * 7 % 300), i),
                _ => of(format!("s-{:03}-{i}", i * 7 % 300), i),
            });
            publish(&jetstream, &some.collect::<Vec<_>>()).await;
            i += 20;
        }
        i
    };
    let reading = async {
        for _ in 0..3 {
            let mut seen: Vec<String> = Vec::new();
            let mut path = Some("/v1/subjects?limit=20".to_owned());
            while let Some(asked) = path {
                let page = page_of(&ganesh, &asked).await;
                for listed in page.json()["subjects"].as_array().unwrap() {
                    seen.push(listed["subject"].as_str().unwrap().to_owned());
                }
                path = next_of(&page);
            }
            assert!(seen.is_sorted_by(|a, b| a < b), "out of order: {seen:?}");
            for event in &there {
                assert!(seen.contains(event.subject.as_ref().unwrap()), "{event:?}");
            }
        }
        is_over.store(true, Ordering::Relaxed);
    };
    let (arrived, ()) = tokio::join!(arriving, reading);
    assert!(arrived > 400, "{arrived} arrived");
}
