//! About files and documents.

use crate::diagnostics::{Diagnostic, Place, Reason};

pub(crate) fn unreadable(place: &Place, error: &std::io::Error) -> Diagnostic {
    place.error(
        Reason::Unreadable,
        format!("it cannot be read: {error}"),
        "Check the path and its permissions.",
    )
}

pub(crate) fn no_manifests(place: &Place) -> Diagnostic {
    place.warning(
        Reason::Unreadable,
        "the folder holds no manifest",
        "Put files that end in .yaml, .yml or .json there.",
    )
}

pub(crate) fn too_many_files(place: &Place, limit: usize) -> Diagnostic {
    place.error(
        Reason::Unreadable,
        format!("there are more than {limit} files, and the rest is not read"),
        "Join them: one file may hold many objects.",
    )
}

pub(crate) fn more_findings(place: &Place, limit: usize) -> Diagnostic {
    place.error(
        Reason::Malformed,
        format!("more than {limit} things are wrong here, and the rest is not listed"),
        "Correct these first.",
    )
}

pub(crate) fn syntax(place: &Place, message: impl Into<String>, remedy: &str) -> Diagnostic {
    place.error(Reason::Syntax, message, remedy)
}

pub(crate) fn malformed(place: &Place, message: impl Into<String>, remedy: impl Into<String>) -> Diagnostic {
    place.error(Reason::Malformed, message, remedy)
}

pub(crate) fn unknown_field(place: &Place, field: &str, near: Option<&str>, known: &[&str]) -> Diagnostic {
    let remedy = match near {
        Some(near) => format!("Did you mean {near}?"),
        None if known.len() <= 16 => format!("Known are {}.", known.join(", ")),
        None => "Remove it: a cluster would drop it.".to_owned(),
    };
    place.error(
        Reason::UnknownField,
        format!("there is no field {:?} here", crate::watch::shortened(field)),
        remedy,
    )
}

pub(crate) fn duplicate_key(place: &Place, key: &str, first: u32) -> Diagnostic {
    place.error(
        Reason::Duplicate,
        format!("{key:?} stands twice in one mapping, first in line {first}"),
        "Remove one of the two; until then the first one counts.",
    )
}

pub(crate) fn duplicate_object(place: &Place, first: &str) -> Diagnostic {
    place.error(
        Reason::Duplicate,
        format!("the object stands twice, first in {first}"),
        "Remove or rename one of the two; until then the first one counts.",
    )
}

pub(crate) fn unsupported_version(place: &Place, kind: &str, found: &str, right: &str) -> Diagnostic {
    place.error(
        Reason::UnsupportedVersion,
        format!("{kind} is not read as {found:?}"),
        format!("Use apiVersion: {right}."),
    )
}

pub(crate) fn misspelt_kind(place: &Place, kind: &str, near: &str) -> Diagnostic {
    place.error(Reason::InvalidKind, format!("there is no kind {kind:?}"), format!("Did you mean {near}?"))
}

pub(crate) fn kind_not_acting(place: &Place, kind: &str) -> Diagnostic {
    place.warning(Reason::NotActing, format!("objects of kind {kind} do not act yet"), "")
}

pub(crate) fn last_good_file(place: &Place) -> Diagnostic {
    place.warning(
        Reason::LastGoodKept,
        "the file cannot be used as it is now, so the objects that it had before stay",
        "Correct it; what was served goes on until then.",
    )
}

pub(crate) fn last_good_object(place: &Place) -> Diagnostic {
    place.warning(
        Reason::LastGoodKept,
        "the object cannot be used as it is now, so its last good version stays",
        "Correct it; what was served goes on until then.",
    )
}

pub(crate) fn unreadable_settings(place: &Place, problem: &str, backend_api: bool) -> Diagnostic {
    place.error(
        Reason::Malformed,
        format!(
            "the settings cannot be read ({problem}), so Backends stay switched {}",
            if backend_api { "on" } else { "off" }
        ),
        "Write extensionApis: {enableBackend: true}, or false.",
    )
}

pub(crate) fn unknown_setting(place: &Place, key: &str) -> Diagnostic {
    place.warning(
        Reason::UnknownField,
        format!("there is no setting {:?}", crate::watch::shortened(key)),
        "Known is extensionApis.enableBackend.",
    )
}
