//! Who wrote what: the API server's audit log, which the project's own test cluster keeps.

use anyhow::{Context, Result};
use serde_json::Value;

const LOG: &str = "/run/understudy-testcluster/log/audit.log";

/// A write to the API that the API server carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Write {
    /// Who: a user or a service account.
    pub(crate) user: String,
    /// From which pod, where the user is a service account.
    pub(crate) pod: String,
    /// Which kind, in the plural.
    pub(crate) resource: String,
    /// `status`, or empty.
    pub(crate) subresource: String,
    /// The object.
    pub(crate) name: String,
}

/// All writes so far.
pub(crate) fn writes() -> Result<Vec<Write>> {
    let text = std::fs::read_to_string(LOG).context("reading the audit log")?;
    Ok(text.lines().filter_map(parse).collect())
}

/// How many of them changed the status of objects of a kind, by Understudy.
pub(crate) fn status_writes<'a>(writes: &'a [Write], resource: &'a str) -> impl Iterator<Item = &'a Write> {
    writes.iter().filter(move |write| {
        write.resource == resource && write.subresource == "status" && write.user.contains("understudy")
    })
}

/// A line of the log; nothing for a write that was refused, and for a line that is still being written.
fn parse(line: &str) -> Option<Write> {
    let event: Value = serde_json::from_str(line).ok()?;
    if event["responseStatus"]["code"].as_u64()? >= 300 {
        return None;
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let object = &event["objectRef"];
    Some(Write {
        user: text(&event["user"]["username"]),
        pod: text(&event["user"]["extra"]["authentication.kubernetes.io/pod-name"][0]),
        resource: text(&object["resource"]),
        subresource: text(&object["subresource"]),
        name: text(&object["name"]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_was_carried_out_is_read_from_its_line() {
        let line = r#"{"user":{"username":"system:serviceaccount:understudy-system:understudy",
            "extra":{"authentication.kubernetes.io/pod-name":["p"]}},"responseStatus":{"code":200},
            "objectRef":{"resource":"gateways","subresource":"status","name":"eg"}}"#;
        let write = parse(line).unwrap();
        assert_eq!((write.pod.as_str(), write.name.as_str()), ("p", "eg"));
        assert_eq!(status_writes(std::slice::from_ref(&write), "gateways").count(), 1);
        assert_eq!(status_writes(&[write], "httproutes").count(), 0);
        assert_eq!(parse(&line.replace("200", "409")), None);
        assert_eq!(parse("{\"half"), None);
    }
}
