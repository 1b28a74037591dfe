//! Bad input gets an error that names the parameter and what was expected; none of it reaches SQL as text.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};

use super::client::{get, store};
use super::search::events_of;
use crate::support::Stack;
use crate::support::events::events;

/// A target, the parameter that is wrong, and words of what was expected.
const REFUSED: &[(&str, &str, &str)] = &[
    ("events?types=x", "types", "one of type, source, subject"),
    ("events?data=eq.1", "data", "data.<path>"),
    ("events?Type=x", "Type", "one of type"),
    ("events?type[]=x", "type[]", "one of type"),
    ("events?type=a&type=b", "type", "one value"),
    ("events?limit=1&limit=1", "limit", "one value"),
    ("events?type=", "type", "1 to 1024 bytes"),
    ("events?type", "type", "1 to 1024 bytes"),
    (
        "events?subject_prefix=a%00b",
        "subject_prefix",
        "without U+0000",
    ),
    ("events?source=%ff", "source", "UTF-8"),
    ("events?source=%c0%ae", "source", "UTF-8"),
    ("events?source=%zz", "source", "percent-encoding"),
    ("events?limit=0", "limit", "1 to 1000"),
    ("events?limit=1001", "limit", "1 to 1000"),
    ("events?limit=-1", "limit", "1 to 1000"),
    ("events?limit=%2B1", "limit", "1 to 1000"),
    ("events?limit=1e2", "limit", "1 to 1000"),
    ("events?limit=1;DROP+TABLE+events", "limit", "1 to 1000"),
    ("events?limit=99999999999999999999999", "limit", "1 to 1000"),
    ("events?from=yesterday", "from", "RFC 3339"),
    ("events?from=2026-11-30", "from", "RFC 3339"),
    ("events?to=infinity", "to", "RFC 3339"),
    ("events?to=10000-01-01T00:00:00Z", "to", "RFC 3339"),
    (
        "events?from=2026-01-02T00:00:00Z&to=2026-01-02T00:00:00Z",
        "to",
        "after from",
    ),
    (
        "events?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z",
        "to",
        "after from",
    ),
    ("events?cursor=x", "cursor", "unchanged"),
    ("events?cursor=AQ", "cursor", "unchanged"),
    ("events?cursor=AnM", "cursor", "unchanged"),
    ("events?cursor=../../etc/passwd", "cursor", "unchanged"),
    ("events?data.=eq.1", "data.", "names"),
    ("events?data.a..b=eq.1", "data.a..b", "names"),
    ("events?data.a.=eq.1", "data.a.", "names"),
    ("events?data.%22a=eq.1", "data.\"a", "double quotes"),
    ("events?data.%22a%22b=eq.1", "data.\"a\"b", "double quotes"),
    (
        "events?data.1.2.3.4.5.6.7.8.9.10.11.12.13.14.15.16.17=eq.1",
        "data.1.2.3.4.5.6.7.8.9.10.11.12.13.14.15.16.17",
        "16",
    ),
    ("events?data.a=1", "data.a", "eq.V"),
    ("events?data.a=equals.1", "data.a", "eq.V"),
    ("events?data.a=EQ.1", "data.a", "eq.V"),
    ("events?data.a=ilike.x", "data.a", "like.P*"),
    ("events?data.a=not.eq.1", "data.a", "eq.V"),
    ("events?data.a=in.1,2", "data.a", "parentheses"),
    ("events?data.a=in.(1,2", "data.a", "parentheses"),
    ("events?data.a=in.(%22a)", "data.a", "parentheses"),
    ("events?data.a=is.maybe", "data.a", "is.null"),
    ("events?data.a=like.a%5C", "data.a", "backslash"),
    ("events?data.a=like.***********", "data.a", "10 wildcards"),
    ("events?data.a=gt.1e1001", "data.a", "exponent"),
    (
        "events?data.a=in.(1,1e-99999999999999999999)",
        "data.a",
        "exponent",
    ),
    (
        "events?data.a=eq.1&data.a=eq.1&data.a=eq.1&data.a=eq.1&data.a=eq.1&data.a=eq.1&data.a=eq.1&data.a=eq.1&data.a=eq.1",
        "data",
        "at most 8",
    ),
    ("events/e?sources=x", "sources", "one of source, time"),
    ("events/e?time=now", "time", "RFC 3339"),
    ("subjects?prefix=", "prefix", "1 to 1024 bytes"),
    ("subjects?limit=5000", "limit", "1 to 1000"),
    ("subjects?cursor=AQAAAAAAAAAAAAA", "cursor", "unchanged"),
    (
        "subjects?subject=a",
        "subject",
        "one of prefix, limit, cursor",
    ),
    ("subjects/s/latest?x=1", "x", "no parameters"),
    ("explain", "what", "a sequence"),
    ("explain?what=", "what", "1 to 1024 bytes"),
    ("explain?what=a%00b", "what", "without U+0000"),
    ("explain?what=0", "what", "from 1 on"),
    ("explain?what=1&what=2", "what", "one value"),
    ("explain?what=e&id=e", "id", "one of what, as, source, time"),
    ("explain?what=e&as=event", "as", "sequence, id, trace_id"),
    ("explain?what=e&as=sequence", "what", "from 1 on"),
    ("explain?what=-1&as=sequence", "what", "from 1 on"),
    ("explain?what=abc&as=trace_id", "what", "32 hexadecimal"),
    ("explain?what=e&time=yesterday", "time", "RFC 3339"),
    ("explain?what=s&as=subject&source=/test", "source", "as=id"),
    (
        "explain?what=1&as=sequence&time=2026-01-01T00:00:00Z",
        "time",
        "as=id",
    ),
    ("stats?bucket=0s", "bucket", "1s to 366d"),
    ("stats?bucket=500ms", "bucket", "1s to 366d"),
    ("stats?bucket=1", "bucket", "1s to 366d"),
    ("stats?bucket=1m'", "bucket", "1s to 366d"),
    ("stats?bucket=99999999999999999999d", "bucket", "1s to 366d"),
    ("stats?bucket=1s", "bucket", "at most 1000 buckets"),
    ("stats?group_by=id", "group_by", "type, source or subject"),
    (
        "stats?group_by=type,source",
        "group_by",
        "type, source or subject",
    ),
    (
        "stats?group_by=type)--",
        "group_by",
        "type, source or subject",
    ),
    (
        "stats?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z",
        "to",
        "after from",
    ),
];

