//! `GET /v1/docs`: the OpenAPI document as a page for people, without scripts.

use std::fmt::Write as _;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::markdown_page;

/// The page of a document.
pub(super) fn page(document: &Value) -> Bytes {
    let info = &document["info"];
    let mut text = format!(
        "# {}\n\n{}\n\nFor programs: [OpenAPI](/v1/openapi.json). Where GANESH_API_TOKEN is set, every request but \
         the one for this page needs `Authorization: Bearer …`.\n\n",
        said(&info["title"]),
        said(&info["description"])
    );
    let paths = members(&document["paths"]);
    for (path, operations) in paths.clone() {
        for (method, operation) in members(operations) {
            push_operation(&mut text, document, (method, path), operation);
        }
    }
    text.push_str("## Schemas\n\n");
    for (name, schema) in members(&document["components"]["schemas"]) {
        push_schema(&mut text, name, schema);
    }
    markdown_page::render("ganesh: API", &text)
}

fn push_operation(
    text: &mut String,
    document: &Value,
    (method, path): (&str, &str),
    operation: &Value,
) {
    let method = method.to_uppercase();
    let (summary, description) = (said(&operation["summary"]), said(&operation["description"]));
    let _ = write!(text, "## {method} {path}\n\n{summary}\n\n{description}\n\n");
    let parameters = items(&operation["parameters"]);
    let parameters: Vec<&Value> = parameters.map(|one| resolved(document, one)).collect();
    let _ = write!(
        text,
        "```\ncurl -s \"$API{path}{}\"\n```\n\n",
        example(&parameters)
    );
    if !parameters.is_empty() {
        text.push_str("| parameter | in | type | |\n|---|---|---|---|\n");
    }
    for parameter in parameters {
        let required = if parameter["required"] == true {
            ", required"
        } else {
            ""
        };
        let _ = writeln!(
            text,
            "| `{}` | {}{required} | {} | {} |",
            said(&parameter["name"]),
            said(&parameter["in"]),
            kind(&parameter["schema"]),
            cell(&parameter["description"])
        );
    }
    text.push_str("\n| status | answer | |\n|---|---|---|\n");
    for (status, response) in members(&operation["responses"]) {
        let contents = members(&response["content"]);
        let contents: Vec<String> = contents
            .map(|(media, content)| format!("`{media}`: {}", kind(&content["schema"])))
            .collect();
        let headers = members(&response["headers"]);
        let headers = headers.map(|(name, header)| {
            let about = cell(&header["description"]);
            format!(" `{name}`: {about}.")
        });
        let headers = headers.collect::<Vec<_>>().concat();
        let _ = writeln!(
            text,
            "| {status} | {} | {}{headers} |",
            contents.join(", "),
            cell(&response["description"])
        );
    }
    text.push('\n');
}

fn push_schema(text: &mut String, name: &str, schema: &Value) {
    let _ = write!(text, "### {name}\n\n{}\n\n", said(&schema["description"]));
    let shapes = [&schema["oneOf"], &schema["anyOf"]]
        .into_iter()
        .flat_map(items);
    let mut shapes: Vec<&Value> = shapes.collect();
    if shapes.is_empty() {
        shapes.push(schema);
    }
    for shape in shapes {
        if shape["properties"].is_null() {
            let _ = write!(text, "{}\n\n", kind(shape));
            continue;
        }
        text.push_str("| member | type | |\n|---|---|---|\n");
        for (member, of) in members(&shape["properties"]) {
            let is_required = items(&shape["required"]).any(|name| name == member);
            let required = if is_required { ", always" } else { "" };
            let about = cell(&of["description"]);
            let _ = writeln!(text, "| `{member}` | {}{required} | {about} |", kind(of));
        }
        text.push('\n');
    }
}

/// The query with what the request cannot do without.
fn example(parameters: &[&Value]) -> String {
    let needed = parameters
        .iter()
        .filter(|one| one["required"] == true && one["in"] == "query");
    let needed: Vec<String> = needed
        .map(|one| format!("{0}={{{0}}}", said(&one["name"])))
        .collect();
    if needed.is_empty() {
        String::new()
    } else {
        format!("?{}", needed.join("&"))
    }
}

/// A type in words; that of an object is a link to its table.
fn kind(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap_or_default();
        return format!("[{name}](#{})", name.to_lowercase());
    }
    let choices = [&schema["oneOf"], &schema["anyOf"], &schema["allOf"]];
    let choices: Vec<String> = choices.into_iter().flat_map(items).map(kind).collect();
    if !choices.is_empty() {
        return choices.join(" or ");
    }
    if !schema["enum"].is_null() {
        let values: Vec<String> = items(&schema["enum"]).map(code).collect();
        return values.join(" ");
    }
    let types = match &schema["type"] {
        Value::Array(types) => types.iter().map(said).collect::<Vec<_>>().join(" or "),
        one => said(one).to_owned(),
    };
    if schema["type"] == "array" {
        return format!("array of {}", kind(&schema["items"]));
    }
    let limits = [
        "format",
        "pattern",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
    ];
    let limits = limits.iter().filter(|name| !schema[**name].is_null());
    let limits = limits.map(|name| format!(", {name} {}", code(&schema[*name])));
    let limits = limits.collect::<Vec<_>>().concat();
    format!(
        "{}{limits}",
        if types.is_empty() { "anything" } else { &types }
    )
}

fn code(value: &Value) -> String {
    let text = value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned);
    format!("`{}`", text.replace('|', "\\|"))
}

/// In a table.
fn cell(text: &Value) -> String {
    said(text).replace('|', "\\|").replace('\n', " ")
}

fn said(text: &Value) -> &str {
    text.as_str().unwrap_or_default()
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn members(object: &Value) -> impl Iterator<Item = (&str, &Value)> + Clone {
    let members = object.as_object().into_iter().flat_map(Map::iter);
    members.map(|(name, value)| (name.as_str(), value))
}

/// What a reference means.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let reference = value["$ref"].as_str();
    let pointer = reference.and_then(|reference| reference.strip_prefix('#'));
    pointer
        .and_then(|pointer| document.pointer(pointer))
        .unwrap_or(value)
}
