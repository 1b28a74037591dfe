//! The collector: gRPC and HTTP, mutual TLS, headers, gzip.

use super::with;
use crate::support::Stack;
use crate::support::certificates::{Authority, Valid};
use crate::support::collector::Collector;
use crate::support::ganesh::run;

/// A producer, all of whose messages are traces.
const PRODUCE: &[&str] = &["produce", "--count", "4", "--rate", "4", "--sample", "1"];

/// What a producer says that exports with these settings.
fn exported(stack: &Stack, settings: &[(&str, &str)]) -> String {
    let output = run(Some(stack), PRODUCE, settings);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    said
}

// The collector runs in this process, beside the producer that is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::too_many_lines, reason = "a table of wrong things")]
async fn traces_go_over_mutual_tls_by_grpc_and_http_and_each_wrong_thing_is_named() {
    let (stack, authority, other) = (Stack::start().await, Authority::new(), Authority::new());
    stack.make_streams().await;
    let client = authority.client("client");
    let server = authority.server("collector");
    let collector = Collector::start_with_tls(&server, &authority.ca()).await;
    let expired = authority.sign("expired", &["127.0.0.1"], Valid::Once);
    let old = Collector::start_with_tls(&expired, &authority.ca()).await;
    let ca = authority.ca();
    let (other_ca, foreign) = (other.ca(), other.client("client"));
    for (protocol, of) in [("grpc", 0), ("http/protobuf", 1)] {
        let url = collector.encrypted()[of].clone();
        let right = [
            ("OTEL_TRACES_EXPORTER", "otlp"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", &ca),
            (
                "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
                client.certificate(),
            ),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", client.key()),
            (
                "OTEL_EXPORTER_OTLP_HEADERS",
                "Authorization=Bearer%20swordfish,x-org=7",
            ),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("GANESH_LOG", "trace"),
        ];
        collector.forget();
        let said = exported(&stack, &right);
        assert!(!said.contains("swordfish"), "{said}");
        assert!(!collector.spans().is_empty(), "{protocol}: {said}");
        let headers = collector.headers();
        for (name, value) in [("authorization", "Bearer swordfish"), ("x-org", "7")] {
            let found = headers.get(name).map(|value| value.to_str().unwrap());
            assert_eq!(found, Some(value), "{protocol}");
        }
        let encoding = if of == 0 {
            "grpc-encoding"
        } else {
            "content-encoding"
        };
        assert_eq!(headers.get(encoding).unwrap(), "gzip");
        // That of traces alone is as it is, and wins.
        collector.forget();
        let path = if of == 0 { "" } else { "/v1/traces" };
        let (all, own) = ("https://127.0.0.1:1", format!("{url}{path}"));
        let of_traces = with(
            &right,
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", all),
                ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &own),
                ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "x-org=8"),
            ],
        );
        let said = exported(&stack, &of_traces);
        assert!(!collector.spans().is_empty(), "{protocol}: {said}");
        assert_eq!(collector.headers().get("x-org").unwrap(), "8");

        let old = old.encrypted()[of].clone();
        let by_name = url.replace("127.0.0.1", "localhost");
        let wrong: [(&[(&str, &str)], &str); 5] = [
            (
                &[("OTEL_EXPORTER_OTLP_CERTIFICATE", &other_ca)],
                "no authority in OTEL_EXPORTER_OTLP_CERTIFICATE signed",
            ),
            (
                &[("OTEL_EXPORTER_OTLP_ENDPOINT", &by_name)],
                "the server's certificate is for 127.0.0.1, not for localhost",
            ),
            (
                &[
                    ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", ""),
                    ("OTEL_EXPORTER_OTLP_CLIENT_KEY", ""),
                ],
                "the server wants a client certificate",
            ),
            (
                &[
                    (
                        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
                        foreign.certificate(),
                    ),
                    ("OTEL_EXPORTER_OTLP_CLIENT_KEY", foreign.key()),
                ],
                "the server does not accept the client certificate",
            ),
            (
                &[("OTEL_EXPORTER_OTLP_ENDPOINT", &old)],
                "expired at 2020-01-01T00:00:00Z: renew it",
            ),
        ];
        for (changed, words) in wrong {
            let soon = [
                ("OTEL_EXPORTER_OTLP_TIMEOUT", "400"),
                ("GANESH_LOG", "info"),
            ];
            let settings = with(&right, &[changed, &soon].concat());
            let said = exported(&stack, &settings);
            let lines: Vec<&str> = said.lines().filter(|line| line.contains(words)).collect();
            assert_eq!(lines.len(), 1, "{protocol}: {words}: {said}");
            let doctor = run(Some(&stack), &["doctor"], &settings);
            let said = String::from_utf8_lossy(&doctor.stdout);
            let warning = said
                .lines()
                .find(|line| line.starts_with("warning  telemetry"));
            assert!(
                warning.is_some_and(|line| line.contains(words)),
                "{words}: {said}"
            );
        }
        let doctor = run(Some(&stack), &["doctor"], &right);
        let said = String::from_utf8_lossy(&doctor.stdout);
        let words = "ok       telemetry TLS 1.3, certificate for 127.0.0.1 until ";
        assert!(said.contains(words), "{said}");
    }
}
