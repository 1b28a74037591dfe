//! Constraints that somebody adds to `events` for a while: what violates one becomes a letter, the rest rows.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use async_nats::jetstream::Context;
use futures::future::join_all;
use ganesh::event::{self, Event, Timestamp};

use super::scene::Scene;
use super::special::SUBJECT;
use super::verify::{Key, Letter, Sent};
use super::{nats, postgres};
use crate::support::events::event as ordinary;

/// Sources of events that a constraint is about begin with this.
pub const SOURCE: &str = "/constrained/";
/// Two events at a time, with one subject and one time.
const PAIRS: u64 = 20;

/// A constraint, of the events of one source.
#[derive(Debug)]
struct Constraint {
    name: &'static str,
    /// `{source}` stands for it.
    add: &'static str,
    remove: &'static str,
    sqlstate: &'static str,
    /// How many of a pair it rejects.
    rejects: u64,
}

const CONSTRAINTS: [Constraint; 2] = [
    Constraint {
        name: "check",
        add: "ALTER TABLE events ADD CONSTRAINT theirs CHECK (source <> '{source}') NOT VALID",
        remove: "ALTER TABLE events DROP CONSTRAINT theirs",
        sqlstate: "23514",
        rejects: 2,
    },
    Constraint {
        name: "unique",
        add: "CREATE UNIQUE INDEX theirs ON events (subject, time) WHERE source = '{source}'",
        remove: "DROP INDEX theirs",
        sqlstate: "23505",
        rejects: 1,
    },
];

/// When a pair was published. Its name begins the ids of its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Before the constraint came, perhaps written after that.
    Before,
    /// It was settled before the constraint went.
    During,
    /// Before the constraint went, perhaps written after that.
    Until,
    /// After the constraint went.
    After,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::During => "during",
            Self::Until => "until",
            Self::After => "after",
        }
    }

    fn of(id: &str) -> Self {
        let all = [Self::Before, Self::During, Self::Until, Self::After];
        let of_id = |phase: &Self| id.starts_with(phase.name());
        all.into_iter().find(of_id).expect("ids begin with it")
    }

    /// How many of a pair become rows, at least and at most.
    fn rows(self, constraint: &Constraint) -> [u64; 2] {
        let left = 2 - constraint.rejects;
        match self {
            Self::Before | Self::Until => [left, 2],
            Self::During => [left, left],
            Self::After => [2, 2],
        }
    }
}

/// A message of an event that a constraint is about.
#[derive(Debug)]
pub struct Constrained {
    pub sequence: u64,
    pub key: Key,
    pub source: String,
    pub id: String,
}

/// Adds one, publishes around that, and removes it.
pub async fn strike(scene: &mut Scene, lasts: Duration) {
    let kind = usize::try_from(lasts.as_millis()).expect("a few seconds") % CONSTRAINTS.len();
    let constraint = &CONSTRAINTS[kind];
    let source = format!("{SOURCE}{}/{}", constraint.name, scene.constraints);
    scene.constraints += 1;
    let jetstream = scene.jetstream().await;
    let mut phases = vec![Phase::During, Phase::Until, Phase::After];
    // A unique index is not made where two have one key already.
    if constraint.sqlstate != "23505" {
        publish(&jetstream, &source, Phase::Before).await;
        phases.push(Phase::Before);
    }
    let add = constraint.add.replace("{source}", &source);
    postgres::execute(&scene.stack, &add).await;
    let newest = publish(&jetstream, &source, Phase::During).await;
    tokio::time::sleep(lasts).await;
    nats::wait_until_settled(&jetstream, newest).await;
    publish(&jetstream, &source, Phase::Until).await;
    postgres::execute(&scene.stack, constraint.remove).await;
    publish(&jetstream, &source, Phase::After).await;
    for phase in phases {
        let [least, most] = phase.rows(constraint);
        scene.sent = scene.sent
            + Sent {
                messages: [2 * PAIRS; 2],
                rows: [least * PAIRS, most * PAIRS],
                letters: [(2 - most) * PAIRS, (2 - least) * PAIRS],
            };
    }
}

/// Publishes pairs all at once; the last sequence of them.
async fn publish(jetstream: &Context, source: &str, phase: Phase) -> u64 {
    let now = Timestamp::now().micros();
    let pairs = (0..PAIRS).flat_map(|pair| {
        ["a", "b"].map(|one| Event {
            source: source.to_owned(),
            subject: Some(format!("constrained-{pair}")),
            time: Timestamp::from_micros(now + i64::try_from(pair).expect("a few")),
            ..ordinary(&format!("{}-{pair}-{one}", phase.name()))
        })
    });
    let published = pairs.map(|event| async move {
        let (headers, body) = event::encode_binary(&event);
        let published = jetstream.publish_with_headers(SUBJECT, headers, body).await;
        let acknowledged = published.expect("NATS is up").await;
        acknowledged.expect("NATS is up").sequence
    });
    let sequences = join_all(published).await;
    sequences.into_iter().max().expect("there are some")
}

/// Each of these is one row or one letter, as its constraint says.
pub fn verify(all: &[Constrained], rows: &HashSet<Key>, letters: &HashMap<u64, Vec<Letter>>) {
    let mut pairs: HashMap<(&str, &str), Vec<&Constrained>> = HashMap::new();
    for one in all {
        let (pair, _) = one.id.rsplit_once('-').expect("as they are made");
        pairs.entry((&one.source, pair)).or_default().push(one);
    }
    for ((source, id), pair) in pairs {
        let is_of = |constraint: &&Constraint| source[SOURCE.len()..].starts_with(constraint.name);
        let constraint = CONSTRAINTS.iter().find(is_of);
        let constraint = constraint.expect("as they are made");
        let mut stored = 0;
        for one in &pair {
            let is_row = rows.contains(&one.key);
            let found = letters.get(&one.sequence).map_or(&[][..], Vec::as_slice);
            assert_eq!(found.len(), usize::from(!is_row), "{one:?}: letters");
            for letter in found {
                let is_right =
                    letter.reason == "rejected_row" && letter.detail.contains(constraint.sqlstate);
                assert!(is_right, "{one:?}: {letter:?}");
            }
            stored += u64::from(is_row);
        }
        let [least, most] = Phase::of(id).rows(constraint);
        assert_eq!(pair.len(), 2, "{source} {id}");
        assert!(
            (least..=most).contains(&stored),
            "{stored} rows of {source} {id}: expected {least} to {most}"
        );
    }
}
