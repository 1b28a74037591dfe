//! Both formats, as a scraper gets them.

use ganesh::telemetry::metrics::TABLE;

use crate::support::Stack;
use crate::support::events::{events, publish};
use crate::support::exposition::{names_in_openmetrics, names_in_text, parse};

/// GET /metrics as a scraper does it: content type and body.
async fn scrape(url: &str, accept: &str) -> (String, String) {
    let request = reqwest::Client::new().get(url).header("accept", accept);
    let answer = request.send().await.unwrap();
    let content_type = answer.headers()["content-type"]
        .to_str()
        .unwrap()
        .to_owned();
    (content_type, answer.text().await.unwrap())
}

#[tokio::test]
async fn a_serving_process_passes_the_strict_parser() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    publish(&stack.jetstream().await, &events("e", 500)).await;
    stack.wait_until_drained().await;
    let url = ganesh.admin_url("/metrics");
    let prometheus =
        "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
    let (content_type, open_metrics) = scrape(&url, prometheus).await;
    assert_eq!(
        content_type,
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    let (content_type, text) = scrape(&url, "*/*").await;
    assert_eq!(content_type, "text/plain; version=0.0.4; charset=utf-8");
    assert_eq!(names_in_openmetrics(&open_metrics), names_in_text(&text));
    let families = parse(&open_metrics).unwrap();
    for family in &families {
        let name = match family.kind.as_str() {
            "counter" => format!("{}_total", family.name),
            _ => family.name.clone(),
        };
        let metric = TABLE.iter().find(|metric| metric.name == name);
        let metric = metric.unwrap_or_else(|| panic!("{name} is unknown"));
        assert_eq!(family.kind, metric.kind.as_str(), "{name}");
        assert_eq!(family.help.as_deref(), Some(metric.help), "{name}");
        assert_eq!(
            family.unit.as_deref().unwrap_or(""),
            metric.unit(),
            "{name}"
        );
    }
    assert_eq!(families.len(), TABLE.len());
    let mut stored = families
        .iter()
        .filter(|f| f.name == "ganesh_end_to_end_seconds");
    let count = stored.next().unwrap().with_suffix("_count").next().unwrap();
    assert!((count.value - 500.0).abs() < f64::EPSILON, "{count:?}");
}
