//! Requests for the statuses of objects of any kind.

use std::collections::HashMap;

use kube::api::{Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::writer::limited;
use crate::watch::{Kind, ObjectId};

/// Why a status was not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The object is no longer there.
    #[error("it is gone")]
    Gone,
    /// The object is newer than what the status was made for.
    #[error("it has changed")]
    Conflict,
    /// The API server does not want it.
    #[error("{0}")]
    Refused(String),
    /// The API server cannot take it now.
    #[error("{0}")]
    Unreachable(String),
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) => match status.code {
                404 => Self::Gone,
                409 => Self::Conflict,
                429 | 500.. => Self::Unreachable(error.to_string()),
                _ => Self::Refused(error.to_string()),
            },
            _ => Self::Unreachable(error.to_string()),
        }
    }
}

/// An object as the API server has it.
pub(super) struct Live {
    pub(super) version: String,
    pub(super) generation: i64,
    pub(super) status: Value,
}

impl From<DynamicObject> for Live {
    fn from(object: DynamicObject) -> Self {
        Self {
            version: object.metadata.resource_version.unwrap_or_default(),
            generation: object.metadata.generation.unwrap_or(0),
            status: object.data.get("status").cloned().unwrap_or_default(),
        }
    }
}

/// The part of the API server that has statuses.
pub(super) struct StatusApi {
    client: Client,
    /// Which of a kind's versions the API server has, where it is not the first.
    versions: HashMap<Kind, usize>,
}

impl StatusApi {
    pub(super) fn new(client: Client) -> Self {
        Self { client, versions: HashMap::new() }
    }

    /// Replaces fields of a status, if the object still has this version.
    pub(super) async fn patch(
        &mut self,
        id: &ObjectId,
        version: &str,
        fields: Value,
    ) -> Result<Live, Failure> {
        let patch = Patch::Merge(json!({ "metadata": { "resourceVersion": version }, "status": fields }));
        let params = PatchParams { field_manager: Some("understudy".to_owned()), ..PatchParams::default() };
        loop {
            let answer = limited(self.api(id).patch_status(&id.key.name, &params, &patch)).await;
            match answer {
                Err(Failure::Gone) if self.try_next_version(id.kind) => {}
                answer => return answer.map(Live::from),
            }
        }
    }

    pub(super) async fn get(&self, id: &ObjectId) -> Result<Live, Failure> {
        limited(self.api(id).get(&id.key.name)).await.map(Live::from)
    }

    fn api(&self, id: &ObjectId) -> Api<DynamicObject> {
        let info = id.kind.info();
        let version = info.versions[self.versions.get(&id.kind).copied().unwrap_or(0)];
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(info.group, version, info.name));
        if info.namespaced {
            Api::namespaced_with(self.client.clone(), &id.key.namespace, &resource)
        } else {
            Api::all_with(self.client.clone(), &resource)
        }
    }

    /// An object that is not there may be there in another version, until one has been found.
    fn try_next_version(&mut self, kind: Kind) -> bool {
        let known = self.versions.get(&kind).copied();
        let next = known.unwrap_or(0) + 1;
        let is_left = next < kind.info().versions.len();
        self.versions.insert(kind, if is_left { next } else { 0 });
        is_left
    }
}
