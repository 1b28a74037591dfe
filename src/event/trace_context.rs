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
        let text = traceparent.trim_matches([' ', '\t']);
        let (known, rest) = text.split_at_checked(TRACEPARENT_LENGTH_BYTES)?;
        let bytes = known.as_bytes();
        if bytes[2] != b'-' || bytes[35] != b'-' || bytes[52] != b'-' {
            return None;
        }
        let version = hex(&known[0..2])?;
        let trace_id = hex(&known[3..35])?;
        let parent_id = u64::try_from(hex(&known[36..52])?).ok()?;
        let flags = hex(&known[53..55])?;
        let complete = match version {
            0x00 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest.starts_with('-'),
        };
        let named = trace_id != 0 && parent_id != 0;
        (complete && named).then_some(Self {
            trace_id: trace_id.to_be_bytes(),
            parent_id: parent_id.to_be_bytes(),
            sampled: flags & 1 == 1,
        })
    }
}

/// The trace context in a message's headers: `traceparent`, or else `ce-traceparent` (the distributed
/// tracing extension), in any case. `None` when absent, invalid, or given more than once.
pub fn trace_context(headers: Option<&HeaderMap>) -> Option<TraceContext> {
    let headers = headers?;
    let parse = |name| TraceContext::parse(only_value(headers, name)?);
    parse(TRACEPARENT).or_else(|| parse(CE_TRACEPARENT))
}

/// The value of a header that is given once, in any spelling of its name.
fn only_value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers
        .iter()
        .filter(|(spelling, _)| AsRef::<str>::as_ref(spelling).eq_ignore_ascii_case(name))
        .flat_map(|(_, values)| values);
    let value = values.next()?;
    values.next().is_none().then_some(value.as_str())
}

/// A number of lowercase hexadecimal digits. `from_str_radix` takes uppercase ones and a sign, too.
fn hex(digits: &str) -> Option<u128> {
    let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if !digits.bytes().all(is_digit) {
        return None;
    }
    u128::from_str_radix(digits, 16).ok()
}
