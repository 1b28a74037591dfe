//! How often each message was sent to the replicas, as the network sees it.

use std::sync::Mutex;

use memchr::memmem;

/// The reply subject of a delivery goes on with the number of this delivery and the stream sequence, each
/// with a dot behind it.
const ACK_SUBJECT: &[u8] = b"$JS.ACK.EVENTS.ganesh.";

/// Counted by proxies.
#[derive(Debug, Default)]
pub struct Deliveries {
    /// By stream sequence.
    counts: Mutex<Vec<u32>>,
}

impl Deliveries {
    /// So many deliveries of each message, by stream sequence.
    pub fn counts(&self) -> Vec<u32> {
        self.counts.lock().unwrap().clone()
    }

    /// Counts what the server sends through a connection. `unread` is where its last bytes ended.
    pub fn hear(&self, unread: &mut Vec<u8>, bytes: &[u8]) {
        unread.extend_from_slice(bytes);
        let mut end = unread.len().saturating_sub(ACK_SUBJECT.len() - 1);
        let mut counts = self.counts.lock().unwrap();
        for start in memmem::find_iter(unread, ACK_SUBJECT) {
            let Some(sequence) = sequence(&unread[start + ACK_SUBJECT.len()..]) else {
                end = start;
                break;
            };
            let place = usize::try_from(sequence).unwrap();
            if counts.len() <= place {
                counts.resize(place + 1, 0);
            }
            counts[place] += 1;
            end = end.max(start + ACK_SUBJECT.len());
        }
        unread.drain(..end);
    }
}

/// `None` while the rest of it has not come.
fn sequence(numbers: &[u8]) -> Option<u64> {
    let mut dots = memchr::memchr_iter(b'.', numbers);
    let (first, second) = (dots.next()?, dots.next()?);
    let digits = std::str::from_utf8(&numbers[first + 1..second]).unwrap();
    Some(digits.parse().unwrap())
}

#[test]
fn deliveries_are_counted_however_their_bytes_come() {
    let sent = b"HMSG _INBOX.a 1 $JS.ACK.EVENTS.ganesh.1.3.7.1764.0 12 34\r\n\
        HMSG _INBOX.a 1 $JS.ACK.EVENTS.ganesh.2.1.8.1764.0 12 34\r\n\
        HMSG _INBOX.a 1 $JS.ACK.EVENTS.ganesh.1.3.9.1764.0 12 34\r\n";
    for chunk in 1..sent.len() {
        let (deliveries, mut unread) = (Deliveries::default(), Vec::new());
        for bytes in sent.chunks(chunk) {
            deliveries.hear(&mut unread, bytes);
        }
        assert_eq!(deliveries.counts(), [0, 1, 0, 2], "chunks of {chunk}");
    }
}
