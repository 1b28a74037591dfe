//! The schedule of an open loop.

use std::time::Duration;

use ganesh::produce::pacer::{CATCH_UP_MAX, Pace, Pacer};

use super::{SECOND, millis};

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
    let outage = Duration::from_mins(10);
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
