//! NATS as bytes: what no client library would publish.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use super::PATIENCE;

/// Subject, header block, body.
pub type Raw = (&'static [u8], &'static [u8], &'static [u8]);

/// What async-nats cannot read. At each of them it drops the connection, at the last one it panics.
pub const UNREADABLE: [Raw; 5] = [
    (
        b"events.unreadable.header",
        b"NATS/1.0\r\nname: \xff\xfe\r\n\r\n",
        b"one",
    ),
    (
        b"events.unreadable.subject.\xff\xfe",
        b"NATS/1.0\r\na: b\r\n\r\n",
        b"two",
    ),
    (
        b"events.unreadable.space",
        b"NATS/1.0\r\na name: b\r\n\r\n",
        b"three",
    ),
    (
        b"events.unreadable.colon",
        b"NATS/1.0\r\nno colon\r\n\r\n",
        b"four",
    ),
    (
        b"events.unreadable.return",
        b"NATS/1.0\r\na: b\rc\r\n\r\n",
        b"five",
    ),
];

/// Publishes a message with this header block (with `NATS/1.0` and both ends of line; empty for
/// a message without) and waits for the acknowledgement of the stream. Returns its sequence.
pub fn publish(port: u16, subject: &[u8], headers: &[u8], body: &[u8]) -> u64 {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut server = BufReader::new(stream.try_clone().unwrap());
    let mut message = b"CONNECT {\"verbose\":false,\"headers\":true}\r\nSUB answer 1\r\n".to_vec();
    if headers.is_empty() {
        message.extend(b"PUB ");
        message.extend(subject);
        message.extend(format!(" answer {}\r\n", body.len()).bytes());
    } else {
        message.extend(b"HPUB ");
        message.extend(subject);
        let (all, of_headers) = (headers.len() + body.len(), headers.len());
        message.extend(format!(" answer {of_headers} {all}\r\n").bytes());
    }
    message.extend(headers);
    message.extend(body);
    message.extend(b"\r\n");
    (&stream).write_all(&message).unwrap();
    let answer = answer(&mut server);
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    answer["seq"].as_u64().unwrap_or_else(|| panic!("{answer}"))
}

/// The body of the first message that comes.
fn answer(server: &mut impl BufRead) -> Vec<u8> {
    loop {
        let mut line = String::new();
        server.read_line(&mut line).unwrap();
        assert!(!line.is_empty() && !line.starts_with("-ERR"), "{line}");
        if line.starts_with("MSG ") {
            let length = line.split_whitespace().last().unwrap();
            let mut body = vec![0; length.parse().unwrap()];
            server.read_exact(&mut body).unwrap();
            return body;
        }
    }
}
