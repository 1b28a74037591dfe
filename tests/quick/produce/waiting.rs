//! What waits for its acknowledgement.

use ganesh::produce::messages::Variant;
use ganesh::produce::pending::{ACK_TIMEOUT, GIVE_UP_AFTER, Pending};

use super::{SECOND, millis, recipe};

#[test]
fn room_for_acknowledgements_is_bounded_and_comes_back() {
    let mut pending = Pending::new(2);
    pending.insert(recipe(0, Variant::New), SECOND, SECOND);
    assert!(!pending.is_full());
    pending.insert(recipe(1, Variant::New), SECOND, SECOND);
    assert!(pending.is_full());
    assert_eq!(pending.remove(0).unwrap().recipe.number, 0);
    assert!(pending.remove(0).is_none(), "a second acknowledgement");
    assert!(!pending.is_full());
    assert_eq!(pending.len(), 1);
}

#[test]
fn what_is_not_acknowledged_is_sent_again_and_given_up_in_the_end() {
    let mut pending = Pending::new(1);
    let message = recipe(0, Variant::New);
    pending.insert(message, SECOND, SECOND);
    assert!(pending.take_overdue(millis(999) + ACK_TIMEOUT).is_empty());
    assert_eq!(pending.take_overdue(SECOND + ACK_TIMEOUT), [message]);
    assert!(pending.take_overdue(SECOND + ACK_TIMEOUT).is_empty());
    pending.retry_all(SECOND + ACK_TIMEOUT);
    assert_eq!(pending.take_overdue(SECOND + ACK_TIMEOUT), [message]);
    assert!(pending.take_failed(millis(999) + GIVE_UP_AFTER).is_empty());
    assert_eq!(pending.take_failed(SECOND + GIVE_UP_AFTER).len(), 1);
    assert!(pending.is_empty());
}