#[tokio::test]
async fn bad_input_is_a_400_that_names_the_parameter_and_what_was_expected() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    for (target, parameter, words) in REFUSED {
        let answer = get(&ganesh, &format!("/v1/{target}")).await;
        let detail = answer.problem(400, "Bad Request");
        let problem = answer.json();
        assert_eq!(problem["parameter"], *parameter, "{target}: {problem}");
        let expected = problem["expected"].as_str().unwrap();
        assert!(expected.contains(words), "{target}: {problem}");
        assert!(
            detail.len() < 600 && !detail.contains('\n'),
            "{target}: {problem}"
        );
    }
    let long = "x".repeat(1_025);
    for name in [
        "type",
        "source",
        "subject",
        "subject_prefix",
        "data.a",
        "cursor",
    ] {
        let answer = get(&ganesh, &format!("/v1/events?{name}={long}")).await;
        assert_eq!(answer.status, 400, "{name}: {answer:?}");
        assert_eq!(answer.json()["parameter"], name);
    }
    // Room in the target of the next page's request, whatever its cursor.
    let long: Vec<String> = (0..7)
        .map(|i| format!("data.a{i}=eq.{}", "x".repeat(900)))
        .collect();
    let long = long.join("&");
    let detail = get(&ganesh, &format!("/v1/events?{long}")).await;
    let detail = detail.problem(414, "URI Too Long");
    assert!(detail.contains("at most 5000 bytes"), "{detail}");
}

