//! W3C trace context of a message: who sent it, in which trace, and whether that trace is sampled.

use async_nats::HeaderMap;

const TRACEPARENT: &str = "traceparent";
const CE_TRACEPARENT: &str = "ce-traceparent";
/// `vv-<32>-<16>-ff`: all of a version 00 header, the start of a later one.
const TRACEPARENT_LENGTH_BYTES: usize = 55;

/// The producer's span, as `traceparent` says (W3C Trace Context).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The producer's trace; never all zeros.
    pub trace_id: [u8; 16],
    /// The producer's span; never all zeros.
    pub parent_id: [u8; 8],
    /// Whether the producer records this trace.
    pub sampled: bool,
}

impl TraceContext {
    /// Reads the value of a `traceparent` header. Version `ff`, ids of zeros, uppercase digits and a
    /// version 00 of another length are invalid; of a later version the four known fields are read.
    pub fn parse(traceparent: &str) -> Option<Self> {
        let bytes = traceparent.trim_matches([' ', '\t']).as_bytes();
        let (known, rest) = bytes.split_at_checked(TRACEPARENT_LENGTH_BYTES)?;
        if known[2] != b'-' || known[35] != b'-' || known[52] != b'-' {
            return None;
        }
        let [version] = hex(&known[0..2])?;
        let [flags] = hex(&known[53..55])?;
        let trace_id: [u8; 16] = hex(&known[3..35])?;
        let parent_id: [u8; 8] = hex(&known[36..52])?;
        let complete = match version {
            0x00 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest[0] == b'-',
        };
        let named = trace_id != [0; 16] && parent_id != [0; 8];
        (complete && named).then_some(Self {
            trace_id,
            parent_id,
            sampled: flags & 1 == 1,
        })
    }
}

/// The trace context in a message's headers: `traceparent`, or else `ce-traceparent` (the distributed
/// tracing extension), in any case. `None` when absent, invalid, or given more than once.
pub fn trace_context(headers: Option<&HeaderMap>) -> Option<TraceContext> {
    let mut plain = Given::Never;
    let mut prefixed = Given::Never;
    for (name, values) in headers?.iter() {
        let name: &str = name.as_ref();
        let given = if name.eq_ignore_ascii_case(TRACEPARENT) {
            &mut plain
        } else if name.eq_ignore_ascii_case(CE_TRACEPARENT) {
            &mut prefixed
        } else {
            continue;
        };
        for value in values {
            *given = match given {
                Given::Never => Given::Once(value.as_str()),
                Given::Once(_) | Given::Often => Given::Often,
            };
        }
    }
    plain.parse().or_else(|| prefixed.parse())
}

/// A header that may occur under several spellings of its name.
enum Given<'a> {
    Never,
    Once(&'a str),
    Often,
}

impl Given<'_> {
    fn parse(&self) -> Option<TraceContext> {
        match self {
            Self::Once(value) => TraceContext::parse(value),
            Self::Never | Self::Often => None,
        }
    }
}

/// `N` bytes from `2 N` lowercase hexadecimal digits.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
    }
    Some(bytes)
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}
