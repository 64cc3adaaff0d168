//! An API server in the test's own process: objects, versions, conflicts, statuses and watches; enough for writers.
#![allow(clippy::unwrap_used, reason = "tests end there")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::channel::mpsc::{UnboundedSender, unbounded};
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use kube::client::Body;
use serde_json::{Value, json};

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// A request that was answered.
#[derive(Debug, Clone)]
pub(crate) struct Logged {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) code: u16,
}

#[derive(Default)]
struct World {
    /// Objects by path.
    objects: BTreeMap<String, Value>,
    version: u64,
    log: Vec<Logged>,
    /// Requests are never answered.
    is_silent: bool,
    /// Requests are answered with this.
    failure: Option<u16>,
    watches: Vec<(String, UnboundedSender<Bytes>)>,
}

/// An API server.
#[derive(Clone, Default)]
pub(crate) struct FakeApi(Arc<Mutex<World>>);

impl FakeApi {
    pub(crate) fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        kube::Client::new(service, "default")
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.world().objects.get(path).cloned()
    }

    /// Puts an object there as somebody else would.
    pub(crate) fn put(&self, path: &str, object: Value) {
        self.world().store(path, object);
    }

    pub(crate) fn remove(&self, path: &str) {
        self.world().remove(path);
    }

    pub(crate) fn set_silent(&self, is_silent: bool) {
        self.world().is_silent = is_silent;
    }

    pub(crate) fn set_failure(&self, code: Option<u16>) {
        self.world().failure = code;
    }

    pub(crate) fn log(&self) -> Vec<Logged> {
        self.world().log.clone()
    }

    /// How many requests of a method were answered well for a path that ends so.
    pub(crate) fn count(&self, method: &Method, suffix: &str) -> usize {
        let log = self.log();
        log.iter().filter(|one| one.method == *method && one.path.ends_with(suffix) && one.code < 300).count()
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let (parts, body) = request.into_parts();
        let body = body.collect_bytes().await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        if self.world().is_silent {
            std::future::pending::<()>().await;
        }
        let mut world = self.world();
        let path = parts.uri.path().to_owned();
        let is_watch = parts.uri.query().is_some_and(|query| query.contains("watch="));
        let (code, answer) = match world.failure {
            Some(code) => (code, failure(code)),
            None if is_watch => return world.watch(&path),
            None => world.apply(&parts.method, &path, body),
        };
        world.log.push(Logged { method: parts.method, path, code });
        let body = Full::new(Bytes::from(answer.to_string())).boxed_unsync();
        Response::builder().status(code).header("content-type", "application/json").body(body).unwrap()
    }
}

fn failure(code: u16) -> Value {
    let reason = match code {
        404 => "NotFound",
        409 => "Conflict",
        _ => "InternalError",
    };
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason})
}

/// What `delete` and `replace` refer to.
fn version(object: &Value) -> Option<&str> {
    object["metadata"]["resourceVersion"].as_str()
}

impl World {
    fn apply(&mut self, method: &Method, path: &str, body: Value) -> (u16, Value) {
        let item = path.strip_suffix("/status").unwrap_or(path);
        let Some(present) = self.objects.get(item).cloned() else {
            return match *method {
                Method::POST => {
                    let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                    if self.objects.contains_key(&path) {
                        return (409, failure(409));
                    }
                    (201, self.store(&path, body))
                }
                Method::GET if item.rsplit('/').next().is_some_and(|last| last.ends_with('s')) => {
                    (200, self.list(path))
                }
                _ => (404, failure(404)),
            };
        };
        let wanted = match *method {
            Method::DELETE => body["preconditions"]["resourceVersion"].as_str(),
            _ => version(&body),
        };
        if *method != Method::GET && wanted.is_some_and(|wanted| version(&present) != Some(wanted)) {
            return (409, failure(409));
        }
        match *method {
            Method::GET => (200, present),
            Method::PUT => (200, self.store(item, body)),
            Method::PATCH => {
                let mut next = present;
                let (target, change) = if path == item {
                    (&mut next, body)
                } else {
                    (&mut next["status"], body["status"].clone())
                };
                merge(target, change);
                (200, self.store(item, next))
            }
            Method::DELETE => {
                self.remove(item);
                (200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
            }
            _ => (405, failure(405)),
        }
    }

    fn store(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let kind = if self.objects.contains_key(path) { "MODIFIED" } else { "ADDED" };
        self.objects.insert(path.to_owned(), object.clone());
        self.tell(path, kind, &object);
        object
    }

    fn remove(&mut self, path: &str) {
        if let Some(object) = self.objects.remove(path) {
            self.tell(path, "DELETED", &object);
        }
    }

    fn tell(&mut self, path: &str, kind: &str, object: &Value) {
        let line = Bytes::from(format!("{}\n", json!({"type": kind, "object": object})));
        let collection = path.rsplit_once('/').map_or("", |(collection, _)| collection);
        self.watches
            .retain(|(watched, sender)| watched != collection || sender.unbounded_send(line.clone()).is_ok());
    }

    fn list(&self, path: &str) -> Value {
        let prefix = format!("{path}/");
        let items: Vec<_> = self
            .objects
            .iter()
            .filter(|(key, _)| key.starts_with(&prefix))
            .map(|(_, object)| object)
            .collect();
        json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": self.version.to_string()}, "items": items})
    }

    fn watch(&mut self, path: &str) -> Answer {
        let (sender, receiver) = unbounded();
        self.watches.push((path.to_owned(), sender));
        let frames = receiver.map(|line| Ok(http_body::Frame::data(line)));
        Response::new(StreamBody::new(frames).boxed_unsync())
    }
}

/// JSON merge patch.
fn merge(target: &mut Value, change: Value) {
    match change {
        Value::Object(fields) => {
            if !target.is_object() {
                *target = json!({});
            }
            for (key, value) in fields {
                if value.is_null() {
                    target.as_object_mut().unwrap().remove(&key);
                } else {
                    merge(&mut target[&key], value);
                }
            }
        }
        other => *target = other,
    }
}
