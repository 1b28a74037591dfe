//! The files of `prometheus/` and `grafana/`, read.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// A path of the repository.
pub fn at(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The text of a file of the repository.
pub fn text(path: &str) -> String {
    std::fs::read_to_string(at(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Names in a folder of the repository that end in this, sorted.
pub fn names(folder: &str, ending: &str) -> Vec<String> {
    let entries = std::fs::read_dir(at(folder)).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(ending))
        .collect();
    names.sort();
    names
}

/// A YAML file, as the JSON that it means.
pub fn yaml(path: &str) -> Value {
    serde_norway::from_str(&text(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The elements of a list; none when it is missing.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The text of a value; empty when it is none.
pub fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// All dashboards, with their file names.
pub fn dashboards() -> Vec<(String, Value)> {
    let names = names("grafana/dashboards", ".json");
    let read = |name: String| {
        let json = serde_json::from_str(&text(&format!("grafana/dashboards/{name}"))).unwrap();
        (name, json)
    };
    names.into_iter().map(read).collect()
}

/// The panels of a dashboard, also in collapsed rows, without the rows.
pub fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    let top = list(&dashboard["panels"]).iter();
    let all = top.flat_map(|panel| std::iter::once(panel).chain(list(&panel["panels"])));
    all.filter(|panel| panel["type"] != "row")
}

/// What the annotations of the dashboards ask Prometheus.
pub fn annotations() -> Vec<Query> {
    let all = dashboards().into_iter();
    all.flat_map(|(file, dashboard)| {
        let notes = list(&dashboard["annotations"]["list"]).to_vec();
        notes.into_iter().map(move |note| Query {
            place: format!("{file}: {}", word(&note["name"])),
            expr: word(&note["expr"]).to_owned(),
        })
    })
    .collect()
}

/// One expression that a panel asks Prometheus.
pub struct Query {
    /// Dashboard file and panel title.
    pub place: String,
    pub expr: String,
}

/// Everything that the dashboards ask Prometheus.
pub fn queries() -> Vec<Query> {
    let mut queries = Vec::new();
    for (file, dashboard) in dashboards() {
        for panel in panels(&dashboard) {
            for expr in list(&panel["targets"])
                .iter()
                .filter_map(|t| t["expr"].as_str())
            {
                queries.push(Query {
                    place: format!("{file}: {}", word(&panel["title"])),
                    expr: expr.to_owned(),
                });
            }
        }
    }
    queries
}

/// The rules of all files in `prometheus/rules/`.
pub fn rules() -> Vec<Value> {
    let files = names("prometheus/rules", ".yml");
    let groups = files
        .iter()
        .flat_map(|name| list(&yaml(&format!("prometheus/rules/{name}"))["groups"]).to_vec());
    groups
        .flat_map(|group| list(&group["rules"]).to_vec())
        .collect()
}

/// The rules with this key: `alert` or `record`.
pub fn rules_that(key: &str) -> Vec<Value> {
    let mut rules = rules();
    rules.retain(|rule| rule[key].is_string());
    rules
}
