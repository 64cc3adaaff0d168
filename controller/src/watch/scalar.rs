//! What a plain scalar means.

use crate::watch::node::Value;

/// Resolves a plain scalar by YAML 1.2's core schema. Decimal numbers with leading zeros stay texts: the two
/// versions of YAML read them differently.
pub(crate) fn resolve_plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    resolve_number(text).unwrap_or_else(|| Value::Text { text: text.to_owned(), plain: true })
}

fn resolve_number(text: &str) -> Option<Value> {
    let first = text.bytes().next()?;
    if !(first.is_ascii_digit() || matches!(first, b'+' | b'-' | b'.')) {
        return None;
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if let Some(hex) = text.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).ok().map(integer);
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return u64::from_str_radix(octal, 8).ok().map(integer);
    }
    if unsigned.bytes().all(|b| b.is_ascii_digit()) && !unsigned.is_empty() {
        if unsigned.len() > 1 && unsigned.starts_with('0') {
            return None;
        }
        let signed = text.strip_prefix('+').unwrap_or(text);
        return signed.parse().map(Value::Int).or_else(|_| signed.parse().map(Value::UInt)).ok();
    }
    let float = unsigned.bytes().any(|b| b.is_ascii_digit())
        && unsigned.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    if float { text.parse::<f64>().ok().filter(|number| number.is_finite()).map(Value::Float) } else { None }
}

fn integer(number: u64) -> Value {
    i64::try_from(number).map_or(Value::UInt(number), Value::Int)
}

/// The truth that a plain word has in YAML 1.1, which `kubectl` follows where a boolean is expected.
pub(crate) fn yaml_1_1_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "on" | "y" => Some(true),
        "no" | "off" | "n" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_follow_the_core_schema() {
        for (text, value) in [
            ("", Value::Null),
            ("~", Value::Null),
            ("true", Value::Bool(true)),
            ("80", Value::Int(80)),
            ("-1", Value::Int(-1)),
            ("+7", Value::Int(7)),
            ("0", Value::Int(0)),
            ("0x1F", Value::Int(31)),
            ("18446744073709551615", Value::UInt(u64::MAX)),
            ("1.5", Value::Float(1.5)),
            ("1e3", Value::Float(1000.0)),
        ] {
            assert_eq!(resolve_plain(text), value, "{text}");
        }
        for text in
            ["10s", "yes", "007", "1.2.3.4", "-", ".", "1-2", "::1", "99999999999999999999999999", ".inf"]
        {
            assert_eq!(resolve_plain(text), Value::Text { text: text.into(), plain: true }, "{text}");
        }
    }
}
