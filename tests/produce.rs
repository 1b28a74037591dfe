//! `ganesh produce`, as far as it needs no server: the schedule, the events, the
//! messages, what waits for its acknowledgement, and how reads are judged.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use ganesh::event::{Data, DecodeReason, Message, Timestamp, decode};
use ganesh::produce::events::{Events, Kind, subject_name};
use ganesh::produce::freshness::Freshness;
use ganesh::produce::latency::Latencies;
use ganesh::produce::messages::{Flaw, MessageWriter, Outgoing, Recipe, Variant};
use ganesh::produce::options::{End, Mode, OPTIONS, Options};
use ganesh::produce::pacer::{CATCH_UP_MAX, Pace, Pacer};
use ganesh::produce::pending::{ACK_TIMEOUT, GIVE_UP_AFTER, Overdue, Pending, Token};
use ganesh::produce::plan::Plan;
use ganesh::produce::recent::{Recent, Sent};

const SECOND: Duration = Duration::from_secs(1);
const SEED: u64 = 7;

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

/// How many are due at `now`.
fn take_due(pacer: &mut Pacer, now: Duration) -> Vec<Duration> {
    std::iter::from_fn(|| match pacer.next(now) {
        Pace::Due(scheduled) => Some(scheduled),
        Pace::Wait(_) => None,
    })
    .collect()
}

#[test]
fn the_schedule_keeps_its_rate_whatever_the_ticks_are() {
    let mut pacer = Pacer::new(30_000);
    let mut sent = 0;
    for tick in 0..1_000 {
        // Ticks between 1 and 7 ms apart.
        sent += take_due(&mut pacer, millis(tick * 4 + tick % 3)).len();
    }
    let last = millis(999 * 4);
    let expected = last.as_millis() * 30 + 1;
    assert_eq!(u128::try_from(sent).unwrap(), expected);
    assert_eq!(pacer.missed(), 0);
}

#[test]
fn what_a_stall_delayed_was_due_during_the_stall() {
    let mut pacer = Pacer::new(1_000);
    take_due(&mut pacer, SECOND);
    let late = take_due(&mut pacer, 3 * SECOND);
    assert_eq!(late.len(), 2_000);
    assert_eq!(late[0], millis(1_001));
    assert_eq!(late[1_999], millis(3_000));
}

#[test]
fn a_long_outage_does_not_end_in_a_burst_of_all_of_it() {
    let mut pacer = Pacer::new(1_000);
    let outage = Duration::from_secs(600);
    let burst = take_due(&mut pacer, outage);
    let bound = CATCH_UP_MAX.as_secs() * 1_000 + 1;
    assert_eq!(u64::try_from(burst.len()).unwrap(), bound);
    assert_eq!(pacer.missed(), 590_000);
    assert_eq!(take_due(&mut pacer, outage + SECOND).len(), 1_000);
}

#[test]
fn a_wait_is_never_shorter_than_a_tick_and_never_too_long() {
    let mut fast = Pacer::new(1_000_000);
    take_due(&mut fast, SECOND);
    assert_eq!(fast.next(SECOND), Pace::Wait(SECOND + millis(1)));
    let mut slow = Pacer::new(2);
    take_due(&mut slow, Duration::ZERO);
    assert_eq!(slow.next(millis(10)), Pace::Wait(millis(500)));
}

