//! The API server: objects are created, replaced and removed, a bounded number at once.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::{Method, Request, StatusCode};
use kube::Client;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::objects::{self, CLASSES, NAMESPACE, NAMESPACES, Object};

/// Requests under way at once.
const AT_ONCE: usize = 16;
/// For one request.
const ANSWERED: Duration = Duration::from_secs(60);
/// For namespaces to go.
const GONE: Duration = Duration::from_secs(180);

/// Kinds that the API server must know.
const KINDS: [&str; 3] = [
    CLASSES,
    "/apis/gateway.networking.k8s.io/v1/httproutes",
    "/apis/gateway.envoyproxy.io/v1alpha1/backendtrafficpolicies",
];

/// A client of the API server.
pub(super) struct Api {
    client: Client,
}

impl Api {
    pub(super) async fn connect() -> Result<Self> {
        Ok(Self { client: understudy_controller::connect().await? })
    }

    pub(super) async fn require_kinds(&self) -> Result<()> {
        for kind in KINDS {
            let found = self.send(Method::GET, &format!("{kind}?limit=1"), None).await?;
            ensure!(
                found.is_some(),
                "the API server has no {kind}; apply k8s/gateway-api.yaml and the CustomResourceDefinitions of crds/ first"
            );
        }
        Ok(())
    }

    /// Creates the objects of each step at once, a step after the other.
    pub(super) async fn create_all(&self, base: Vec<Object>, steps: [Vec<Object>; 3]) -> Result<()> {
        for object in base {
            self.create(&object).await?;
        }
        for step in steps {
            let creations = stream::iter(step).map(|object| async move { self.create(&object).await });
            creations.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        }
        Ok(())
    }

    async fn create(&self, object: &Object) -> Result<()> {
        let created = self.send(Method::POST, &object.collection, Some(&object.content)).await?;
        created
            .map(drop)
            .with_context(|| format!("{} cannot be created: there is no such collection", object.path()))
    }

    /// Replaces what an object says of its own, whoever changed it meanwhile.
    pub(super) async fn replace(&self, object: &Object) -> Result<()> {
        let path = object.path();
        let replaced = self.send(Method::PATCH, &path, Some(&object.content)).await?;
        replaced.map(drop).with_context(|| format!("{path} is not there"))
    }

    /// The count in the status of the Gateway's listener, once there is one.
    pub(super) async fn attached_routes(&self) -> Result<Option<u64>> {
        let gateway = self.send(Method::GET, &objects::gateway_path(), None).await?.unwrap_or_default();
        Ok(gateway["status"]["listeners"][0]["attachedRoutes"].as_u64())
    }

    /// Removes everything that this measurement makes, and waits until it is gone.
    pub(super) async fn remove_all(&self) -> Result<()> {
        let namespaces = self.own_namespaces().await?;
        if namespaces.is_empty() {
            return Ok(());
        }
        // At once, where the API server's own controller would take one object after the other.
        let collections: Vec<String> =
            namespaces.iter().flat_map(|namespace| objects::collections_of(namespace)).collect();
        let removals = stream::iter(collections).map(|path| async move { self.remove(&path).await });
        removals.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        self.remove(&objects::gateway_path()).await?;
        self.remove(&format!("{CLASSES}/{NAMESPACE}")).await?;
        let paths = namespaces.iter().map(|namespace| format!("{NAMESPACES}/{namespace}"));
        let removals = stream::iter(paths).map(|path| async move { self.remove(&path).await });
        removals.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        let deadline = Instant::now() + GONE;
        while !self.own_namespaces().await?.is_empty() {
            ensure!(Instant::now() < deadline, "namespaces {NAMESPACE}… are still there after {GONE:?}");
            sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    async fn own_namespaces(&self) -> Result<Vec<String>> {
        let list = self.send(Method::GET, NAMESPACES, None).await?.unwrap_or_default();
        let names = list["items"].as_array().into_iter().flatten();
        let names = names.filter_map(|item| item["metadata"]["name"].as_str());
        let is_own = |name: &&str| {
            let rest = name.strip_prefix(NAMESPACE);
            rest.is_some_and(|rest| rest.is_empty() || rest.strip_prefix('-').is_some_and(is_number))
        };
        Ok(names.filter(is_own).map(str::to_owned).collect())
    }

    /// What is gone already is no error.
    async fn remove(&self, path: &str) -> Result<()> {
        let options =
            json!({ "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background" });
        self.send(Method::DELETE, path, Some(&options)).await.map(drop)
    }

    /// `None` if there is nothing at the path.
    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Option<Value>> {
        let media_type =
            if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let request = Request::builder().method(&method).uri(path).header("content-type", media_type);
        let request = request.body(body.map(Value::to_string).unwrap_or_default().into_bytes())?;
        let answer = tokio::time::timeout(ANSWERED, self.client.request::<Value>(request)).await;
        match answer.with_context(|| format!("{method} {path} has no answer after {ANSWERED:?}"))? {
            Ok(value) => Ok(Some(value)),
            Err(kube::Error::Api(status)) if status.code == StatusCode::NOT_FOUND.as_u16() => Ok(None),
            Err(error) => bail!("{method} {path}: {error}"),
        }
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}
