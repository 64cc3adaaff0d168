//! What the schemas of the kinds are made of: patterns, limits and rules that stand in attributes beside the fields.
//!
//! An API server checks with them what `validate()` checks here; `validate()` knows more, since some rules cannot be
//! said in a schema.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use crate::{DurationText, Quantity};

/// The greatest number of 32 bits.
pub(crate) const U32: i64 = u32::MAX as i64;
/// A DNS name in any case.
pub(crate) const NAME: &str =
    r"^[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?(\.[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?)*$";
/// A DNS name that may end with a dot.
pub(crate) const NAME_WITH_DOT: &str =
    r"^[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?(\.[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?)*\.?$";
/// What IPv4 and IPv6 addresses are written with; whether it is one is found out by whoever uses it.
pub(crate) const ADDRESS: &str = r"^([0-9]{1,3}\.){3}[0-9]{1,3}$|^[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*$";
/// A name of a header or cookie (RFC 9110, section 5.6.2).
pub(crate) const TOKEN: &str = r"^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$";
/// A duration (GEP-2257).
const DURATION: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";
/// A quantity of bytes.
const QUANTITY: &str = r"^[0-9]+(\.[0-9]+)?(k|K|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$";
/// Versions of TLS.
pub(crate) const TLS_VERSIONS: [&str; 5] = ["Auto", "1.0", "1.1", "1.2", "1.3"];

/// Rules in CEL, each with what it says when it is broken.
pub(crate) fn rules(rules: &[(&str, &str)]) -> Value {
    rules.iter().map(|(rule, message)| json!({"rule": rule, "message": message})).collect()
}

/// A block that is kept as it was written.
pub(crate) fn opaque(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// Blocks that are kept as they were written.
pub(crate) fn opaques(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "items": opaque(generator)})
}

/// [`crate::Trigger`]; its crate knows no schemas.
pub(crate) fn triggers(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "items": {"type": "string", "enum": TRIGGERS}})
}

/// [`crate::DnsLookupFamily`]; its crate knows no schemas.
pub(crate) fn lookup_family(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": LOOKUP_FAMILIES})
}

const TRIGGERS: [&str; 13] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

const LOOKUP_FAMILIES: [&str; 5] = ["IPv4", "IPv6", "IPv4Preferred", "IPv6Preferred", "IPv4AndIPv6"];

impl JsonSchema for DurationText {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": DURATION})
    }
}

impl JsonSchema for Quantity {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Quantity".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "pattern": QUANTITY,
            "x-kubernetes-int-or-string": true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DnsLookupFamily, Trigger};

    #[test]
    fn the_lists_of_names_are_those_of_the_types() {
        for name in TRIGGERS {
            serde_json::from_value::<Trigger>(name.into()).unwrap();
        }
        for name in LOOKUP_FAMILIES {
            serde_json::from_value::<DnsLookupFamily>(name.into()).unwrap();
        }
        // What serde would have taken stands in its error.
        let known = serde_json::from_value::<Trigger>("none".into()).unwrap_err().to_string();
        assert_eq!(known.matches('`').count() / 2 - 1, TRIGGERS.len(), "{known}");
        let known = serde_json::from_value::<DnsLookupFamily>("none".into()).unwrap_err().to_string();
        assert_eq!(known.matches('`').count() / 2 - 1, LOOKUP_FAMILIES.len(), "{known}");
    }
}
