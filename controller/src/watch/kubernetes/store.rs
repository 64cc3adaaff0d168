//! Events to the cluster's state, with a memory: what was good stays until something good replaces it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::cluster::{Cluster, Key, Refused};
use crate::diagnostics::{Diagnostic, Place, Reason, Severity, reasons};
use crate::graph::referenced_contents;
use crate::watch::kubernetes::json::{Fingerprint, RawObject};
use crate::watch::kubernetes::narrow::{kept_tree, narrow};
use crate::watch::kubernetes::switch::{SWITCH_NAME, Switch};
use crate::watch::kubernetes::target::Target;
use crate::watch::kubernetes::{Content, Event};
use crate::watch::{Found, Kind, KnownObject, Node, NodeValue, ObjectId, ObjectSource, read_object};

/// What an event changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Change {
    /// Nothing that anybody looks at.
    Nothing,
    /// Statuses only: what is served is the same.
    Status,
    /// Something that may change what is served.
    Meaning,
}

/// Everything that is known of the cluster.
#[derive(Debug)]
pub(crate) struct Store {
    cluster: Arc<Cluster>,
    objects: BTreeMap<ObjectId, Entry>,
    /// What was said while reading, of objects of which anything was said.
    reading: BTreeMap<ObjectId, Vec<Diagnostic>>,
    /// The kinds that were not listed yet.
    unlisted: BTreeSet<Kind>,
    /// Those of them that we may not list, and that nothing waits for.
    forbidden: BTreeSet<Kind>,
    /// The kinds of which a list has begun and has not ended.
    listing: BTreeSet<Kind>,
    /// The Secrets and ConfigMaps that there are.
    contents: BTreeMap<ObjectId, Held>,
    /// Those of which the content is needed.
    wanted: BTreeSet<ObjectId>,
    /// Whether `wanted` may be out of date.
    references_changed: bool,
    /// An empty tree.
    nothing: Arc<Node>,
    switch: Switch,
    /// The ConfigMap of the switch.
    switch_id: ObjectId,
}

#[derive(Debug)]
struct Entry {
    fingerprint: Fingerprint,
    /// The newest version that broke no rule.
    good: Option<KnownObject>,
}

/// What is known of the content of an object.
#[derive(Debug, Default)]
struct Held {
    /// The version that the API server has.
    version: String,
    /// The version at the last question.
    asked: Option<String>,
    /// The version that was read.
    read: Option<String>,
    /// Whether something waits for an answer.
    is_awaited: bool,
    /// Whether the last answer was that it is not given.
    is_refused: bool,
}

impl Store {
    /// An empty store. `namespace` is that of the installation.
    pub(crate) fn new(namespace: &str) -> Self {
        let switch_id = ObjectId { kind: Kind::ConfigMap, key: Key::new(namespace, SWITCH_NAME) };
        Self {
            cluster: Arc::default(),
            objects: BTreeMap::new(),
            reading: BTreeMap::new(),
            unlisted: Kind::all().collect(),
            forbidden: BTreeSet::new(),
            listing: BTreeSet::new(),
            contents: BTreeMap::new(),
            wanted: BTreeSet::new(),
            references_changed: true,
            nothing: Arc::new(Node { line: 0, value: NodeValue::Null }),
            switch: Switch::default(),
            switch_id,
        }
    }

    pub(crate) fn cluster(&self) -> Arc<Cluster> {
        self.cluster.clone()
    }

    /// Whether Backends are served.
    pub(crate) fn backend_api(&self) -> bool {
        self.switch.backend_api
    }

    /// What was said while reading.
    pub(crate) fn diagnostics(&self) -> Vec<Diagnostic> {
        self.switch.diagnostics.iter().chain(self.reading.values().flatten()).cloned().collect()
    }

    /// The kinds that were not listed yet, and are waited for.
    pub(crate) fn unlisted(&self) -> impl Iterator<Item = Kind> {
        self.unlisted.difference(&self.forbidden).copied()
    }

    /// Whether something that is needed was never read, and may come yet.
    pub(crate) fn is_waiting(&self) -> bool {
        self.wanted
            .iter()
            .filter_map(|id| self.contents.get(id))
            .any(|held| held.is_awaited && held.read.is_none())
    }

    /// Whether a list is under way: of its kind, some objects are known as they were and others as they are.
    pub(crate) fn is_listing(&self) -> bool {
        !self.listing.is_empty()
    }

