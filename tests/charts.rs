//! The Helm chart: rendered by Helm, and compared with the schemas of Kubernetes and with what it is made from. No
//! cluster is needed. `make charts` checks more, with programs in Go.

mod autoscaling;
mod examples;
mod install;
mod monitoring;
mod pods;
mod refusals;

use std::path::PathBuf;
use std::process::{Command, Output};

use serde::Deserialize;
use serde_json::Value;

use crate::support::monitoring::at;

/// Versions of Kubernetes whose schemas are asked: the oldest that the chart allows, and the newest.
const KUBERNETES: [&str; 2] = ["1.31", "1.37"];

/// A program or folder that `scripts/fetch` brings. `None` where no registry has it: the test then says that it is skipped.
fn fetched(name: &str) -> Option<PathBuf> {
    let found = Command::new(at("scripts/fetch"))
        .args(["--print", name])
        .output()
        .unwrap();
    if found.status.success() {
        return Some(String::from_utf8(found.stdout).unwrap().trim().into());
    }
    let why = String::from_utf8_lossy(&found.stderr).into_owned();
    let platform = (std::env::consts::OS, std::env::consts::ARCH);
    assert_ne!(platform, ("linux", "x86_64"), "{why}");
    eprintln!("SKIPPED, NOTHING IS CHECKED: {why}");
    None
}

fn output_of(command: &mut Command) -> Output {
    command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// The documents of a YAML text that are not empty.
fn documents(yaml: &str) -> Vec<Value> {
    serde_norway::Deserializer::from_str(yaml)
        .map(|document| Value::deserialize(document).unwrap())
        .filter(|document| !document.is_null())
        .collect()
}

/// The only document of this kind.
fn the<'a>(documents: &'a [Value], kind: &str) -> &'a Value {
    let mut found = documents.iter().filter(|one| one["kind"] == kind);
    let first = found.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(found.next().is_none(), "more than one {kind}");
    first
}

/// Helm, with the chart.
struct Chart {
    helm: PathBuf,
    folder: PathBuf,
}

impl Chart {
    fn find() -> Option<Self> {
        Some(Self {
            helm: fetched("helm")?,
            folder: at("deploy/helm/ganesh"),
        })
    }

    fn helm(&self, arguments: &[&str]) -> Output {
        output_of(
            Command::new(&self.helm)
                .args(arguments)
                // Where it keeps what it remembers.
                .env("HELM_CACHE_HOME", std::env::temp_dir())
                .env("KUBECONFIG", "/dev/null"),
        )
    }

    fn template(&self, arguments: &[&str]) -> Output {
        let folder = self.folder.to_str().unwrap();
        let named = ["template", "ganesh", folder, "--namespace", "ganesh"];
        self.helm(&[&named, arguments].concat())
    }

    /// The YAML that these values make.
    fn text(&self, arguments: &[&str]) -> String {
        let rendered = self.template(arguments);
        assert!(
            rendered.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&rendered.stderr)
        );
        String::from_utf8(rendered.stdout).unwrap()
    }

    fn render(&self, arguments: &[&str]) -> Vec<Value> {
        documents(&self.text(arguments))
    }

    /// The same with `--set`.
    fn with(&self, values: &[&str]) -> Vec<Value> {
        let set: Vec<_> = values.iter().flat_map(|value| ["--set", value]).collect();
        self.render(&set)
    }

    /// With the values of an example.
    fn example(&self, name: &str) -> Vec<Value> {
        let values = at(&format!("deploy/helm/examples/{name}/values.yaml"));
        self.render(&["--values", values.to_str().unwrap()])
    }
}