/// What would act in SQL, in a pattern or in a path, were it taken as more than a value.
const HOSTILE: &[&str] = &[
    "'",
    "''",
    "\"",
    "\\",
    "';DROP TABLE events;--",
    "' OR '1'='1",
    "') OR true--",
    "$1",
    "$$",
    "%",
    "_",
    "%'",
    "{a,b}",
    "{\"a\":1}",
    "NULL",
    "pg_sleep(10)",
    "../../../etc/passwd",
    "..%2F..",
    "/*",
    "\u{202e}",
    "\n",
    "a\r\nX-Injected: 1",
];

/// A cursor that no page gave out: its form, and what follows.
fn cursor(form: u8, parts: &[&[u8]]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode([&[form][..], &parts.concat()].concat())
}

/// One that has this text as source and as id.
fn cursor_at(micros: i64, text: &str) -> String {
    let length = u16::try_from(text.len()).unwrap().to_be_bytes();
    let (time, text) = (micros.to_be_bytes(), text.as_bytes());
    cursor(1, &[&time, &length, text, text])
}

#[tokio::test]
async fn hostile_values_are_values() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    store(&stack, &events("there", 3)).await;
    let encode = |text: &str| percent_encode(text.as_bytes(), NON_ALPHANUMERIC).to_string();
    for hostile in HOSTILE {
        let value = encode(hostile);
        // In double quotes a name of a path may hold anything; a backslash stands before both marks.
        let quoted = encode(&format!(
            "\"{}\"",
            hostile.replace('\\', "\\\\").replace('"', "\\\"")
        ));
        for target in [
            format!("type={value}"),
            format!("source={value}"),
            format!("subject={value}"),
            format!("subject_prefix={value}"),
            format!("data.id=eq.{value}"),
            format!("data.id=gt.~{value}"),
            format!("data.id=in.({quoted},{quoted})"),
            format!("data.id=like.{value}{value}x"),
            format!("data.{quoted}=eq.1"),
            format!("data.{quoted}.{quoted}=is.not_null"),
        ] {
            let began = Instant::now();
            let answer = get(&ganesh, &format!("/v1/events?{target}")).await;
            // `%` and `_` match in a pattern: the ids do not end with x.
            let found = events_of(&answer);
            assert!(found.is_empty(), "{target}: {found:?}");
            assert_eq!(answer.header("x-injected"), None);
            assert!(began.elapsed() < Duration::from_secs(4), "{target}");
        }
        for target in [
            format!("events?cursor={}", cursor_at(i64::MIN, hostile)),
            format!("events?cursor={}", cursor_at(0, hostile)),
            format!("subjects?cursor={}", cursor(2, &[b"~", hostile.as_bytes()])),
        ] {
            let answer = get(&ganesh, &format!("/v1/{target}")).await;
            let is_empty = ["[]", "{\"subjects\":[]}"].contains(&answer.body.as_str());
            assert!(answer.status == 400 || is_empty, "{target}: {answer:?}");
        }
        for path in [
            format!("/v1/subjects?prefix={value}"),
            format!("/v1/subjects/{value}/latest"),
            format!("/v1/events/{value}?source={value}"),
            format!("/v1/stats?group_by={value}"),
            format!("/v1/explain?what={value}&as=subject"),
            format!("/v1/explain?what={value}&as=id&source={value}"),
        ] {
            // A URL library may take %2E%2E for the folder above.
            let answer = get(&ganesh, &path).await;
            assert!(
                [200, 400, 404].contains(&answer.status),
                "{path}: {answer:?}"
            );
        }
    }
    assert_eq!(stack.rows().await, 3);
    assert_eq!(events_of(&get(&ganesh, "/v1/events").await).len(), 3);
}