#[test]
fn rate_zero_is_always_due() {
    let mut pacer = Pacer::new(0);
    assert_eq!(pacer.next(SECOND), Pace::Due(SECOND));
    assert_eq!(pacer.next(SECOND), Pace::Due(SECOND));
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
    for kind in Kind::ALL {
        assert!(
            (0..10_000).any(|number| events.kind(number) == kind),
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

fn header<'a>(message: &'a Outgoing, name: &'static str) -> &'a str {
    message.headers.get(name).unwrap().as_str()
}

fn decoded(message: &Outgoing) -> Result<ganesh::event::Event, DecodeReason> {
    let message = Message {
        subject: &message.subject,
        headers: Some(&message.headers),
        payload: &message.payload,
        stream: "EVENTS",
        stream_sequence: 1,
        stored_at: at(1_800_000_000),
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
        for flaw in Flaw::ALL {
            let message = writer(mode, 0).write(&recipe(3, Variant::Invalid(flaw)));
            let expected = match flaw {
                Flaw::MissingId => DecodeReason::MissingAttribute,
                Flaw::BadTime => DecodeReason::InvalidTime,
                Flaw::BrokenJson => DecodeReason::InvalidJson,
                Flaw::WrongVersion => DecodeReason::UnsupportedSpecversion,
            };
            assert_eq!(decoded(&message), Err(expected), "{mode} {flaw:?}");
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
            Variant::New => recent.push(Sent {
                event: number,
                time: recipe.time,
            }),
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
    recent.push(Sent {
        event: 0,
        time: at(5),
    });
    let again = plan.recipe(1, at(9), &recent);
    assert_eq!((again.event, again.time), (0, at(5)));
    assert_eq!(again.variant, Variant::Duplicate);
}

#[test]
fn quantiles_are_never_too_low_and_two_percent_high_at_most() {
    let mut latencies = Latencies::default();
    for micros in 1..=100_000 {
        latencies.record(Duration::from_micros(micros));
    }
    for (per_mille, exact) in [
        (500, 50_000.0),
        (900, 90_000.0),
        (990, 99_000.0),
        (999, 99_900.0),
    ] {
        let ratio = latencies.quantile(per_mille).as_secs_f64() * 1e6 / exact;
        assert!((1.0..1.02).contains(&ratio), "{per_mille}: {ratio}");
    }
    assert_eq!(latencies.max(), millis(100));
    assert_eq!(Latencies::default().quantile(990), Duration::ZERO);
    latencies.record(Duration::MAX);
    assert_eq!(latencies.quantile(1_000), latencies.max());
}

#[test]
fn room_for_acknowledgements_is_bounded_and_comes_back() {
    let mut pending = Pending::new(2);
    let first = pending
        .insert(recipe(0, Variant::New), SECOND, SECOND)
        .unwrap();
    pending
        .insert(recipe(1, Variant::New), SECOND, SECOND)
        .unwrap();
    assert!(pending.is_full());
    assert!(
        pending
            .insert(recipe(2, Variant::New), SECOND, SECOND)
            .is_none()
    );
    let token = Token::parse(&first.to_text()).unwrap();
    assert_eq!(pending.remove(token).unwrap().recipe.number, 0);
    assert!(pending.remove(token).is_none(), "a second acknowledgement");
    let third = pending
        .insert(recipe(2, Variant::New), SECOND, SECOND)
        .unwrap();
    assert!(
        pending.remove(token).is_none(),
        "the place is another message's"
    );
    assert!(pending.remove(third).is_some());
    assert_eq!(pending.len(), 1);
}

#[test]
fn what_is_not_acknowledged_is_sent_again_and_given_up_in_the_end() {
    let mut pending = Pending::new(1);
    let token = pending
        .insert(recipe(0, Variant::New), SECOND, SECOND)
        .unwrap();
    assert!(pending.overdue(SECOND + ACK_TIMEOUT - millis(1)).is_empty());
    let again = pending.overdue(SECOND + ACK_TIMEOUT);
    assert!(matches!(again[..], [Overdue::Retry(same, _)] if same == token));
    assert!(pending.overdue(SECOND + ACK_TIMEOUT).is_empty());
    pending.retry_all(SECOND + ACK_TIMEOUT);
    assert_eq!(pending.overdue(SECOND + ACK_TIMEOUT).len(), 1);
    let failed = pending.overdue(SECOND + GIVE_UP_AFTER);
    assert!(matches!(failed[..], [Overdue::Failed(_)]));
    assert!(pending.is_empty());
}

#[test]
fn a_read_a_second_after_another_ended_must_not_return_less() {
    let mut freshness = Freshness::default();
    let first = freshness.begin(0, SECOND);
    assert!(!freshness.end(&first, Some(at(20)), 2 * SECOND).stale);

    let soon = freshness.begin(0, millis(2_999));
    let late = freshness.begin(0, millis(3_000));
    assert!(
        !freshness.end(&soon, Some(at(10)), 4 * SECOND).stale,
        "started too early"
    );
    assert!(freshness.end(&late, Some(at(10)), 4 * SECOND).stale);
    let none = freshness.begin(0, 5 * SECOND);
    assert!(
        freshness.end(&none, None, 5 * SECOND).stale,
        "gone is older too"
    );
    let same = freshness.begin(0, 5 * SECOND);
    assert!(!freshness.end(&same, Some(at(20)), 5 * SECOND).stale);
    let other = freshness.begin(1, 5 * SECOND);
    assert!(!freshness.end(&other, None, 5 * SECOND).stale);
}

#[test]
fn staleness_is_how_long_the_stream_had_what_a_read_did_not_show() {
    let mut freshness = Freshness::default();
    freshness.acknowledged(0, at(10), millis(100));
    freshness.acknowledged(0, at(11), millis(200));
    freshness.acknowledged(0, at(12), millis(300));
    let read = freshness.begin(0, millis(500));
    freshness.acknowledged(0, at(13), millis(600));
    let verdict = freshness.end(&read, Some(at(10)), millis(700));
    assert_eq!(
        verdict.staleness,
        millis(300),
        "at(11), acknowledged at 200 ms"
    );
    let read = freshness.begin(0, millis(800));
    assert_eq!(
        freshness.end(&read, Some(at(13)), millis(900)).staleness,
        Duration::ZERO
    );
}

fn options(given: &[(&str, &str)]) -> Result<Options, String> {
    Options::read(|env| {
        let value = given.iter().find(|(name, _)| *name == env);
        value.map(|(_, value)| (*value).to_owned())
    })
}

#[test]
fn the_defaults_are_valid() {
    let options = options(&[]).unwrap();
    assert_eq!(options.rate_per_second, 1_000);
    assert_eq!(options.end, End::Never);
    assert_eq!(options.sample, 1_000);
    assert_eq!(options.max_acks_in_flight, 4_096);
    assert_eq!(options.mode, Mode::Binary);
    assert_eq!(options.seed, None);
}

#[test]
fn every_mistake_is_reported_at_once_with_flag_variable_and_expectation() {
    let mistakes = options(&[
        ("GANESH_PRODUCE_RATE", "-1"),
        ("GANESH_PRODUCE_COUNT", "0"),
        ("GANESH_PRODUCE_SUBJECTS", "0"),
        ("GANESH_PRODUCE_BYTES", "1GB"),
        ("GANESH_PRODUCE_MODE", "json"),
        ("GANESH_PRODUCE_DUPLICATES", "101"),
        ("GANESH_PRODUCE_INVALID", "NaN"),
        ("GANESH_PRODUCE_SAMPLE", "some"),
        ("GANESH_PRODUCE_SEED", "x"),
        ("GANESH_PRODUCE_MAX_ACKS_IN_FLIGHT", "0"),
        ("GANESH_PRODUCE_READ_RATE", "1.5"),
        ("GANESH_PRODUCE_API_URL", "https://localhost"),
        ("GANESH_PRODUCE_DURATION", "10"),
        ("GANESH_PRODUCE_JSON", "yes"),
    ])
    .unwrap_err();
    assert_eq!(mistakes.lines().count(), OPTIONS.len(), "{mistakes}");
    for option in OPTIONS {
        let line = mistakes
            .lines()
            .find(|line| line.contains(option.env))
            .unwrap();
        assert!(
            line.starts_with("--") && line.contains("expected"),
            "{line}"
        );
    }
}

#[test]
fn options_that_exclude_each_other_are_refused() {
    let refused = |given: &[(&str, &str)], named: &str| {
        let mistakes = options(given).unwrap_err();
        assert!(mistakes.contains(named), "{mistakes}");
    };
    let count = ("GANESH_PRODUCE_COUNT", "5");
    let plain = ("GANESH_PRODUCE_MODE", "plain");
    refused(&[count, ("GANESH_PRODUCE_DURATION", "5s")], "--duration");
    refused(&[plain, ("GANESH_PRODUCE_DUPLICATES", "1")], "--mode plain");
    refused(&[plain, ("GANESH_PRODUCE_READ_RATE", "1")], "--mode plain");
    let shares = [
        ("GANESH_PRODUCE_DUPLICATES", "60"),
        ("GANESH_PRODUCE_INVALID", "50"),
    ];
    refused(&shares, "no more than 100");
}

#[test]
fn subject_names_are_unique() {
    let names: HashSet<String> = (0..10_000).map(subject_name).collect();
    assert_eq!(names.len(), 10_000);
}
