//! The window of the last 1,000 rows, against a model that remembers every row.

use std::time::Duration;

use ganesh::pipeline::scheduler::{BatchOrigin, PROBE_EVERY, RejectionWindow, WINDOW_ROWS};
use proptest::prelude::*;
use tokio::time::Instant;

const TAKEN: bool = false;
const REFUSED: bool = true;

/// A batch of so many rows, the first of them refused.
fn batch(rows: usize, refused: usize) -> Vec<bool> {
    (0..rows).map(|row| row < refused).collect()
}

/// A window in which too many rows are refused since `now`.
fn paused(now: Instant) -> RejectionWindow {
    let mut window = RejectionWindow::default();
    assert!(window.note(BatchOrigin::Fresh, &batch(500, 500), now));
    window
}

#[test]
fn half_of_the_last_thousand_is_too_many_and_one_less_is_not() {
    let now = Instant::now();
    let mut window = RejectionWindow::default();
    assert!(!window.note(BatchOrigin::Fresh, &batch(5_000, 499), now));
    assert!(!window.note(BatchOrigin::Fresh, &batch(499, 499), now));
    assert!(!window.is_paused());
    assert!(window.note(BatchOrigin::Fresh, &[REFUSED], now));
    assert!(window.is_paused());
}

#[test]
fn refusals_that_a_thousand_rows_have_pushed_out_are_forgotten() {
    let now = Instant::now();
    let mut window = RejectionWindow::default();
    for _ in 0..100 {
        assert!(!window.note(BatchOrigin::Fresh, &batch(499, 499), now));
        assert!(!window.note(BatchOrigin::Fresh, &[TAKEN; WINDOW_ROWS], now));
    }
}

#[test]
fn a_batch_in_which_it_becomes_too_many_is_parked_as_a_whole() {
    let now = Instant::now();
    let mut window = RejectionWindow::default();
    // Its last thousand are fine.
    assert!(window.note(BatchOrigin::Fresh, &batch(5_000, 600), now));
}

#[test]
fn a_batch_is_tried_every_ten_seconds_until_less_than_half_of_one_is_refused() {
    let mut now = Instant::now();
    let mut window = paused(now);
    for still_bad in [batch(10, 10), batch(10, 5), batch(1, 1)] {
        assert_eq!(window.probe_at(), Some(now + Duration::from_secs(10)));
        now += Duration::from_secs(11);
        assert!(window.note(BatchOrigin::Probe, &still_bad, now));
        assert!(window.is_paused());
    }
    // Duplicates alone, of which no row is tried, say nothing.
    let probe_at = window.probe_at();
    assert!(window.note(BatchOrigin::Probe, &[], now + PROBE_EVERY));
    assert_eq!(window.probe_at(), probe_at);
    // Its rejected rows are held as well: they get a second try like the others.
    assert!(window.note(BatchOrigin::Probe, &batch(10, 4), now));
    assert_eq!(window.probe_at(), None);
    // Nothing of before counts.
    assert!(!window.note(BatchOrigin::Fresh, &batch(499, 499), now));
}

#[test]
fn a_batch_that_was_under_way_when_the_pause_began_is_parked_and_ends_nothing() {
    let now = Instant::now();
    let mut window = paused(now);
    let later = now + Duration::from_secs(5);
    assert!(window.note(BatchOrigin::Fresh, &batch(1_000, 1), later));
    assert_eq!(window.probe_at(), Some(now + PROBE_EVERY));
}

#[test]
fn rows_that_are_refused_a_second_time_are_not_counted_again() {
    let now = Instant::now();
    let mut window = paused(now);
    window.note(BatchOrigin::Probe, &[TAKEN], now);
    // They are dead letters now.
    assert!(!window.note(BatchOrigin::Again, &batch(5_000, 5_000), now));
    assert!(!window.is_paused());
    // Unless it has begun again.
    window.note(BatchOrigin::Fresh, &batch(500, 500), now);
    assert!(window.note(BatchOrigin::Again, &batch(5, 5), now));
}

proptest! {
    #[test]
    fn the_window_is_half_of_the_last_thousand_rows_since_the_last_pause(
        batches in prop::collection::vec((1usize..800, 0u8..=100, any::<u8>()), 1..60),
    ) {
        let now = Instant::now();
        // How many were refused of the first n rows.
        let (mut window, mut refused_of) = (RejectionWindow::default(), vec![0]);
        for (rows, percent, salt) in batches {
            // Rejected rows anywhere in the batch.
            let refused = |row: usize| (row * 37 + usize::from(salt)) % 100 < usize::from(percent);
            let batch: Vec<bool> = (0..rows).map(refused).collect();
            if window.is_paused() {
                let held = window.note(BatchOrigin::Probe, &batch, now);
                prop_assert!(held);
                let bad = batch.iter().filter(|row| **row).count();
                prop_assert_eq!(window.is_paused(), bad * 2 >= rows);
                refused_of = vec![0];
                continue;
            }
            let mut too_many = false;
            for row in &batch {
                let seen = refused_of.len();
                refused_of.push(refused_of[seen - 1] + usize::from(*row));
                let before = refused_of[seen.saturating_sub(WINDOW_ROWS)];
                too_many |= refused_of[seen] - before >= WINDOW_ROWS / 2;
            }
            prop_assert_eq!(window.note(BatchOrigin::Fresh, &batch, now), too_many);
            prop_assert_eq!(window.is_paused(), too_many);
        }
    }
}
