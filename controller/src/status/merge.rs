//! Our part of a status over the status that stands there.
//!
//! Inputs: what should stand there, what does, and the time. Outputs: the fields that have to be written, or nothing
//! where all stands as it should. A condition keeps its time as long as its status stays the same.

use serde_json::{Map, Value, json};

use crate::CONTROLLER_NAME;
use crate::status::condition::{Condition, OWN_ACCEPTED, OWN_WARNING};
use crate::status::gateway_tls::{INSECURE_CLIENTS, OVERLAPPING};
use crate::status::{Desired, Entry, ListenerReport, Report};
use crate::watch::{GATEWAY_API, Kind};

/// The condition types that are ours on objects that others write to as well.
const OWN_TYPES: [&str; 9] = [
    "Accepted",
    "Programmed",
    "ResolvedRefs",
    "Conflicted",
    "PartiallyInvalid",
    INSECURE_CLIENTS,
    OVERLAPPING,
    OWN_WARNING,
    OWN_ACCEPTED,
];

/// The fields of the status to write, if it is to be changed. `now`: seconds since 1970.
pub(crate) fn merge(desired: &Desired, present: Option<&Value>, now: i64) -> Option<Value> {
    let merger = Merger { generation: desired.generation, now };
    let field = |name: &str| present.and_then(|present| present.get(name));
    let fields: Vec<(&str, Value)> = match &desired.report {
        Report::Class { conditions, features } => vec![
            ("conditions", merger.conditions(conditions, field("conditions"), &OWN_TYPES)),
            ("supportedFeatures", features.iter().map(|name| json!({ "name": name })).collect()),
        ],
        Report::Gateway { conditions, addresses, listeners, attached_sets } => vec![
            (
                "addresses",
                addresses.iter().map(|one| json!({ "type": one.kind, "value": one.value })).collect(),
            ),
            ("conditions", merger.conditions(conditions, field("conditions"), &OWN_TYPES)),
            ("listeners", merger.listeners(listeners, field("listeners"))),
            ("attachedListenerSets", json!(attached_sets)),
        ],
        Report::ListenerSet { conditions, listeners } => vec![
            ("conditions", merger.conditions(conditions, field("conditions"), &OWN_TYPES)),
            ("listeners", merger.listeners(listeners, field("listeners"))),
        ],
        Report::Parents(entries) => {
            vec![("parents", merger.entries(entries, field("parents"), "parentRef", MOST_PARENTS))]
        }
        Report::Ancestors(entries) => {
            vec![("ancestors", merger.entries(entries, field("ancestors"), "ancestorRef", MOST_ANCESTORS))]
        }
        Report::Backend(conditions) => {
            // Another manager's condition is not ours, however it is called.
            let types: Vec<_> = conditions
                .iter()
                .map(|condition| condition.kind)
                .chain([OWN_WARNING, OWN_ACCEPTED])
                .collect();
            vec![("conditions", merger.conditions(conditions, field("conditions"), &types))]
        }
    };
    let empty = Value::Array(Vec::new());
    let none = json!(0);
    let same = fields.iter().all(|(name, value)| match field(name) {
        Some(present) => present == value,
        // What is left out says that there is none.
        None => *value == empty || *value == none,
    });
    if same {
        return None;
    }
    Some(Value::Object(
        fields
            .into_iter()
            .filter(|(name, value)| *value != none || field(name).is_some())
            .map(|(name, value)| (name.to_owned(), value))
            .collect::<Map<_, _>>(),
    ))
}

/// The most entries that the API allows, those of all controllers together.
const MOST_PARENTS: usize = 32;
const MOST_ANCESTORS: usize = 16;

struct Merger {
    generation: i64,
    now: i64,
}

impl Merger {
    /// Conditions over those that stand there: of our types none but those that are given, of others all.
    fn conditions(&self, conditions: &[Condition], present: Option<&Value>, own: &[&str]) -> Value {
        let present = items(present);
        let kind = |condition: &Value| condition.get("type").and_then(Value::as_str).unwrap_or("").to_owned();
        let wanted = |kind: &str| conditions.iter().find(|condition| condition.kind == kind);
        let mut merged = Vec::new();
        for known in present {
            match wanted(&kind(known)) {
                Some(condition) => merged.push(self.condition(condition, Some(known))),
                None if own.contains(&kind(known).as_str()) => {}
                None => merged.push(known.clone()),
            }
        }
        for condition in conditions {
            if !present.iter().any(|known| kind(known) == condition.kind) {
                merged.push(self.condition(condition, None));
            }
        }
        Value::Array(merged)
    }

