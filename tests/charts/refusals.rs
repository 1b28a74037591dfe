//! Wrong values: refused by Helm, with a message that names the value and what was expected.

use super::Chart;

/// What is set, and what the refusal says.
const WRONG: [(&str, &[&str]); 18] = [
    ("replicas=17", &["/replicas", "got 17, want 16"]),
    ("replicas=many", &["/replicas", "want integer"]),
    ("replica=2", &["'replica' not allowed"]),
    (
        "image.pullPolicy=Sometimes",
        &["/image/pullPolicy", "'IfNotPresent'"],
    ),
    ("image.digest=sha256:1", &["/image/digest"]),
    ("config.WRITERS=4", &["'WRITERS'"]),
    (
        "config.GANESH_WRITERS.x=4",
        &["/config/GANESH_WRITERS", "got object"],
    ),
    (
        "config.GANESH_HTTP_ADDR=:80",
        &[
            "config.GANESH_HTTP_ADDR: the chart sets it",
            "service.enabled",
        ],
    ),
    (
        "config.GANESH_MIGRATE_ON_START=true",
        &["migrations.enabled"],
    ),
    (
        "config.POSTGRES_URL=postgresql://h/d",
        &["config.POSTGRES_URL and secrets.POSTGRES_URL are both set"],
    ),
    (
        "config.NATS_URL=nats://user:password@h",
        &["config.NATS_URL holds a secret", "secrets.NATS_URL"],
    ),
    (
        "config.NATS_URL=nats://token@h",
        &["config.NATS_URL holds a secret"],
    ),
    (
        "config.GANESH_API_TOKEN=t",
        &["config.GANESH_API_TOKEN holds a secret"],
    ),
    ("secrets.NATS_URL.name=x", &["/secrets/NATS_URL", "'key'"]),
    (
        "shutdownGraceSeconds=0",
        &["/shutdownGraceSeconds", "got 0, want 1"],
    ),
    (
        "monitoring.podMonitor.interval=often",
        &["/monitoring/podMonitor/interval"],
    ),
    (
        "autoscaling.enabled=true",
        &["autoscaling.replicaRate=0: expected the messages that one replica stores in a second"],
    ),
    (
        "autoscaling.maxReplicas=20",
        &["/autoscaling/maxReplicas", "got 20, want 16"],
    ),
];

#[test]
fn wrong_values_are_refused_by_name() {
    let Some(chart) = Chart::find() else { return };
    for (value, expected) in WRONG {
        let refusal = chart.template(&["--set", value]);
        let said = String::from_utf8_lossy(&refusal.stderr);
        assert!(!refusal.status.success(), "{value} is taken");
        for word in expected {
            assert!(said.contains(word), "{value}: no {word} in {said}");
        }
        assert!(!said.contains("password@"), "{said}");
    }
}

#[test]
fn values_that_do_not_go_together_are_refused() {
    let Some(chart) = Chart::find() else { return };
    let scaled = "autoscaling.enabled=true,autoscaling.replicaRate=1000";
    for (value, expected) in [
        (
            scaled.to_owned(),
            "autoscaling.prometheus.serverAddress is empty",
        ),
        (
            format!("{scaled},autoscaling.minReplicas=9"),
            "autoscaling.minReplicas=9: expected at most",
        ),
    ] {
        let refusal = chart.template(&["--set", &value]);
        let said = String::from_utf8_lossy(&refusal.stderr);
        assert!(
            !refusal.status.success() && said.contains(expected),
            "{value}: {said}"
        );
    }
}
