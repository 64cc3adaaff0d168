//! The questions that the API server is asked.

use std::fmt;
use std::time::Duration;

use kube::Client;
use kube::api::{GetParams, ListParams, WatchParams};
use kube::core::Request;
use serde::Deserialize;
use tokio::time::timeout;

use crate::watch::ObjectId;
use crate::watch::kubernetes::json::RawObject;
use crate::watch::kubernetes::lines::Lines;
use crate::watch::kubernetes::target::Target;

/// Objects in one answer to a list.
const PAGE: u32 = 500;
/// Longest wait for an answer, or for the beginning of an endless one.
const ANSWER: Duration = Duration::from_secs(30);
/// How long the API server keeps a watch open, in seconds.
const WATCH_SECONDS: u32 = 290;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// There is nothing of this name, or no such kind.
    #[error("the API server does not have it")]
    NotFound,
    /// What was known is too old to go on from.
    #[error("the API server does not remember changes since then")]
    Expired,
    #[error("the API server forbids it: {0}")]
    Forbidden(String),
    /// The API server does not take a parameter.
    #[error("the API server refuses the question: {0}")]
    Invalid(String),
    #[error("{0}")]
    Failed(String),
}

impl From<kube::Error> for RequestError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::of_status(status.code, &status.reason, &status.message),
            error => Self::Failed(describe(&error)),
        }
    }
}

impl RequestError {
    /// What an answer with an error's code means.
    pub(crate) fn of_status(code: u16, reason: &str, message: &str) -> Self {
        match code {
            404 => Self::NotFound,
            410 => Self::Expired,
            401 | 403 => Self::Forbidden(message.to_owned()),
            400 | 405 | 415 | 422 => Self::Invalid(message.to_owned()),
            _ => Self::Failed(format!("the API server answers {code} {reason}: {message}")),
        }
    }
}

/// An error with its causes, as far as they say more.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// A part of a list.
#[derive(Debug, Deserialize)]
pub(crate) struct Page {
    #[serde(default)]
    pub(crate) metadata: PageMetadata,
    #[serde(default)]
    items: Option<Vec<RawObject>>,
}

impl Page {
    pub(crate) fn take_items(&mut self) -> Vec<RawObject> {
        self.items.take().unwrap_or_default()
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PageMetadata {
    pub(crate) resource_version: Option<String>,
    #[serde(rename = "continue")]
    pub(crate) rest: Option<String>,
}

/// The kinds of one version of a group.
#[derive(Debug, Deserialize)]
struct Resources {
    #[serde(default)]
    resources: Vec<Resource>,
}

#[derive(Debug, Deserialize)]
struct Resource {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    verbs: Vec<String>,
}

/// Asks an API server.
pub(crate) struct Requests {
    client: Client,
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests").finish_non_exhaustive()
    }
}

impl Requests {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// A part of all objects of a kind: the first, or the one after another.
    pub(crate) async fn list(&self, target: Target, rest: Option<String>) -> Result<Page, RequestError> {
        let params = ListParams { limit: Some(PAGE), continue_token: rest, ..ListParams::default() };
        let request = Request::new(target.path());
        let request =
            if target.is_metadata_only() { request.list_metadata(&params) } else { request.list(&params) };
        self.parsed(request.map_err(unbuildable)?).await
    }

    /// The changes of a kind since a version. With `initial` all objects come first, and then a bookmark.
    pub(crate) async fn watch(
        &self,
        target: Target,
        version: &str,
        initial: bool,
    ) -> Result<Lines, RequestError> {
        let params = WatchParams {
            timeout: Some(WATCH_SECONDS),
            send_initial_events: initial,
            ..WatchParams::default()
        };
        let request = Request::new(target.path());
        let request = if target.is_metadata_only() {
            request.watch_metadata(&params, version)
        } else {
            request.watch(&params, version)
        };
        let request = request.map_err(unbuildable)?;
        let answer = timeout(ANSWER, self.client.request_stream(request)).await.map_err(|_| unanswered())?;
        Ok(Lines::new(answer?))
    }

    /// One object, with its contents.
    pub(crate) async fn read(&self, target: Target, id: &ObjectId) -> Result<RawObject, RequestError> {
        let request = Request::new(target.path_in(&id.key.namespace));
        self.parsed(request.get(&id.key.name, &GetParams::default()).map_err(unbuildable)?).await
    }

    /// The names of the kinds of one version of a group that can be watched; empty if the API server does not have it.
    pub(crate) async fn kinds(&self, group: &str, version: &str) -> Result<Vec<String>, RequestError> {
        let path = format!("/apis/{group}/{version}");
        let request = Request::new(path).list(&ListParams::default()).map_err(unbuildable)?;
        match self.parsed::<Resources>(request).await {
            Ok(found) => Ok(found
                .resources
                .into_iter()
                .filter(|resource| {
                    !resource.name.contains('/') && resource.verbs.iter().any(|verb| verb == "watch")
                })
                .map(|resource| resource.kind)
                .collect()),
            Err(RequestError::NotFound) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    async fn parsed<T: serde::de::DeserializeOwned>(&self, request: HttpRequest) -> Result<T, RequestError> {
        let text = timeout(ANSWER, self.client.request_text(request)).await.map_err(|_| unanswered())??;
        serde_json::from_str(&text)
            .map_err(|error| RequestError::Failed(format!("the API server's answer cannot be read: {error}")))
    }
}

type HttpRequest = http::Request<Vec<u8>>;

fn unbuildable(error: kube::core::request::Error) -> RequestError {
    RequestError::Failed(error.to_string())
}

fn unanswered() -> RequestError {
    RequestError::Failed(format!("the API server does not answer within {} s", ANSWER.as_secs()))
}
