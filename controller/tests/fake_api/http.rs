//! The server's side of HTTP, as far as a client of Kubernetes needs it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{COLLECTIONS, Change, Collection, World};

type Shared = Arc<Mutex<World>>;

/// Objects in one part of a list.
const PAGE: usize = 100;

pub(super) async fn serve(listener: TcpListener, world: Shared, changed: watch::Sender<()>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        while connections.try_join_next().is_some() {}
        if world.lock().unwrap().is_down {
            continue;
        }
        let epoch = world.lock().unwrap().epoch;
        let (world, changed) = (world.clone(), changed.clone());
        connections.spawn(async move {
            let mut ended = changed.subscribe();
            let over = {
                let world = world.clone();
                async move {
                    while world.lock().unwrap().epoch == epoch {
                        if ended.changed().await.is_err() {
                            break;
                        }
                    }
                }
            };
            tokio::select! {
                biased;
                () = over => {}
                _ = answer_all(stream, &world, &changed, epoch) => {}
            }
        });
    }
}

struct Request {
    path: String,
    query: Vec<(String, String)>,
    metadata_only: bool,
}

impl Request {
    fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

async fn answer_all(
    mut stream: TcpStream,
    world: &Shared,
    changed: &watch::Sender<()>,
    epoch: u64,
) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = buffer.windows(4).position(|part| part == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8(buffer.drain(..end).collect()).unwrap();
        let request = parse(&head);
        let target = head.lines().next().unwrap().to_owned();
        let media = if request.metadata_only { " metadata" } else { "" };
        world.lock().unwrap().requests.push(format!("{target}{media}"));
        changed.send_replace(());
        match answer(&request, world, changed).await {
            Answer::Whole(status, body) => {
                let text = body.to_string();
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                    text.len()
                );
                stream.write_all(head.as_bytes()).await?;
                stream.write_all(text.as_bytes()).await?;
            }
            Answer::Watch(collection, from, initial) => {
                let head =
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
                stream.write_all(head.as_bytes()).await?;
                let events = Events { world, changed, request: &request, collection, epoch };
                return events.send(&mut stream, from, initial).await;
            }
        }
    }
}

fn parse(head: &str) -> Request {
    let target = head.split(' ').nth(1).unwrap();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    Request {
        path: path.trim_matches('/').to_owned(),
        query: pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        metadata_only: head.contains("as=PartialObjectMetadata"),
    }
}

enum Answer {
    Whole(&'static str, Value),
    /// Changes since a version, after all objects if they are asked for.
    Watch(Collection, u64, bool),
}

fn failure(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason})
}

async fn answer(request: &Request, world: &Shared, changed: &watch::Sender<()>) -> Answer {
    if let Some((collection, _)) = COLLECTIONS.iter().find(|(collection, _)| *collection == request.path) {
        let mut told = changed.subscribe();
        while world.lock().unwrap().held.contains(collection) {
            told.changed().await.unwrap();
        }
        return collection_answer(request, collection, &mut world.lock().unwrap());
    }
    let world = world.lock().unwrap();
    if let Some(object) = single(request, &world) {
        return Answer::Whole("200 OK", object);
    }
    let prefix = format!("{}/", request.path);
    let served = COLLECTIONS.iter().filter(|(collection, _)| {
        collection.strip_prefix(&prefix).is_some_and(|rest| !rest.contains('/'))
            && !world.absent.contains(collection)
    });
    let resources: Vec<_> = served
        .map(|(collection, kind)| {
            let name = collection.rsplit('/').next().unwrap();
            json!({"name": name, "kind": kind, "verbs": ["get", "list", "watch"]})
        })
        .collect();
    if resources.is_empty() {
        return Answer::Whole("404 Not Found", json!("404 page not found"));
    }
    Answer::Whole(
        "200 OK",
        json!({"kind": "APIResourceList", "groupVersion": request.path, "resources": resources}),
    )
}