    fn condition(&self, condition: &Condition, present: Option<&Value>) -> Value {
        let status = if condition.holds { "True" } else { "False" };
        let same = present.filter(|present| present.get("status").and_then(Value::as_str) == Some(status));
        let since = same.and_then(|present| present.get("lastTransitionTime")).cloned();
        json!({
            "type": condition.kind,
            "status": status,
            "observedGeneration": self.generation,
            "lastTransitionTime": since.unwrap_or_else(|| Value::String(time(self.now))),
            "reason": condition.reason,
            "message": condition.message,
        })
    }

    fn listeners(&self, listeners: &[ListenerReport], present: Option<&Value>) -> Value {
        let named = |name: &str| {
            items(present).iter().find(|known| known.get("name").and_then(Value::as_str) == Some(name))
        };
        let kinds = |listener: &ListenerReport| -> Value {
            let name = |kind: &Kind| json!({ "group": GATEWAY_API, "kind": kind.info().name });
            listener.kinds.iter().map(name).collect()
        };
        listeners
            .iter()
            .map(|listener| {
                let known = named(&listener.name).and_then(|known| known.get("conditions"));
                json!({
                    "name": listener.name,
                    "attachedRoutes": listener.attached_routes,
                    "supportedKinds": kinds(listener),
                    "conditions": self.conditions(&listener.conditions, known, &OWN_TYPES),
                })
            })
            .collect()
    }

    /// Our entries over those that stand there: others' stay, and those of ours that are not given go. For new ones
    /// there is room up to `most`; with one more all would be refused.
    fn entries(&self, entries: &[Entry], present: Option<&Value>, reference: &str, most: usize) -> Value {
        let present = items(present);
        let is_own =
            |known: &Value| known.get("controllerName").and_then(Value::as_str) == Some(CONTROLLER_NAME);
        let build = |entry: &Entry, known: Option<&Value>| {
            // The whole entry is ours, so no condition in it is another's.
            let own: Vec<_> = items(known.and_then(|known| known.get("conditions")))
                .iter()
                .filter_map(|condition| condition.get("type")?.as_str())
                .collect();
            let conditions = known.and_then(|known| known.get("conditions"));
            json!({
                reference: entry.reference,
                "controllerName": CONTROLLER_NAME,
                "conditions": self.conditions(&entry.conditions, conditions, &own),
            })
        };
        let mut merged = Vec::new();
        let mut placed = vec![false; entries.len()];
        for known in present {
            if !is_own(known) {
                merged.push(known.clone());
                continue;
            }
            let found = entries.iter().position(|entry| Some(&entry.reference) == known.get(reference));
            if let Some(index) = found.filter(|index| !placed[*index]) {
                placed[index] = true;
                merged.push(build(&entries[index], Some(known)));
            }
        }
        let new = entries.iter().zip(placed).filter(|(_, placed)| !placed);
        let room = most.saturating_sub(merged.len());
        merged.extend(new.take(room).map(|(entry, _)| build(entry, None)));
        Value::Array(merged)
    }
}

fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Key;
    use crate::watch::ObjectId;

    fn desired(kind: Kind, report: Report) -> Desired {
        Desired { id: ObjectId { kind, key: Key::new("default", "a") }, generation: 1, report }
    }

    #[test]
    fn entries_of_ours_take_no_more_room_than_others_leave() {
        let entry =
            |name: usize| Entry { reference: json!({ "name": name.to_string() }), conditions: vec![] };
        let foreign: Vec<_> =
            (0..14).map(|n| json!({"ancestorRef": {"name": n}, "controllerName": "x/y"})).collect();
        let policy = desired(Kind::BackendTrafficPolicy, Report::Ancestors((0..5).map(entry).collect()));
        let status = merge(&policy, Some(&json!({ "ancestors": foreign })), 0).unwrap();
        let ancestors = status["ancestors"].as_array().unwrap();
        assert_eq!(ancestors.len(), 16);
        assert_eq!(ancestors[..14], foreign[..]);
        assert_eq!(merge(&policy, Some(&status), 1), None);
    }

    #[test]
    fn a_condition_under_our_own_name_goes_where_the_common_one_is_written() {
        let accepted = Condition::new("Accepted", true, "Accepted", "The Backend is accepted.");
        let present = json!({"conditions": [{"type": OWN_ACCEPTED, "status": "False"}, {"type": "Other"}]});
        let status =
            merge(&desired(Kind::Backend, Report::Backend(vec![accepted])), Some(&present), 0).unwrap();
        let kinds: Vec<_> = status["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["type"].as_str().unwrap())
            .collect();
        assert_eq!(kinds, ["Other", "Accepted"]);
    }
}
