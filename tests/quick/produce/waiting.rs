//! What waits for its acknowledgement, how latency is counted, how reads are judged.

use std::time::Duration;

use ganesh::produce::freshness::Freshness;
use ganesh::produce::latency::Latencies;
use ganesh::produce::messages::Variant;
use ganesh::produce::pending::{ACK_TIMEOUT, GIVE_UP_AFTER, Overdue, Pending, Token};

use super::{SECOND, at, millis, recipe};

#[test]
fn quantiles_are_never_too_low_and_a_thousandth_high_at_most() {
    let mut latencies = Latencies::default();
    for micros in 1..=100_000 {
        latencies.record(Duration::from_micros(micros));
    }
    let ratio = |found: Duration, exact: f64| found.as_secs_f64() * 1e6 / exact;
    for (quantile, exact) in [
        (0.5, 50_000.0),
        (0.9, 90_000.0),
        (0.99, 99_000.0),
        (0.999, 99_900.0),
    ] {
        let ratio = ratio(latencies.quantile(quantile), exact);
        assert!((1.0..1.001).contains(&ratio), "{quantile}: {ratio}");
    }
    assert!((1.0..1.001).contains(&ratio(latencies.max(), 100_000.0)));
    assert_eq!(Latencies::default().quantile(0.99), Duration::ZERO);
    latencies.record(Duration::MAX);
    assert_eq!(latencies.quantile(1.0), latencies.max());
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
    assert!(pending.overdue(millis(999) + ACK_TIMEOUT).is_empty());
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
fn a_read_a_second_after_an_acknowledgement_must_not_return_less() {
    let mut freshness = Freshness::default();
    freshness.stored(0, at(10), 4, SECOND);
    freshness.stored(0, at(20), 5, SECOND);
    freshness.stored(0, at(30), 6, SECOND);
    // Whatever reads have shown.
    let shown = freshness.begin(0, 2 * SECOND);
    assert!(!freshness.end(&shown, Some(at(30))).stale);
    freshness.acknowledged(5, 2 * SECOND);

    let soon = freshness.begin(0, millis(2_999));
    let late = freshness.begin(0, millis(3_000));
    assert!(
        !freshness.end(&soon, Some(at(10))).stale,
        "started too early"
    );
    assert!(freshness.end(&late, Some(at(10))).stale);
    let none = freshness.begin(0, 5 * SECOND);
    assert!(freshness.end(&none, None).stale, "gone is older too");
    let same = freshness.begin(0, 5 * SECOND);
    assert!(!freshness.end(&same, Some(at(20))).stale);
    let other = freshness.begin(1, 5 * SECOND);
    assert!(!freshness.end(&other, None).stale);
}

#[test]
fn a_floor_that_a_crash_of_the_server_has_set_back_asks_for_less_and_forgets_nothing() {
    let mut freshness = Freshness::default();
    freshness.stored(0, at(10), 4, SECOND);
    freshness.stored(0, at(20), 5, SECOND);
    freshness.acknowledged(4, SECOND);
    let read = freshness.begin(0, 2 * SECOND);
    assert!(freshness.end(&read, None).stale);
    freshness.acknowledged(5, 2 * SECOND);
    freshness.acknowledged(3, millis(2_100));
    let read = freshness.begin(0, 4 * SECOND);
    assert!(!freshness.end(&read, Some(at(10))).stale);
    assert!(freshness.end(&read, None).stale);
}

#[test]
fn staleness_is_how_long_the_stream_had_what_a_read_did_not_show() {
    let mut freshness = Freshness::default();
    freshness.stored(0, at(10), 1, millis(100));
    freshness.stored(0, at(11), 2, millis(200));
    freshness.stored(0, at(12), 3, millis(300));
    let read = freshness.begin(0, millis(500));
    freshness.stored(0, at(13), 4, millis(600));
    let verdict = freshness.end(&read, Some(at(10)));
    assert_eq!(
        verdict.staleness,
        millis(300),
        "at(11), acknowledged at 200 ms"
    );
    let read = freshness.begin(0, millis(800));
    assert_eq!(freshness.end(&read, Some(at(13))).staleness, Duration::ZERO);
}
