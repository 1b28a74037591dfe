//! docker-compose.yml and what it is made of: everything that can be known without an engine.
//! That all of it starts, has to be seen: README, "The whole stack".

mod bounds;
mod image;
mod reach;
mod roles;

use serde_norway::Value;

/// A file of the repository.
fn read(path: &str) -> String {
    let path = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A YAML file of the repository, its anchors and merges resolved.
fn yaml(path: &str) -> Value {
    let mut document: Value = serde_norway::from_str(&read(path)).unwrap();
    // Once for each level: what ganesh is merged from is merged itself.
    document.apply_merge().unwrap();
    document.apply_merge().unwrap();
    document
}

/// Every service with its name.
fn services() -> Vec<(String, Value)> {
    let compose = yaml("docker-compose.yml");
    let services = compose["services"].as_mapping().unwrap();
    services
        .iter()
        .map(|(name, service)| (name.as_str().unwrap().to_owned(), service.clone()))
        .collect()
}

fn service(name: &str) -> Value {
    let found = services().into_iter().find(|(found, _)| found == name);
    found.unwrap_or_else(|| panic!("no service {name}")).1
}

/// The strings of a list; none when there is no list.
fn strings(list: &Value) -> Vec<&str> {
    let items = list.as_sequence().into_iter().flatten();
    items.map(|item| item.as_str().unwrap()).collect()
}

/// The keys of a mapping; none when there is no mapping.
fn keys(mapping: &Value) -> Vec<&str> {
    let entries = mapping.as_mapping().into_iter().flatten();
    entries.map(|(key, _)| key.as_str().unwrap()).collect()
}

/// What `--name=value` says in a service's command.
fn flag<'a>(service: &'a Value, name: &str) -> Option<&'a str> {
    let mut words = strings(&service["command"]).into_iter();
    words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}
