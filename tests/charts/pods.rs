//! What the chart promises of each pod.

use serde_json::{Value, json};

use super::{Chart, the};
use crate::support::monitoring::{list, word};

/// The specifications of all pods.
fn pods(documents: &[Value]) -> Vec<Value> {
    let pods = documents.iter().map(|one| &one["spec"]["template"]["spec"]);
    let pods: Vec<_> = pods.filter(|spec| spec.is_object()).cloned().collect();
    assert_eq!(pods.len(), 2, "a Deployment and a Job");
    pods
}

#[test]
fn no_pod_can_do_more_than_it_needs() {
    let Some(chart) = Chart::find() else { return };
    let documents = chart.render(&[]);
    for pod in pods(&documents) {
        let security = &pod["securityContext"];
        assert_eq!(security["runAsNonRoot"], true);
        assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(pod["automountServiceAccountToken"], false);
        // Variables of other Services would look like settings.
        assert_eq!(pod["enableServiceLinks"], false);
        for container in list(&pod["containers"]) {
            let allowed = json!({
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": { "drop": ["ALL"] },
            });
            assert_eq!(container["securityContext"], allowed);
            assert!(container["resources"]["limits"]["memory"].is_string());
        }
    }
    assert_eq!(
        the(&documents, "ServiceAccount")["automountServiceAccountToken"],
        false
    );
}

#[test]
fn kubernetes_waits_longer_than_ganesh_takes_to_stop() {
    let Some(chart) = Chart::find() else { return };
    for (values, grace) in [
        (vec![], 40),
        (vec!["shutdownGraceSeconds=60", "preStopSeconds=15"], 85),
    ] {
        let documents = chart.with(&values);
        let pod = &the(&documents, "Deployment")["spec"]["template"]["spec"];
        assert_eq!(pod["terminationGracePeriodSeconds"], grace);
        let own = &the(&documents, "ConfigMap")["data"]["GANESH_SHUTDOWN_GRACE"];
        let own: u64 = word(own).trim_end_matches('s').parse().unwrap();
        let before = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
            .as_u64()
            .unwrap();
        assert!(own + before < grace, "{own} + {before}");
    }
}

#[test]
fn probes_ask_the_admin_address() {
    let Some(chart) = Chart::find() else { return };
    let documents = chart.render(&[]);
    let container = &the(&documents, "Deployment")["spec"]["template"]["spec"]["containers"][0];
    for (probe, path) in [
        ("startupProbe", "/livez"),
        ("livenessProbe", "/livez"),
        ("readinessProbe", "/readyz"),
    ] {
        assert_eq!(
            container[probe]["httpGet"],
            json!({ "path": path, "port": "admin" }),
            "{probe}"
        );
    }
    let port = list(&container["ports"])
        .iter()
        .find(|port| port["name"] == "admin")
        .unwrap();
    assert_eq!(port["containerPort"], 9464);
    assert_eq!(
        the(&documents, "ConfigMap")["data"]["GANESH_ADMIN_ADDR"],
        "0.0.0.0:9464"
    );
}

#[test]
fn a_secret_is_a_file_and_no_variable() {
    let Some(chart) = Chart::find() else { return };
    let documents = chart.with(&[
        "secrets.GANESH_API_TOKEN.name=tokens",
        "secrets.GANESH_API_TOKEN.key=api",
        "migrations.secret.name=owner",
    ]);
    let serve = &the(&documents, "Deployment")["spec"]["template"]["spec"];
    let named = |pod: &Value| -> Vec<(String, String)> {
        let sources = list(&pod["volumes"][0]["projected"]["sources"]).iter();
        let items = sources.map(|source| {
            let secret = &source["secret"];
            (
                word(&secret["name"]).to_owned(),
                word(&secret["items"][0]["path"]).to_owned(),
            )
        });
        items.collect()
    };
    let pair = |one: &str, two: &str| (one.to_owned(), two.to_owned());
    assert_eq!(
        named(serve),
        [
            pair("tokens", "GANESH_API_TOKEN"),
            pair("ganesh-postgres", "POSTGRES_URL")
        ]
    );
    let env = &serve["containers"][0]["env"];
    assert_eq!(
        env,
        &json!([
            { "name": "GANESH_API_TOKEN_FILE", "value": "/run/secrets/ganesh/GANESH_API_TOKEN" },
            { "name": "POSTGRES_URL_FILE", "value": "/run/secrets/ganesh/POSTGRES_URL" },
        ])
    );
    assert_eq!(
        serve["containers"][0]["volumeMounts"][0]["mountPath"],
        "/run/secrets/ganesh"
    );
    // The owner of the schema is known to the Job alone.
    let migrate = &the(&documents, "Job")["spec"]["template"]["spec"];
    assert_eq!(named(migrate), [pair("owner", "POSTGRES_URL")]);
}

#[test]
fn another_setting_makes_other_pods_and_another_version_another_job() {
    let Some(chart) = Chart::find() else { return };
    let checksum = |documents: &[Value]| {
        let template = &the(documents, "Deployment")["spec"]["template"];
        template["metadata"]["annotations"]["checksum/config"].clone()
    };
    let job = |documents: &[Value]| the(documents, "Job")["metadata"]["name"].clone();
    let default = chart.render(&[]);
    let writers = chart.with(&["config.GANESH_WRITERS=4"]);
    assert_ne!(checksum(&default), checksum(&writers));
    assert_eq!(job(&default), job(&writers));
    assert_ne!(job(&default), job(&chart.with(&["image.tag=0.2.0"])));
    assert_ne!(
        job(&default),
        job(&chart.with(&["config.GANESH_POSTGRES_SCHEMA=ganesh"]))
    );
}

#[test]
fn large_numbers_stay_numbers() {
    let Some(chart) = Chart::find() else { return };
    let documents = chart.with(&[
        "config.GANESH_MAX_IN_FLIGHT=1000000",
        "config.GANESH_ACCEPT_PLAIN=false",
    ]);
    let data = &the(&documents, "ConfigMap")["data"];
    assert_eq!(data["GANESH_MAX_IN_FLIGHT"], "1000000");
    assert_eq!(data["GANESH_ACCEPT_PLAIN"], "false");
}
