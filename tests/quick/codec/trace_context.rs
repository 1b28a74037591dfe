//! W3C trace context in a message.

use ganesh::event::{TraceContext, trace_context};

use super::header_map;

#[test]
fn trace_context_is_read_as_w3c_defines_it() {
    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let context = TraceContext::parse(VALID).unwrap();
    assert_eq!(context.trace_id[..2], [0x0a, 0xf7]);
    assert_eq!(context.parent_id[6..], [0x33, 0x31]);
    assert!(context.sampled);
    assert!(
        !TraceContext::parse(&VALID.replace("-01", "-02"))
            .unwrap()
            .sampled
    );
    for later in [
        "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        &format!("{VALID}-x").replace("00-0", "01-0"),
    ] {
        assert_eq!(TraceContext::parse(later), Some(context), "{later}");
    }
    for invalid in [
        "",
        &format!("{VALID}-x"),
        &VALID.replace("00-0", "ff-0"),
        &VALID.replace("00-0", "01-0").replace("-01", "-01x"),
        &VALID.to_uppercase(),
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ] {
        assert_eq!(TraceContext::parse(invalid), None, "{invalid}");
    }
}

#[test]
fn the_plain_traceparent_header_goes_before_the_attribute() {
    const PLAIN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const ATTRIBUTE: &str = "00-11111111111111111111111111111111-2222222222222222-00";
    let of = |headers: &[(&str, &str)]| trace_context(Some(&header_map(headers)));
    assert_eq!(
        of(&[("ce-traceparent", ATTRIBUTE), ("Traceparent", PLAIN)]),
        TraceContext::parse(PLAIN)
    );
    assert_eq!(
        of(&[("Ce-TraceParent", ATTRIBUTE)]),
        TraceContext::parse(ATTRIBUTE)
    );
    assert_eq!(
        of(&[("traceparent", PLAIN), ("TRACEPARENT", ATTRIBUTE)]),
        None
    );
    assert_eq!(trace_context(None), None);
}