    /// Gives up waiting: whatever is still missing changes things when it comes. A list that broke is waited for once.
    pub(crate) fn stop_waiting(&mut self) {
        self.listing.clear();
        for id in &self.wanted {
            if let Some(held) = self.contents.get_mut(id) {
                held.is_awaited = false;
            }
        }
    }

    /// Takes an event.
    pub(crate) fn take(&mut self, event: Event) -> Change {
        match event {
            Event::Listing(kind) => {
                // Lists of metadata change nothing that is served.
                if !Target::built_in(kind).is_some_and(Target::is_metadata_only) {
                    self.listing.insert(kind);
                }
                Change::Nothing
            }
            Event::Absent(kind) => self.take_list(kind, &BTreeSet::new()),
            Event::Forbidden(kind) => self.go_without(kind),
            Event::Listed(kind, keys) => self.take_list(kind, &keys),
            Event::Applied(kind, object) => match object.key(kind) {
                Some(key) => self.apply(ObjectId { kind, key }, object),
                None => {
                    log::warn!("the API server sent a {kind} without a name");
                    Change::Nothing
                }
            },
            Event::Deleted(kind, object) => {
                object.key(kind).map_or(Change::Nothing, |key| self.remove(&ObjectId { kind, key }))
            }
            Event::Content(id, content) => self.take_content(id, content),
        }
    }

    /// The objects whose content must be read now.
    pub(crate) fn take_questions(&mut self) -> Vec<ObjectId> {
        if self.references_changed {
            self.references_changed = false;
            let mut wanted = referenced_contents(&self.cluster);
            wanted.insert(self.switch_id.clone());
            let before = std::mem::replace(&mut self.wanted, wanted);
            for id in before.difference(&self.wanted.clone()) {
                self.forget(id);
                if let Some(held) = self.contents.get_mut(id) {
                    *held = Held { version: std::mem::take(&mut held.version), ..Held::default() };
                }
            }
        }
        let mut questions = Vec::new();
        for id in &self.wanted {
            let Some(held) = self.contents.get_mut(id) else { continue };
            let version = Some(&held.version);
            if version != held.asked.as_ref() && version != held.read.as_ref() {
                held.asked = Some(held.version.clone());
                held.is_awaited = true;
                held.is_refused = false;
                questions.push(id.clone());
            }
        }
        questions
    }

    /// The objects whose content is needed and was refused: rights that are given later change no object. Nothing waits
    /// for another answer.
    pub(crate) fn refused_contents(&self) -> Vec<ObjectId> {
        let is_refused = |id: &&ObjectId| self.contents.get(*id).is_some_and(|held| held.is_refused);
        self.wanted.iter().filter(is_refused).cloned().collect()
    }

    /// Stops waiting for a kind that the ClusterRole of an older installation does not name: what that one served must not
    /// wait for it. What was known of a kind stays.
    fn go_without(&mut self, kind: Kind) -> Change {
        if !kind.is_dispensable() || !self.unlisted.contains(&kind) || !self.forbidden.insert(kind) {
            return Change::Nothing;
        }
        log::warn!(
            "{kind}s do not act, because the API server forbids to list them: install this version's ClusterRole"
        );
        Change::Meaning
    }

    fn take_list(&mut self, kind: Kind, listed: &BTreeSet<Key>) -> Change {
        self.listing.remove(&kind);
        self.forbidden.remove(&kind);
        let mut change = if self.unlisted.remove(&kind) { Change::Meaning } else { Change::Nothing };
        let is_gone = |id: &&ObjectId| id.kind == kind && !listed.contains(&id.key);
        let gone: BTreeSet<_> =
            self.objects.keys().chain(self.contents.keys()).filter(is_gone).cloned().collect();
        for id in &gone {
            change = change.max(self.remove(id));
        }
        change
    }

    fn apply(&mut self, id: ObjectId, object: RawObject) -> Change {
        if Target::built_in(id.kind).is_some_and(Target::is_metadata_only) {
            object.version().clone_into(&mut self.contents.entry(id).or_default().version);
            return Change::Nothing;
        }
        self.read(id, object)
    }

    fn remove(&mut self, id: &ObjectId) -> Change {
        self.contents.remove(id);
        if *id == self.switch_id {
            let changed = self.switch.take(&id.key.namespace, None);
            return if changed { Change::Meaning } else { Change::Nothing };
        }
        if self.forget(id) { Change::Meaning } else { Change::Nothing }
    }