fn single(request: &Request, world: &World) -> Option<Value> {
    let parts: Vec<_> = request.path.split('/').collect();
    let at = parts.iter().position(|part| *part == "namespaces")?;
    let [namespace, plural, name] = parts.get(at + 1..)?.try_into().ok()?;
    let collection = format!("{}/{plural}", parts[..at].join("/"));
    let (collection, _) = COLLECTIONS.iter().find(|(known, _)| *known == collection)?;
    world.objects.get(&(*collection, namespace.to_owned(), name.to_owned())).cloned()
}

fn collection_answer(request: &Request, collection: Collection, world: &mut World) -> Answer {
    if world.absent.contains(collection) {
        return Answer::Whole("404 Not Found", json!("404 page not found"));
    }
    if world.forbidden.contains(collection) {
        return Answer::Whole("403 Forbidden", failure(403, "Forbidden"));
    }
    if request.query("watch").is_some() {
        let initial = request.query("sendInitialEvents").is_some();
        if initial && !world.streams {
            return Answer::Whole("422 Unprocessable Entity", failure(422, "Invalid"));
        }
        let from = request
            .query("resourceVersion")
            .and_then(|version| version.parse().ok())
            .unwrap_or(world.version);
        if !initial && from < world.forgotten {
            return Answer::Whole("410 Gone", failure(410, "Expired"));
        }
        return Answer::Watch(collection, if initial { world.version } else { from }, initial);
    }
    let skipped: usize = request.query("continue").map_or(0, |token| token.parse().unwrap());
    let all: Vec<_> =
        world.objects.iter().filter(|((of, ..), _)| *of == collection).map(|(_, object)| object).collect();
    let items: Vec<_> = all.iter().skip(skipped).take(PAGE).map(|object| shown(request, object)).collect();
    let rest = if skipped + PAGE < all.len() { (skipped + PAGE).to_string() } else { String::new() };
    Answer::Whole(
        "200 OK",
        json!({"kind": "List", "apiVersion": "v1", "items": items,
            "metadata": {"resourceVersion": world.version.to_string(), "continue": rest}}),
    )
}

/// An object as it was asked for.
fn shown(request: &Request, object: &Value) -> Value {
    if !request.metadata_only {
        return object.clone();
    }
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

struct Events<'a> {
    world: &'a Shared,
    changed: &'a watch::Sender<()>,
    request: &'a Request,
    collection: Collection,
    /// The connection ends with it.
    epoch: u64,
}

impl Events<'_> {
    async fn send(&self, stream: &mut TcpStream, from: u64, initial: bool) -> std::io::Result<()> {
        let mut told = self.changed.subscribe();
        let mut seen = from;
        if initial {
            let (lines, version) = {
                let world = self.world.lock().unwrap();
                let objects = world.objects.iter().filter(|((of, ..), _)| *of == self.collection);
                let lines: Vec<_> = objects.map(|(_, object)| self.line("ADDED", object)).collect();
                (lines, world.version)
            };
            let end = json!({"type": "BOOKMARK", "object": {"kind": "Any", "apiVersion": "v1", "metadata": {
                "resourceVersion": version.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}}}});
            write(stream, &format!("{}{end}\n", lines.concat())).await?;
            seen = version;
        }
        loop {
            told.mark_unchanged();
            let text = {
                let mut world = self.world.lock().unwrap();
                if world.absent.contains(self.collection) || world.epoch != self.epoch {
                    return Ok(());
                }
                let new = world
                    .history
                    .iter()
                    .filter(|change| change.version > seen && change.collection == self.collection);
                let mut text: String =
                    new.map(|Change { kind, object, .. }| self.line(kind, object)).collect();
                seen = world.version;
                if world.garbage.as_ref().is_some_and(|(of, _)| *of == self.collection) {
                    text =
                        world.garbage.take().map(|(_, line)| format!("{line}\n")).unwrap_or_default() + &text;
                }
                text
            };
            if text.is_empty() {
                tokio::select! {
                    _ = told.changed() => {}
                    () = tokio::time::sleep(Duration::from_secs(1)) => {}
                }
            } else {
                write(stream, &text).await?;
            }
        }
    }

    fn line(&self, kind: &str, object: &Value) -> String {
        format!("{}\n", json!({"type": kind, "object": shown(self.request, object)}))
    }
}

async fn write(stream: &mut TcpStream, text: &str) -> std::io::Result<()> {
    stream.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes()).await
}
