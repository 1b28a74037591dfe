//! Which format a scraper gets.

use ganesh::telemetry::openmetrics::Format::{self, OpenMetrics, Text};

#[test]
fn openmetrics_is_for_those_who_ask_for_it() {
    let asked: [(&[&str], Format); 17] = [
        (&[], Text),
        (&["*/*"], Text),
        (&["text/html,application/xhtml+xml,*/*;q=0.8"], Text),
        (&["application/json"], Text),
        (&["application/openmetrics-text"], OpenMetrics),
        (
            &["Application/OpenMetrics-Text; version=\"1.0.0\""],
            OpenMetrics,
        ),
        // Prometheus 2.42, 3.x, and 3.x told to scrape the text format only.
        (
            &[
                "application/openmetrics-text;version=1.0.0;q=0.75,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.25,*/*;q=0.1",
            ],
            OpenMetrics,
        ),
        (
            &[
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
            ],
            OpenMetrics,
        ),
        (
            &[
                "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
            ],
            Text,
        ),
        // In two headers, which are one list.
        (
            &["text/plain;q=0.5", "application/openmetrics-text"],
            OpenMetrics,
        ),
        // The greater wish wins; equal ones go to the richer format.
        (
            &["application/openmetrics-text;q=0.4,text/plain;q=0.5"],
            Text,
        ),
        (&["application/openmetrics-text;q=0.4,text/*;q=0.5"], Text),
        (
            &["application/openmetrics-text;q=0.5,text/plain;q=0.5"],
            OpenMetrics,
        ),
        (
            &["application/openmetrics-text;q=0.4,text/plain;q=0.3,*/*;q=0.9"],
            OpenMetrics,
        ),
        // Not wanted, a version that we do not write, and no quality.
        (&["application/openmetrics-text;q=0"], Text),
        (&["application/openmetrics-text;version=0.0.1"], Text),
        (&["application/openmetrics-text;q=yes"], Text),
    ];
    for (accept, format) in asked {
        assert_eq!(
            Format::asked_for(accept.iter().copied()),
            format,
            "{accept:?}"
        );
    }
}
