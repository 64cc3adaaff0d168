//! YAML as the store writes and reads it.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_yaml::{Budget, Options};

use super::MAX_FILE_BYTES;

/// Writes a value as YAML that ends with a newline.
pub(crate) fn to_text<T: Serialize>(value: &T) -> Result<String, String> {
    let mut text = serde_yaml::to_string(value).map_err(|error| error.to_string())?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// Reads an object from the text of its file.
///
/// # Errors
/// One sentence that says what is wrong with the text.
pub fn from_text<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_yaml::from_str_with_options(text, options()).map_err(|error| error.to_string())
}

/// Limits of the parser. The size of the input is bounded already, and no file of ours has anchors or aliases;
/// so nothing can grow beyond the input, and a large set of endpoints must not be refused.
fn options() -> Options {
    let limit = usize::try_from(MAX_FILE_BYTES).unwrap_or(usize::MAX);
    let mut budget = Budget::default();
    budget.max_events = limit;
    budget.max_nodes = limit;
    budget.max_total_scalar_bytes = limit;
    budget.max_aliases = 0;
    budget.max_anchors = 0;
    // A name has up to 1,024 bytes, and is a key in an index; escapes make it up to six times as long.
    budget.simple_key_max_lookahead = 8 * 1024;
    let mut options = Options::default();
    options.budget = Some(budget);
    options.with_snippet = false;
    options
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn round_trip(text: &str) {
        let list = vec![text.to_owned(), text.to_owned()];
        let yaml = to_text(&list).unwrap();
        assert_eq!(from_text::<Vec<String>>(&yaml).unwrap(), list, "{yaml}");
        let map: BTreeMap<String, String> = [(text.to_owned(), text.to_owned())].into();
        let yaml = to_text(&map).unwrap();
        assert_eq!(from_text::<BTreeMap<String, String>>(&yaml).unwrap(), map, "{yaml}");
    }

    #[test]
    #[rustfmt::skip]
    fn strings_that_look_like_something_else_stay_strings() {
        for text in [
            "", " ", "~", "null", "Null", "true", "True", "yes", "no", "on", "off", "y", "n", "1", "1.0", "-1", "+1",
            "0x10", "0o7", "017", "1e3", "1_000", ".5", ".inf", "-.inf", ".nan", "2001-01-01", "12:30:45", "a: b", "a:",
            ":a", "- a", "-", "--- a", "---", "...", "? a", "?", "# a", "a # b", "a#b", "&a", "*a", "!a", "!!str a",
            "%a", "@a", "`a", "[", "]", "{", "}", ",", "[a]", "{a}", "'", "\"", "'a'", "\"a\"", "a'b\"c", "\\", "\\n",
            "a\\b", "<<", "=", "|", ">", "|-", ">+", " a", "a ", "\ta", "a\t", "a\tb", "a\nb", "a\n", "\na", "\n",
            "a\n\n", "a\r\nb", "\r", "a\n b\n", " a\nb", "\u{85}", "\u{2028}", "\u{feff}", "\u{0}", "\u{7f}", "\u{1b}[0m",
            "é", "日本", "🦀", "e\u{301}", "${HOME}", "$a", "12345678901234567890123456789012",
            "1e345678901234567890123456789012", "0e000000000000000000000000000000",
        ] {
            round_trip(text);
        }
        round_trip(&"long word ".repeat(60));
        round_trip(&"x".repeat(1024));
        round_trip(&"é".repeat(512));
        round_trip(&format!("{} ", "x y".repeat(300)));
    }

    proptest! {
        #[test]
        fn every_string_survives_being_written_and_read(text in any::<String>()) {
            round_trip(&text);
        }

        #[test]
        fn every_string_of_yaml_s_own_signs_survives(text in "[-:?#&*!|>'\"%@`\\[\\]{},~ \n\r\ta01.e=<]{0,12}") {
            round_trip(&text);
        }
    }
}