    /// Removes an object; says whether it was known.
    fn forget(&mut self, id: &ObjectId) -> bool {
        self.reading.remove(id);
        let known = self.objects.remove(id).is_some();
        if known {
            self.note_reference(id.kind);
            Arc::make_mut(&mut self.cluster).remove(id);
        }
        known
    }

    fn take_content(&mut self, id: ObjectId, content: Content) -> Change {
        if !self.wanted.contains(&id) {
            return Change::Nothing;
        }
        let Some(held) = self.contents.get_mut(&id) else { return Change::Nothing };
        let was_awaited = std::mem::take(&mut held.is_awaited);
        held.is_refused = matches!(content, Content::Refused(_));
        match content {
            Content::Found(object) => {
                held.read = Some(object.version().to_owned());
                if id == self.switch_id {
                    let changed = self.switch.take(&id.key.namespace, Some(&object));
                    return if changed { Change::Meaning } else { Change::Nothing };
                }
                self.read(id, object)
            }
            Content::Refused(reason) => {
                log::debug!("{id}: {reason}");
                // Whoever waited for it goes on without.
                if was_awaited { Change::Meaning } else { Change::Nothing }
            }
        }
    }

    /// Reads an object, unless it means what it meant before.
    fn read(&mut self, id: ObjectId, mut object: RawObject) -> Change {
        object.name_kind(id.kind);
        narrow(&mut object, id.kind);
        let fingerprint = object.fingerprint();
        let known = self.objects.get_mut(&id);
        if known.as_ref().is_some_and(|known| known.fingerprint == fingerprint) {
            return Change::Nothing;
        }
        let tree = Arc::new(kept_tree(&object));
        // What a Node says of itself is all in its status.
        let is_meaning = id.kind == Kind::Node;
        if let Some(known) =
            known.filter(|known| !is_meaning && known.fingerprint.means_the_same(fingerprint))
        {
            known.fingerprint = fingerprint;
            Arc::make_mut(&mut self.cluster).set_tree(&id, tree);
            return Change::Status;
        }
        let (found, diagnostics) = read_object(id, object.0, &ObjectSource::default());
        let Found { id, remains, object, .. } = found;
        self.note_reference(id.kind);
        let mut diagnostics: Vec<_> =
            diagnostics.into_iter().filter_map(|said| as_live(said, id.kind)).collect();
        let before = self.objects.remove(&id).and_then(|entry| entry.good);
        let good = object.as_ref().filter(|object| object.is_valid()).cloned().or(before);
        let served = if object.as_ref().is_some_and(KnownObject::is_valid) {
            object
        } else if good.is_some() {
            let place = Place::somewhere(None, 0).named(Some(&id.to_string()), "");
            diagnostics.push(reasons::last_good_object(&place));
            good.clone()
        } else {
            object
        };
        let cluster = Arc::make_mut(&mut self.cluster);
        cluster.remove(&id);
        match served {
            Some(mut served) => {
                // An older version that stays has the metadata and the status of the newest one.
                served.set_tree(tree);
                cluster.replace(served);
            }
            None => {
                let refused = Refused { location: id.to_string(), remains };
                Arc::make_mut(&mut cluster.refused).insert(id.clone(), refused);
            }
        }
        if diagnostics.is_empty() {
            self.reading.remove(&id);
        } else {
            self.reading.insert(id.clone(), diagnostics);
        }
        // Only what is served needs a tree.
        let good = good.map(|mut good| {
            good.set_tree(self.nothing.clone());
            good
        });
        self.objects.insert(id, Entry { fingerprint, good });
        Change::Meaning
    }

    fn note_reference(&mut self, kind: Kind) {
        self.references_changed |= matches!(
            kind,
            Kind::GatewayClass
                | Kind::Gateway
                | Kind::ListenerSet
                | Kind::Backend
                | Kind::BackendTlsPolicy
                | Kind::ReferenceGrant
        );
    }
}

/// What is said of an object that an API server took: fields that our types do not know may be newer than they are.
fn as_live(mut said: Diagnostic, kind: Kind) -> Option<Diagnostic> {
    if said.reason == Reason::UnknownField {
        if Target::built_in(kind).is_some() {
            return None;
        }
        said.severity = Severity::Warning;
        "the field is not known here, so it does not act".clone_into(&mut said.message);
        said.remedy.clear();
    }
    Some(said)
}

#[cfg(test)]
mod tests;
