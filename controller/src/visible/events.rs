//! Writes Events: what repeats is counted in one, and what cannot be written waits in a bounded queue.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::visible::story::Told;
use crate::{CONTROLLER_NAME, Sidecar};

/// Events of one kind within this time are one, seen again.
const SERIES: Duration = Duration::from_secs(6 * 60);
/// Series that are remembered.
const MAX_SERIES: usize = 1024;
/// Events that wait for an API server that does not answer; older ones go first.
const MAX_WAITING: usize = 64;
/// A request that takes longer is given up.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// An object's name is cut to this in the name of its Event, which has a number behind it and at most 253 bytes.
const MAX_NAME: usize = 200;

/// Writes Events.
pub(crate) struct Recorder {
    client: kube::Client,
    instance: String,
    series: BTreeMap<SeriesKey, Series>,
    waiting: VecDeque<(Told, String)>,
    /// Distinguishes the names of Events of one moment.
    count: u64,
}

/// The object's UID, the reason, and what makes two Events the same.
type SeriesKey = (String, &'static str, String);

struct Series {
    name: String,
    count: i32,
    last: Instant,
}

impl Recorder {
    pub(crate) fn new(client: kube::Client, sidecar: &Sidecar) -> Self {
        Self {
            client,
            instance: sidecar.pod.clone(),
            series: BTreeMap::new(),
            waiting: VecDeque::new(),
            count: 0,
        }
    }

    /// Takes an Event to write, on the object with this UID.
    pub(crate) fn add(&mut self, told: Told, uid: String) {
        if self.waiting.len() == MAX_WAITING {
            self.waiting.pop_front();
        }
        self.waiting.push_back((told, uid));
    }

    /// Whether some Events are not written yet.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Writes what waits, until a request fails. Says whether all is written.
    pub(crate) async fn write(&mut self) -> bool {
        while let Some((told, uid)) = self.waiting.pop_front() {
            let written = timeout(REQUEST_LIMIT, self.write_one(&told, &uid)).await;
            match written {
                Ok(Ok(())) => {}
                // The object is gone with its namespace, or Events are not for us to write: no time heals that.
                Ok(Err(kube::Error::Api(error))) if (400..500).contains(&error.code) && error.code != 429 => {
                    log::warn!("an Event on {} is not taken: {}", told.subject, error.message);
                }
                failed => {
                    let why = failed.map_or_else(
                        |_| format!("no answer within {REQUEST_LIMIT:?}"),
                        |result| result.map_or_else(|error| error.to_string(), |()| String::new()),
                    );
                    log::debug!("an Event on {} is not written yet: {why}", told.subject);
                    self.waiting.push_front((told, uid));
                    return false;
                }
            }
        }
        true
    }

    async fn write_one(&mut self, told: &Told, uid: &str) -> Result<(), kube::Error> {
        let now = Instant::now();
        let events: Api<Event> = Api::namespaced(self.client.clone(), &told.subject.key().namespace);
        let key = (uid.to_owned(), told.reason, told.series.clone());
        self.series.retain(|_, series| now.duration_since(series.last) < SERIES);
        if let Some(series) = self.series.get_mut(&key).filter(|_| !told.stands_alone) {
            let patch = json!({"series": {"count": series.count + 1, "lastObservedTime": time(told.at_ms)}});
            let patched = events.patch(&series.name, &PatchParams::default(), &Patch::Merge(&patch)).await;
            match patched {
                Ok(_) => {
                    series.count += 1;
                    series.last = now;
                    return Ok(());
                }
                // API servers forget Events after a while: then it is a new one.
                Err(kube::Error::Api(error)) if error.code == 404 => {
                    self.series.remove(&key);
                }
                Err(error) => return Err(error),
            }
        }
        let name = self.name(told);
        events.create(&PostParams::default(), &self.event(told, uid, &name)).await?;
        if self.series.len() >= MAX_SERIES
            && let Some(oldest) = self.series.iter().min_by_key(|(_, series)| series.last)
        {
            let oldest = oldest.0.clone();
            self.series.remove(&oldest);
        }
        self.series.insert(key, Series { name, count: 1, last: now });
        Ok(())
    }

    fn name(&mut self, told: &Told) -> String {
        self.count += 1;
        let object = &told.subject.key().name;
        // Names of objects are of ASCII.
        let object = object.get(..MAX_NAME).unwrap_or(object).trim_end_matches(['.', '-']);
        format!("{object}.{:x}.{:x}", Timestamp::now().as_nanosecond(), self.count)
    }

    fn event(&self, told: &Told, uid: &str, name: &str) -> Event {
        let key = told.subject.key();
        Event {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(key.namespace.to_string()),
                ..ObjectMeta::default()
            },
            event_time: Some(time(told.at_ms)),
            action: Some(told.reason.to_owned()),
            reason: Some(told.reason.to_owned()),
            note: Some(told.note.clone()),
            type_: Some(if told.is_warning { "Warning" } else { "Normal" }.to_owned()),
            regarding: Some(ObjectReference {
                api_version: Some(told.subject.api_version().to_owned()),
                kind: Some(told.subject.kind().to_owned()),
                namespace: Some(key.namespace.to_string()),
                name: Some(key.name.to_string()),
                uid: Some(uid.to_owned()),
                ..ObjectReference::default()
            }),
            reporting_controller: Some(CONTROLLER_NAME.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            ..Event::default()
        }
    }
}

fn time(at_ms: u64) -> MicroTime {
    let at = i64::try_from(at_ms).ok().and_then(|at| Timestamp::from_millisecond(at).ok());
    MicroTime(at.unwrap_or_else(Timestamp::now))
}
