//! ListenerSets in the words of a Gateway, whose listeners say the same in the same fields: errors and line numbers are
//! those of the object as it was written.

use std::sync::Arc;

use gateway_api::apis::experimental::gateways::{Gateway, GatewaySpec};
use gateway_api::apis::standard::listenersets::{self, ListenerSetParentRef};

use crate::watch::de::{TypeError, UnknownField, from_node};
use crate::watch::node::Node;

/// A ListenerSet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ListenerSet {
    /// The Gateway that it wants to belong to.
    pub(crate) parent_ref: ListenerSetParentRef,
    /// Its listeners, as if they were a Gateway's.
    pub(crate) as_gateway: Arc<Gateway>,
}

pub(super) fn read_listener_set(node: &Node) -> (Result<ListenerSet, TypeError>, Vec<UnknownField>) {
    let (set, unknown) = from_node::<listenersets::ListenerSet>(node);
    (set.and_then(in_words_of_a_gateway), unknown)
}

fn in_words_of_a_gateway(set: listenersets::ListenerSet) -> Result<ListenerSet, TypeError> {
    let listeners = serde_json::to_value(&set.spec.listeners).and_then(serde_json::from_value);
    let listeners = listeners.map_err(|error| TypeError::whole(error.to_string()))?;
    let spec = GatewaySpec { listeners, ..GatewaySpec::default() };
    let as_gateway = Arc::new(Gateway { metadata: set.metadata, spec, status: None });
    Ok(ListenerSet { parent_ref: set.spec.parent_ref, as_gateway })
}
