//! The description of a request, as the Gateway API's echo server gives it.

use serde_json::{Map, Value, json};

use crate::wire::{RequestHead, values};

/// Describes a request in JSON; `pod` is the backend's name.
pub(crate) fn describe(head: &RequestHead, pod: &str) -> Vec<u8> {
    let mut headers = Map::new();
    for (name, value) in &head.headers {
        // As Go has it: Host stands apart, and names are written in one way.
        if name.eq_ignore_ascii_case("host") {
            continue;
        }
        if let Value::Array(all) = headers.entry(canonical(name)).or_insert_with(|| json!([])) {
            all.push(json!(value));
        }
    }
    let description = json!({
        "path": head.target,
        "host": values(&head.headers, "host").next().unwrap_or_default(),
        "method": head.method,
        "proto": format!("HTTP/1.{}", head.minor),
        "headers": headers,
        "namespace": "default",
        "ingress": "",
        "service": "",
        "pod": pod,
    });
    let mut text = format!("{description:#}").into_bytes();
    text.push(b'\n');
    text
}

/// `x-request-id` becomes `X-Request-Id`.
fn canonical(name: &str) -> String {
    let mut start = true;
    name.chars()
        .map(|c| {
            let written = if start { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
            start = c == '-';
            written
        })
        .collect()
}
