//! The parser refuses what OpenMetrics refuses, so that what it takes means something.

use crate::support::exposition::parse;

const GOOD: &str = "\
# TYPE a counter
# HELP a Things, said \\\"so\\\".
a_total{x=\"1\"} 3 # {trace_id=\"abc\"} 1 1700000000.5
a_total{x=\"2\\\\\\n\"} 0
# HELP g_seconds Time.
# TYPE g_seconds gauge
# UNIT g_seconds seconds
g_seconds -0.5
# TYPE h histogram
h_bucket{le=\"0.5\"} 1 # {trace_id=\"abc\"} 0.25 1700000000
h_bucket{le=\"1.0\"} 1
h_bucket{le=\"+Inf\"} 2
h_sum 3.25
h_count 2
# EOF
";

#[test]
fn a_good_exposition_is_read() {
    let families = parse(GOOD).unwrap();
    let names: Vec<_> = families.iter().map(|family| family.name.as_str()).collect();
    assert_eq!(names, ["a", "g_seconds", "h"]);
    assert_eq!(families[0].help.as_deref(), Some("Things, said \"so\"."));
    assert_eq!(families[0].samples[1].labels["x"], "2\\\n");
    let exemplar = families[2].samples[0].exemplar.as_ref().unwrap();
    assert_eq!(exemplar.labels["trace_id"], "abc");
    assert_eq!(exemplar.timestamp, Some(1_700_000_000.0));
}

/// What stands in the good one, what takes its place, and what the parser has to say.
const BREACHES: &[(&str, &str, &str)] = &[
    ("# EOF\n", "", "does not end with # EOF"),
    ("# EOF\n", "# EOF", "does not end with # EOF"),
    ("# EOF\n", "# EOF\n# EOF\n", "comments are not allowed"),
    ("# TYPE g", "\n# TYPE g", "a blank line"),
    (
        "# TYPE g",
        "# a comment\n# TYPE g",
        "comments are not allowed",
    ),
    ("a_total{x=\"1\"} 3", "b_total 3", "no sample of"),
    ("a_total{x=\"1\"} 3", "a 3", "no sample of the counter a"),
    (
        "a_total{x=\"1\"} 3",
        "a_created 3\na_total{x=\"1\"} 3",
        "_created without a counter",
    ),
    ("a_total{x=\"1\"} 3", "a_total{x=\"1\"} -3", "below zero"),
    ("a_total{x=\"1\"} 3", "a_total{x=\"1\"}  3", "no number"),
    (
        "a_total{x=\"1\"}",
        "a_total{x=\"1\",x=\"1\"}",
        "the label x twice",
    ),
    ("a_total{x=\"1\"}", "a_total{x=\"\\q\"}", "escaped"),
    ("a_total{x=\"2\\\\\\n\"}", "a_total{x=\"1\"}", "twice"),
    (
        "said \\\"so\\\"",
        "said \"so\"",
        "a quote that is not escaped",
    ),
    (
        "# TYPE a counter",
        "# TYPE a summary",
        "no sample of the summary a",
    ),
    ("# HELP a", "# TYPE a counter\n# HELP a", "described twice"),
    (
        "seconds seconds",
        "seconds bytes",
        "does not end with the unit",
    ),
    (
        "g_seconds -0.5",
        "g_seconds -0.5 # {trace_id=\"a\"} 1",
        "an exemplar on",
    ),
    (
        "g_seconds -0.5",
        "g_seconds_created 1",
        "no sample of the gauge",
    ),
    (
        "h_sum 3.25",
        "h_sum 3.25 # {trace_id=\"a\"} 1",
        "an exemplar on h_sum",
    ),
    (
        "0.25 1700000000",
        "0.75 1700000000",
        "an exemplar outside its bucket",
    ),
    (
        "h_bucket{le=\"1.0\"} 1",
        "h_bucket{le=\"0.1\"} 1",
        "not sorted",
    ),
    (
        "h_bucket{le=\"1.0\"} 1",
        "h_bucket{le=\"1\"} 1",
        "not canonical",
    ),
    (
        "h_bucket{le=\"1.0\"} 1",
        "h_bucket{le=\"1.0\"} 0",
        "not cumulative",
    ),
    ("h_bucket{le=\"+Inf\"} 2\n", "", "no bucket +Inf"),
    (
        "h_bucket{le=\"+Inf\"} 2",
        "h_bucket{le=\"+Inf\"} 3",
        "is not the count",
    ),
    ("h_sum 3.25\n", "", "no _sum"),
    (
        "# TYPE h histogram",
        "# TYPE a counter\na_total 1\n# TYPE h histogram",
        "twice",
    ),
    (
        "# TYPE h histogram",
        "# TYPE a_total gauge\n# TYPE h histogram",
        "clash",
    ),
];

#[test]
fn every_breach_is_refused_by_name() {
    for (there, instead, why) in BREACHES {
        let bad = GOOD.replacen(*there, instead, 1);
        assert_ne!(bad, GOOD, "{there} is not in the good one");
        let refused = parse(&bad).expect_err(&format!("{instead:?} was taken"));
        assert!(refused.contains(why), "{instead:?}: {refused}");
    }
    let named = GOOD
        .replace("# TYPE a ", "# TYPE a_total ")
        .replace("# HELP a ", "# HELP a_total ");
    let named = named.replace("a_total{", "a_total_total{");
    assert!(parse(&named).unwrap_err().contains("named without _total"));
}
