//! Regular expressions, each compiled once.

use std::sync::{Arc, Weak};

use ahash::AHashMap;
use regex::bytes::{Regex, RegexBuilder};

/// A compiled expression may take so many bytes; a larger one is refused.
const SIZE_LIMIT: usize = 1 << 20;

/// The expressions that are in use, by their text. They are shared, because every clone of one has scratch space of its
/// own.
#[derive(Debug, Clone, Default)]
pub(crate) struct Patterns(AHashMap<Arc<str>, Weak<Regex>>);

impl Patterns {
    /// An expression that must fit the whole text. The error is one line.
    pub(crate) fn compile(&mut self, pattern: &str) -> Result<Arc<Regex>, String> {
        if let Some(known) = self.0.get(pattern).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let compiled = Arc::new(compile(pattern)?);
        self.0.insert(pattern.into(), Arc::downgrade(&compiled));
        Ok(compiled)
    }

    /// Those that are still in use.
    pub(crate) fn in_use(&self) -> Self {
        let in_use = self.0.iter().filter(|(_, regex)| regex.strong_count() > 0);
        Self(in_use.map(|(pattern, regex)| (pattern.clone(), regex.clone())).collect())
    }
}

fn compile(pattern: &str) -> Result<Regex, String> {
    let build = |text: &str| RegexBuilder::new(text).size_limit(SIZE_LIMIT).build();
    let anchored = format!(r"\A(?:{pattern})\z");
    // Alone first: `a)|(b` must not become valid by what is put around it.
    build(pattern).and_then(|_| build(&anchored)).map_err(|error| {
        let text = error.to_string();
        let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
        format!("the regular expression {pattern:?} does not compile: {reason}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_fits_the_whole_text_only() {
        let regex = Patterns::default().compile("/a|/b+").unwrap();
        assert!(regex.is_match(b"/a") && regex.is_match(b"/bb"));
        assert!(!regex.is_match(b"/ax") && !regex.is_match(b"x/b") && !regex.is_match(b"/a\n"));
    }

    #[test]
    fn an_expression_is_compiled_once_while_it_is_in_use() {
        let mut patterns = Patterns::default();
        let first = patterns.compile("/a+").unwrap();
        let mut later = patterns.in_use();
        assert!(Arc::ptr_eq(&later.compile("/a+").unwrap(), &first));
        drop(first);
        assert!(later.in_use().0.is_empty());
    }

    #[test]
    fn an_expression_that_is_wrong_or_huge_is_refused_in_one_line() {
        let mut patterns = Patterns::default();
        for wrong in ["(", "a)|(b", "[", r"\1", "(?=a)", "a{1000}{1000}"] {
            let reason = patterns.compile(wrong).unwrap_err();
            assert!(reason.contains(&format!("{wrong:?}")) && !reason.contains('\n'), "{reason}");
        }
    }
}
