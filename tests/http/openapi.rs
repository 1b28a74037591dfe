//! `GET /v1/openapi.json`: it says what the API does.

use std::collections::BTreeSet;

use ganesh::labels::HttpRoute;
use serde_json::Value;
use strum::VariantArray;

use super::client::{get, store};
use super::tail_client::Tail;
use crate::support::Stack;
use crate::support::events::event;

/// The name of the schema of an answer of 200, and its media type.
fn answer_of(document: &Value, path: &str) -> (String, String) {
    let content = &document["paths"][path]["get"]["responses"]["200"]["content"];
    let (media_type, content) = content.as_object().unwrap().iter().next().unwrap();
    let schema = &content["schema"];
    let named = schema.get("$ref").or(schema["items"].get("$ref")).unwrap();
    let name = named.as_str().unwrap().rsplit('/').next().unwrap();
    (name.to_owned(), media_type.clone())
}

/// Every member that an object has to have, and no member of another type, by the schema.
fn check(document: &Value, name: &str, object: &Value) {
    let schema = &document["components"]["schemas"][name];
    for required in schema["required"].as_array().unwrap() {
        let required = required.as_str().unwrap();
        assert!(
            object.get(required).is_some(),
            "{name} without {required}: {object}"
        );
    }
    for (member, schema) in schema["properties"].as_object().unwrap() {
        let Some(value) = object.get(member) else {
            continue;
        };
        // A type of its own, such as a closed list of values.
        let named = schema["$ref"]
            .as_str()
            .and_then(|name| name.strip_prefix('#'));
        let schema = named.map_or(schema, |name| document.pointer(name).unwrap());
        let types = &schema["type"];
        let is = |kind: &str| {
            let types = types
                .as_array()
                .map_or(std::slice::from_ref(types), Vec::as_slice);
            types.iter().any(|one| one == kind)
        };
        let kind = match value {
            Value::String(_) => "string",
            Value::Number(number) if number.is_u64() && is("integer") => "integer",
            Value::Number(_) => "number",
            Value::Array(_) => "array",
            _ => continue,
        };
        assert!(is(kind), "{name}.{member}: {value} is no {schema}");
    }
}

/// The document has every parameter that a route knows, by what it says of an unknown one, and no others.
fn check_parameters(document: &Value, path: &str, refused: &Value) {
    check(document, "ProblemDetails", refused);
    let operation = &document["paths"][path]["get"];
    let parameters = operation["parameters"].as_array().unwrap();
    let named = parameters.iter().filter(|one| one["in"] == "query");
    let named: BTreeSet<&str> = named.map(|one| one["name"].as_str().unwrap()).collect();
    let expected = refused["expected"].as_str().unwrap();
    let known = expected.strip_prefix("one of ").unwrap_or_default();
    let known = known.split(", ").filter(|name| !name.is_empty());
    let known: BTreeSet<&str> = known.filter(|name| *name != "data.<path>").collect();
    assert_eq!(named, known, "{path}");
    for status in ["400", "401", "404", "503", "504"] {
        let problem = &operation["responses"][status]["content"]["application/problem+json"];
        assert!(problem.is_object(), "{path} {status}");
    }
}

#[tokio::test]
async fn every_route_is_in_the_document_and_answers_as_it_says() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    store(&stack, &[event("e")]).await;
    let answer = get(&ganesh, "/v1/openapi.json").await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let document = answer.json();
    assert!(
        document["openapi"].as_str().unwrap().starts_with("3.1"),
        "{}",
        document["openapi"]
    );
    let described: BTreeSet<&str> = document["paths"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let routes = HttpRoute::VARIANTS.iter().map(HttpRoute::into_str);
    let routes: BTreeSet<&str> = routes
        .filter(|route| {
            *route != "other" && *route != "/v1/openapi.json" && !route.starts_with("/v1/docs")
        })
        .collect();
    assert_eq!(
        described, routes,
        "src/labels.rs has the routes that metrics know"
    );
    // Whoever adds a route in another way would leave it out.
    let source = include_str!("../../src/api.rs");
    assert_eq!(source.matches(".route(").count(), 0);

    // Each with what it cannot do without.
    let target = |path: &str| {
        let path = path.replace("{id}", "e").replace("{subject}", "subject-1");
        let needs = if path.ends_with("/explain") {
            "what=e"
        } else {
            ""
        };
        format!("{path}?{needs}")
    };
    for path in described {
        let (schema, media_type) = answer_of(&document, path);
        let refused = get(&ganesh, &format!("{}&unknown=1", target(path))).await;
        refused.problem(400, "Bad Request");
        check_parameters(&document, path, &refused.json());
        if media_type == "text/event-stream" {
            let event = Tail::open(&ganesh, "newest=1").await.event().await;
            assert_eq!(schema, "StreamMessage");
            check(&document, "CloudEvent", &event);
            continue;
        }
        let answer = get(&ganesh, &target(path)).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(
            answer.header("content-type"),
            Some(media_type.as_str()),
            "{path}"
        );
        match answer.json() {
            Value::Array(all) => all.iter().for_each(|one| check(&document, &schema, one)),
            object => check(&document, &schema, &object),
        }
    }
    assert_eq!(
        document["components"]["securitySchemes"]["bearer"]["scheme"],
        "bearer"
    );
}
