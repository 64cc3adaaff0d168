//! The definitions of the kinds, made from their types.

use kube_core::schema::StructuralSchemaRewriter;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};
use understudy_crds::{BackendSpec, BackendTrafficPolicySpec, GROUP, VERSION};

/// One of the kinds.
pub(crate) struct Kind {
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
    short: &'static str,
    description: &'static str,
    spec: Value,
    status: Value,
    columns: Value,
}

pub(crate) fn kinds() -> [Kind; 2] {
    let age = json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"});
    [
        Kind {
            kind: "Backend",
            plural: "backends",
            short: "be",
            description: "Endpoints that routes refer to: by name, by address, or on the same machine.",
            spec: spec_schema::<BackendSpec>(),
            status: backend_status(),
            columns: json!([
                {"name": "Role", "type": "string",
                 "jsonPath": ".status.conditions[?(@.type==\"understudy.dev/Role\")].reason"},
                {"name": "Health", "type": "string",
                 "jsonPath": ".status.conditions[?(@.type==\"understudy.dev/Healthy\")].reason"},
                {"name": "Status", "type": "string",
                 "jsonPath": ".status.conditions[?(@.type==\"Accepted\")].reason"},
                {"name": "Fallback", "type": "boolean", "priority": 1, "jsonPath": ".spec.fallback"},
                age.clone(),
            ]),
        },
        Kind {
            kind: "BackendTrafficPolicy",
            plural: "backendtrafficpolicies",
            short: "btp",
            description: "How requests of the targeted routes reach their endpoints: detection, retries, timeouts, balancing.",
            spec: spec_schema::<BackendTrafficPolicySpec>(),
            status: policy_status(),
            columns: json!([age]),
        },
    ]
}

fn spec_schema<T: JsonSchema>() -> Value {
    let generator = SchemaSettings::openapi3()
        .with(|settings| {
            settings.inline_subschemas = true;
            settings.meta_schema = None;
        })
        .with_transform(StructuralSchemaRewriter)
        .into_generator();
    let mut schema = generator.into_root_schema_for::<T>().to_value();
    simplify(&mut schema);
    schema
}

/// Leaves out what Kubernetes has no use for: null as a value, titles, formats that it does not check.
fn simplify(schema: &mut Value) {
    if let Value::Object(object) = schema {
        if let Some(Value::String(text)) = object.get_mut("description") {
            // Links of the crate's documentation.
            *text = text.replace("[`", "`").replace("`]", "`");
        }
        object.retain(|key, _| !matches!(key.as_str(), "title" | "nullable" | "default"));
        if object.get("format").is_some_and(|format| format != "int64" && format != "double") {
            object.remove("format");
        }
        if let Some(Value::Array(kinds)) = object.get("type")
            && let [kind, Value::String(null)] = kinds.as_slice()
            && null == "null"
        {
            let kind = kind.clone();
            object.insert("type".to_owned(), kind);
        }
        unwrap_optional(object);
    }
    match schema {
        Value::Object(object) => object.values_mut().for_each(simplify),
        Value::Array(items) => items.iter_mut().for_each(simplify),
        _ => {}
    }
}

/// `anyOf: [X, null]` becomes X.
fn unwrap_optional(object: &mut Map<String, Value>) {
    let is_null = |schema: &Value| {
        schema.get("type").is_some_and(|kind| kind == "null") || schema.get("enum") == Some(&json!([null]))
    };
    let Some(Value::Array(any)) = object.get("anyOf") else { return };
    if any.len() == 2 && is_null(&any[1]) {
        let Value::Object(wanted) = any[0].clone() else { return };
        object.remove("anyOf");
        for (key, value) in wanted {
            object.entry(key).or_insert(value);
        }
    }
}

fn condition() -> Value {
    json!({
        "type": "object",
        "description": "One aspect of the object's state.",
        "required": ["lastTransitionTime", "message", "reason", "status", "type"],
        "properties": {
            "type": {"type": "string", "maxLength": 316, "description": "What it is about."},
            "status": {"type": "string", "enum": ["True", "False", "Unknown"], "description": "Whether it holds."},
            "reason": {"type": "string", "minLength": 1, "maxLength": 1024, "description": "Why, in one word."},
            "message": {"type": "string", "maxLength": 32768, "description": "Why, in a sentence."},
            "lastTransitionTime": {"type": "string", "format": "date-time", "description": "Since when."},
            "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0,
                                   "description": "The generation that it was found for."},
        },
    })
}

fn conditions() -> Value {
    json!({
        "type": "array", "maxItems": 8, "items": condition(),
        "description": "What a controller found out.",
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
    })
}

fn backend_status() -> Value {
    json!({
        "type": "object", "description": "What controllers found out about it.",
        "properties": {"conditions": conditions()},
    })
}

fn policy_status() -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    let ancestor = json!({
        "type": "object",
        "description": "The object that a target of the policy belongs to.",
        "required": ["name"],
        "properties": {
            "group": text("Its group."), "kind": text("Its kind."), "namespace": text("Its namespace."),
            "name": text("Its name."), "sectionName": text("A part of it."),
            "port": {"type": "integer", "format": "int64", "description": "A port of it."},
        },
    });
    json!({
        "type": "object", "description": "What controllers found out about it.",
        "required": ["ancestors"],
        "properties": {"ancestors": {
            "type": "array", "maxItems": 16,
            "description": "For each Gateway, or other ancestor of a target, what was found out.",
            "items": {
                "type": "object",
                "description": "What was found out for one ancestor.",
                "required": ["ancestorRef", "controllerName"],
                "properties": {
                    "ancestorRef": ancestor,
                    "controllerName": text("Who found it out."),
                    "conditions": conditions(),
                },
            },
        }},
    })
}

/// The whole definition.
pub(crate) fn definition(kind: &Kind) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{}.{GROUP}", kind.plural)},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.kind, "listKind": format!("{}List", kind.kind), "plural": kind.plural,
                "singular": kind.kind.to_lowercase(), "shortNames": [kind.short],
                "categories": ["understudy", "gateway-api"],
            },
            "versions": [{
                "name": VERSION, "served": true, "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": kind.columns,
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "description": kind.description,
                    "required": ["spec"],
                    "properties": {
                        "apiVersion": {"type": "string"},
                        "kind": {"type": "string"},
                        "metadata": {"type": "object"},
                        "spec": kind.spec,
                        "status": kind.status,
                    },
                }},
            }],
        },
    })
}
