//! Everything that is rendered fits the schemas of Kubernetes, also what the examples render; custom resources are `make
//! charts`'s.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use super::{Chart, KUBERNETES, documents, fetched, output_of};
use crate::support::monitoring::{at, text, word};

/// Groups whose schemas are Kubernetes' own.
const OWN_GROUPS: [&str; 6] = [
    "v1",
    "apps/v1",
    "autoscaling/v2",
    "batch/v1",
    "networking.k8s.io/v1",
    "policy/v1",
];

/// The folders of examples.
fn names() -> Vec<String> {
    let folders = std::fs::read_dir(at("deploy/helm/examples")).unwrap();
    let names = folders.map(|folder| folder.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    assert!(names.len() > 3, "{names:?}");
    names
}

/// Panics with what Kubernetes would refuse.
fn assert_valid(resources: &[Value]) {
    let Some(validator) = fetched("kubernetes-validate") else {
        return;
    };
    let own = |one: &&Value| OWN_GROUPS.contains(&word(&one["apiVersion"]));
    // JSON is YAML. Examples have much in common.
    let own: BTreeSet<_> = resources.iter().filter(own).map(Value::to_string).collect();
    assert!(own.len() > 4, "{own:?}");
    let own: Vec<_> = own.into_iter().collect();
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    std::fs::write(file.path(), own.join("\n---\n")).unwrap();
    let versions = KUBERNETES
        .iter()
        .flat_map(|version| ["--kubernetes-version", version]);
    let answer = output_of(
        Command::new("python3")
            .args(["-m", "kubernetes_validate", "--strict", "--quiet"])
            .args(versions)
            .arg(file.path())
            .env("PYTHONPATH", validator),
    );
    let said = String::from_utf8_lossy(&answer.stdout) + String::from_utf8_lossy(&answer.stderr);
    assert!(answer.status.success() && !said.contains("ERROR"), "{said}");
}

#[test]
fn kubernetes_takes_the_default_and_every_example() {
    let Some(chart) = Chart::find() else { return };
    let examples = names().into_iter().flat_map(|name| chart.example(&name));
    let mut all = chart.render(&[]);
    all.extend(examples);
    all.extend(chart.with(&[
        "service.enabled=false",
        "networkPolicy.egressPorts=null",
        "migrations.secret.name=owner",
        "podDisruptionBudget.maxUnavailable=50%",
        "image.pullSecrets[0].name=registry",
        "extraVolumes[0].name=tls",
        "extraVolumes[0].secret.secretName=tls",
        "extraVolumeMounts[0].name=tls",
        "extraVolumeMounts[0].mountPath=/etc/tls",
        "tolerations[0].operator=Exists",
        "priorityClassName=high",
    ]));
    assert_valid(&all);
}

#[test]
fn kubectl_applies_the_default_rendered() {
    let Some(chart) = Chart::find() else { return };
    let rendered = chart.text(&[]);
    let path = "deploy/kubernetes/ganesh.yaml";
    if std::env::var_os("GANESH_WRITE_DOCS").is_some() {
        std::fs::write(at(path), &rendered).unwrap();
    }
    // Not the text: another version of Helm may write it otherwise.
    assert_eq!(
        documents(&text(path)),
        documents(&rendered),
        "{path} is not what the chart renders. Write it anew: GANESH_WRITE_DOCS=1 cargo test --locked kubectl_applies"
    );

    let Some(kubectl) = fetched("kubectl") else {
        return;
    };
    let built = output_of(
        Command::new(kubectl)
            .arg("kustomize")
            .arg(at("deploy/kubernetes")),
    );
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    let built = documents(&String::from_utf8(built.stdout).unwrap());
    assert_valid(&built);
    assert_eq!(
        built.len(),
        documents(&rendered).len() + 1,
        "and the namespace"
    );
    for one in built.iter().filter(|one| one["kind"] != "Namespace") {
        assert_eq!(one["metadata"]["namespace"], "ganesh", "{one}");
    }
}

#[test]
fn every_example_names_secrets_that_it_says_how_to_make() {
    let Some(chart) = Chart::find() else { return };
    for name in names() {
        let folder = format!("deploy/helm/examples/{name}");
        let values = text(&format!("{folder}/values.yaml"));
        let deployment = chart
            .example(&name)
            .into_iter()
            .find(|one| one["kind"] == "Deployment")
            .unwrap();
        let sources = &deployment["spec"]["template"]["spec"]["volumes"][0]["projected"]["sources"];
        let named = sources
            .as_array()
            .unwrap()
            .iter()
            .map(|source| word(&source["secret"]["name"]));
        // The default one stands in docs/DEPLOYMENT.md.
        for secret in named
            .filter(|secret| *secret != "ganesh-postgres")
            .collect::<BTreeSet<_>>()
        {
            assert!(
                values.contains(secret),
                "{folder} does not say how {secret} comes to be"
            );
        }
    }
}
