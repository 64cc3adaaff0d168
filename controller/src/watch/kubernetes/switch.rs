//! The ConfigMap by which whoever administers a cluster says what is served there.

use crate::diagnostics::{Diagnostic, Place, reasons};
use crate::watch::kubernetes::json::RawObject;
use crate::watch::yaml;
use crate::watch::{Node, NodeValue};

/// The name of the ConfigMap, in the namespace of the installation.
pub(crate) const SWITCH_NAME: &str = "understudy-config";
/// Its key with the settings.
const KEY: &str = "understudy.yaml";
/// Settings that are read. The first two say what the text is, as in other projects' files.
const KNOWN: [&str; 3] = ["apiVersion", "kind", "extensionApis"];

/// What the ConfigMap says, and the last thing that it said in a way that could be read.
#[derive(Debug, Default)]
pub(crate) struct Switch {
    /// Whether Backends are served.
    pub(crate) backend_api: bool,
    pub(crate) diagnostics: Vec<Diagnostic>,
}

impl Switch {
    /// Takes the ConfigMap as it is now; `None` if there is none. Says whether anything changed.
    pub(crate) fn take(&mut self, namespace: &str, map: Option<&RawObject>) -> bool {
        let mut diagnostics = Vec::new();
        let place = Place::somewhere(None, 0)
            .named(Some(&format!("ConfigMap {namespace}/{SWITCH_NAME}")), &format!("data.{KEY}"));
        let text = map.and_then(|map| map.0.child("data")?.text(KEY));
        let asked = match text.map(read) {
            None => Some(false),
            Some(Ok((asked, unknown))) => {
                diagnostics.extend(unknown.iter().map(|key| reasons::unknown_setting(&place, key)));
                Some(asked)
            }
            Some(Err(problem)) => {
                diagnostics.push(reasons::unreadable_settings(&place, &problem, self.backend_api));
                None
            }
        };
        let backend_api = asked.unwrap_or(self.backend_api);
        let changed = backend_api != self.backend_api || diagnostics != self.diagnostics;
        (self.backend_api, self.diagnostics) = (backend_api, diagnostics);
        changed
    }
}

/// Whether Backends are served, and the settings that are unknown.
fn read(text: &str) -> Result<(bool, Vec<String>), String> {
    let documents = yaml::parse(text).map_err(|error| format!("line {}: {}", error.line, error.message))?;
    let Some(document) = documents.first() else { return Ok((false, Vec::new())) };
    if let Some(twice) = document.duplicates.first() {
        return Err(format!("line {}: {:?} stands twice", twice.line, twice.key));
    }
    let settings = mapping(&document.root, "it")?;
    let mut unknown: Vec<_> =
        settings.iter().map(|(key, _)| *key).filter(|key| !KNOWN.contains(key)).map(str::to_owned).collect();
    let mut asked = false;
    if let Some(apis) = document.root.child("extensionApis") {
        for (key, value) in mapping(apis, "extensionApis")? {
            match (key, &value.value) {
                ("enableBackend", NodeValue::Bool(on)) => asked = *on,
                ("enableBackend", NodeValue::Null) => {}
                ("enableBackend", _) => {
                    return Err(format!(
                        "line {}: extensionApis.enableBackend is neither true nor false",
                        value.line
                    ));
                }
                _ => unknown.push(format!("extensionApis.{key}")),
            }
        }
    }
    Ok((asked, unknown))
}

fn mapping<'n>(node: &'n Node, what: &str) -> Result<Vec<(&'n str, &'n Node)>, String> {
    match &node.value {
        NodeValue::Null => Ok(Vec::new()),
        NodeValue::Map(entries) => {
            Ok(entries.iter().map(|entry| (entry.key.as_str(), &entry.node)).collect())
        }
        _ => Err(format!("line {}: {what} is no mapping", node.line)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostics::Reason;

    fn map(text: &str) -> RawObject {
        serde_json::from_value(serde_json::json!({"data": {"understudy.yaml": text}})).unwrap()
    }

    #[test]
    fn backends_are_off_until_the_config_map_says_otherwise_and_again_when_it_is_gone() {
        let mut switch = Switch::default();
        assert!(!switch.take("a", None) && !switch.backend_api);
        assert!(
            switch.take("a", Some(&map("extensionApis:\n  enableBackend: true\n"))) && switch.backend_api
        );
        assert!(!switch.take("a", Some(&map("apiVersion: v1\nextensionApis: {enableBackend: true}"))));
        for off in ["", "extensionApis:\n", "extensionApis: {}", "extensionApis: {enableBackend: false}"] {
            switch.backend_api = true;
            assert!(switch.take("a", Some(&map(off))) && !switch.backend_api, "{off}");
        }
        switch.backend_api = true;
        assert!(switch.take("a", None) && !switch.backend_api);
    }

    #[test]
    fn settings_that_cannot_be_read_keep_what_was_said_last_and_are_reported() {
        let mut switch = Switch::default();
        switch.take("a", Some(&map("extensionApis: {enableBackend: true}")));
        for wrong in ["a: [", "- 1", "extensionApis: true", "extensionApis: {enableBackend: maybe}"] {
            assert!(switch.take("a", Some(&map(wrong))), "{wrong}");
            assert!(switch.backend_api);
            assert_eq!(switch.diagnostics[0].reason, Reason::Malformed);
            assert!(switch.diagnostics[0].is_error());
        }
        assert!(switch.take("a", Some(&map("extensionApis: {enableBackend: false}"))));
        assert!(!switch.backend_api && switch.diagnostics.is_empty());
    }

    #[test]
    fn settings_that_are_unknown_are_named() {
        let mut switch = Switch::default();
        assert!(
            switch
                .take("a", Some(&map("provider: {}\nextensionApis: {enableBackend: true, enableAll: true}")))
        );
        let said: Vec<_> = switch.diagnostics.iter().map(ToString::to_string).collect();
        assert!(switch.backend_api && said.len() == 2, "{said:?}");
        assert!(
            said[0].contains("\"provider\"") && said[1].contains("\"extensionApis.enableAll\""),
            "{said:?}"
        );
    }
}
