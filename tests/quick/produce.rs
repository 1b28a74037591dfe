//! `ganesh produce`: the events and the messages, and by module the schedule, what waits for its
//! acknowledgement, and the options.

mod options;
mod schedule;
mod waiting;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use ganesh::event::{Data, DecodeReason, Message, Timestamp, decode};
use ganesh::produce::events::{EventKind, Events, subject_name};
use ganesh::produce::messages::{Flaw, MessageWriter, OutgoingMessage, Recipe, Variant};
use ganesh::produce::options::Mode;
use ganesh::produce::plan::{Plan, Recent};
use strum::VariantArray as _;

const SECOND: Duration = Duration::from_secs(1);
const SEED: u64 = 7;

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

#[test]
fn an_event_follows_from_seed_and_number() {
    let one = Events::new(SEED, 1_000, 230);
    let same = Events::new(SEED, 1_000, 230);
    let other = Events::new(SEED + 1, 1_000, 230);
    let mut differ = 0;
    for number in 0..1_000 {
        assert_eq!(one.event(number, at(1)), same.event(number, at(1)));
        assert_ne!(
            one.event(number, at(1)).1.id,
            other.event(number, at(1)).1.id
        );
        differ += usize::from(one.event(number, at(1)).1.data != other.event(number, at(1)).1.data);
    }
    assert!(differ > 990, "{differ} of 1000 events differ by seed");
}

#[test]
fn ids_are_unique_and_subjects_keep_to_their_source() {
    let events = Events::new(SEED, 200, 230);
    let mut ids = HashSet::new();
    let mut sources: HashMap<String, String> = HashMap::new();
    for number in 0..20_000 {
        let (_, event) = events.event(number, at(1));
        assert!(ids.insert(event.id));
        let subject = event.subject.unwrap();
        let source = sources
            .entry(subject)
            .or_insert_with(|| event.source.clone());
        assert_eq!(*source, event.source);
    }
}

#[test]
fn subjects_are_skewed_and_all_within_their_number() {
    let events = Events::new(SEED, 1_000, 230);
    let mut counts = vec![0_u32; 1_000];
    for number in 0..100_000 {
        counts[usize::try_from(events.rank(number)).unwrap()] += 1;
    }
    // Zipf: rank 0 about ln 2 / ln 1001 = 10 %, a tenth of the subjects about two thirds.
    assert!((9_000..11_500).contains(&counts[0]), "{}", counts[0]);
    let busiest: u32 = counts[..100].iter().sum();
    assert!((62_000..72_000).contains(&busiest), "{busiest}");
    let seen = counts.iter().filter(|count| **count > 0).count();
    assert!(seen > 950, "{seen} of 1000 subjects have events");
    assert_eq!(Events::new(SEED, 1, 230).rank(5), 0);
}

#[test]
fn every_kind_of_event_occurs() {
    let events = Events::new(SEED, 1_000, 230);
    for kind in EventKind::VARIANTS {
        assert!(
            (0..10_000).any(|number| events.event(number, at(1)).0 == *kind),
            "{kind:?}"
        );
    }
}

#[test]
fn data_is_json_of_about_the_size_asked_for() {
    for target in [1_usize, 230, 4_096, 500_000] {
        let events = Events::new(SEED, 1_000, target);
        let mut total = 0;
        for number in 0..40 {
            let Data::Json(body) = events.event(number, at(1)).1.data else {
                panic!("the data is JSON");
            };
            serde_json::from_slice::<serde_json::Map<_, _>>(&body).unwrap();
            assert!(
                body.len() >= target && body.len() < target.max(210) + 96,
                "{}",
                body.len()
            );
            total += body.len();
        }
        if target == 230 {
            assert!((230..262).contains(&(total / 40)), "{}", total / 40);
        }
    }
}

fn writer(mode: Mode, sample: u32) -> MessageWriter {
    let events = Events::new(SEED, 1_000, 230);
    MessageWriter::new(events, mode, SEED, sample, "events.>")
}

fn recipe(number: u64, variant: Variant) -> Recipe {
    Recipe {
        number,
        event: number,
        time: at(1_700_000_000),
        variant,
    }
}

fn header<'a>(message: &'a OutgoingMessage, name: &'static str) -> &'a str {
    message.headers.get(name).unwrap().as_str()
}

fn decoded(message: &OutgoingMessage) -> Result<ganesh::event::Event, DecodeReason> {
    let message = Message {
        subject: &message.subject,
        headers: Some(&message.headers),
        payload: &message.payload,
        stream: "EVENTS",
        stream_sequence: 1,
        published_at: at(1_800_000_000),
    };
    decode(&message, true).map_err(|error| error.reason())
}

#[test]
fn a_message_carries_its_event_in_either_mode() {
    let events = Events::new(SEED, 1_000, 230);
    for mode in [Mode::Binary, Mode::Structured] {
        for number in 0..50 {
            let recipe = recipe(number, Variant::New);
            let message = writer(mode, 0).write(&recipe);
            assert_eq!(
                decoded(&message).unwrap(),
                events.event(number, recipe.time).1
            );
        }
    }
}

#[test]
fn a_plain_message_is_the_data_alone() {
    let message = writer(Mode::Plain, 0).write(&recipe(3, Variant::New));
    let event = decoded(&message).unwrap();
    assert_eq!(event.source, "nats://EVENTS");
    assert_eq!(event.id, header(&message, "Nats-Msg-Id"));
    assert!(matches!(event.data, Data::Json(_)));
    assert!(message.headers.get("ce-id").is_none());
}

#[test]
fn a_duplicate_is_the_same_event_under_another_message_id() {
    for mode in [Mode::Binary, Mode::Structured] {
        let first = writer(mode, 0).write(&recipe(3, Variant::New));
        let again = writer(mode, 0).write(&Recipe {
            number: 9,
            ..recipe(3, Variant::Duplicate)
        });
        assert_eq!(decoded(&first), decoded(&again));
        assert_eq!(first.subject, again.subject);
        assert_ne!(header(&first, "Nats-Msg-Id"), header(&again, "Nats-Msg-Id"));
    }
}

#[test]
fn a_retry_is_the_same_message() {
    let recipe = recipe(3, Variant::New);
    let first = writer(Mode::Binary, 10).write(&recipe);
    let again = writer(Mode::Binary, 10).write(&recipe);
    assert_eq!(first.headers, again.headers);
    assert_eq!(first.payload, again.payload);
}

#[test]
fn an_invalid_message_is_refused_for_its_flaw_in_every_mode() {
    for mode in [Mode::Binary, Mode::Structured, Mode::Plain] {
        for &flaw in Flaw::VARIANTS {
            let message = writer(mode, 0).write(&recipe(3, Variant::Invalid(flaw)));
            let expected = match flaw {
                Flaw::MissingId => DecodeReason::MissingAttribute,
                Flaw::BadTime => DecodeReason::InvalidTime,
                Flaw::BrokenJson => DecodeReason::InvalidJson,
                Flaw::WrongVersion => DecodeReason::UnsupportedSpecversion,
            };
            assert_eq!(decoded(&message), Err(expected), "{mode:?} {flaw:?}");
        }
    }
}

#[test]
fn one_message_in_so_many_is_sampled() {
    let sampled = |sample| {
        (0..1_000)
            .map(|number| writer(Mode::Binary, sample).write(&recipe(number, Variant::New)))
            .map(|message| ganesh::event::trace_context(Some(&message.headers)).unwrap())
            .filter(|context| context.sampled)
            .count()
    };
    assert_eq!(sampled(0), 0);
    assert_eq!(sampled(1), 1_000);
    assert_eq!(sampled(100), 10);
}

#[test]
fn subjects_follow_the_streams_pattern() {
    let subjects = |pattern| {
        let events = Events::new(SEED, 1_000, 230);
        let writer = MessageWriter::new(events, Mode::Binary, SEED, 0, pattern);
        writer.subjects()[0].to_string()
    };
    assert_eq!(subjects("events.>"), "events.device.telemetry");
    assert_eq!(subjects("eu.*.in.>"), "eu.device.in.telemetry");
    assert_eq!(subjects("a.*.*.*"), "a.device.telemetry.all");
    assert_eq!(subjects(">"), "device.telemetry");
    assert_eq!(subjects("events"), "events");
}

#[test]
fn the_shares_of_duplicates_and_invalid_messages_are_as_asked() {
    let plan = Plan::new(SEED, 2.0, 0.5);
    let mut recent = Recent::default();
    let (mut duplicates, mut invalid) = (0, 0);
    for number in 0..100_000 {
        let recipe = plan.recipe(number, at(5), &recent);
        match recipe.variant {
            Variant::New => recent.push(recipe),
            Variant::Invalid(_) => invalid += 1,
            Variant::Duplicate => {
                duplicates += 1;
                assert!(recipe.event < number);
            }
        }
    }
    assert!((1_800..2_200).contains(&duplicates), "{duplicates}");
    assert!((400..600).contains(&invalid), "{invalid}");
}

#[test]
fn only_acknowledged_events_are_repeated() {
    let plan = Plan::new(SEED, 100.0, 0.0);
    let mut recent = Recent::default();
    assert_eq!(plan.recipe(0, at(5), &recent).variant, Variant::New);
    recent.push(Recipe {
        time: at(5),
        ..recipe(0, Variant::New)
    });
    let again = plan.recipe(1, at(9), &recent);
    assert_eq!((again.event, again.time), (0, at(5)));
    assert_eq!(again.variant, Variant::Duplicate);
}

#[test]
fn subject_names_are_unique() {
    let names: HashSet<String> = (0..10_000).map(subject_name).collect();
    assert_eq!(names.len(), 10_000);
}
