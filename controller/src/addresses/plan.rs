//! What has to be written so that each Gateway has its Service and each Service its endpoints.
//!
//! Inputs: the cluster as it was watched, what was written since, the pods that serve. Outputs: the differences. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use gateway_api::apis::experimental::gateways::Gateway;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::Serialize;
use serde_json::Value;

use crate::addresses::names::{MANAGER, fnv1a, service_name};
use crate::addresses::peers::Peers;
use crate::addresses::ports::{
    Claim, ClientPort, HeldPorts, PortMap, allocate, is_ours, listener_ports, ports_of,
};
use crate::addresses::service::build_service;
use crate::addresses::slices::{SLICE_MANAGED_BY, build_slices};
use crate::addresses::{
    ClassParameters, RequestedAddresses, requested_addresses, resolve_gateway_parameters, resolve_parameters,
};
use crate::cluster::{Cluster, Key, Object};
use crate::graph::{Graph, is_our_class};
use crate::watch::{Kind, ObjectId};

/// The annotation that says what was applied last, so that what is no longer wanted shows, too.
const APPLIED: &str = "understudy.dev/applied";

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    ApplyService(Box<Service>),
    ApplySlice(Box<EndpointSlice>),
    /// Only the very object that was seen.
    DeleteService {
        key: Key,
        uid: Option<String>,
    },
    DeleteSlice {
        key: Key,
        uid: Option<String>,
    },
}

/// What a change is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    Service(Key),
    Slice(Key),
}

impl Change {
    pub(crate) fn target(&self) -> Target {
        match self {
            Self::ApplyService(service) => Target::Service(key_of(&service.metadata)),
            Self::ApplySlice(slice) => Target::Slice(key_of(&slice.metadata)),
            Self::DeleteService { key, .. } => Target::Service(key.clone()),
            Self::DeleteSlice { key, .. } => Target::Slice(key.clone()),
        }
    }

    /// Whether an API server that answered so keeps what was applied.
    pub(crate) fn is_kept_by(&self, service: Option<&Service>, slice: Option<&EndpointSlice>) -> bool {
        match self {
            Self::ApplyService(wanted) => !differs(&**wanted, service),
            Self::ApplySlice(wanted) => !differs(&**wanted, slice),
            Self::DeleteService { .. } | Self::DeleteSlice { .. } => true,
        }
    }
}

pub(super) fn key_of(metadata: &ObjectMeta) -> Key {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    Key::new(&text(&metadata.namespace), &text(&metadata.name))
}

/// What was written and may not have been watched yet; `None` where it was deleted.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) services: BTreeMap<Key, Option<Service>>,
    pub(crate) slices: BTreeMap<Key, Option<EndpointSlice>>,
}

/// The cluster as it stands after what was written.
struct Present<'a> {
    cluster: &'a Cluster,
    written: &'a Written,
}

impl<'a> Present<'a> {
    fn service(&self, key: &Key) -> Option<&'a Service> {
        match self.written.services.get(key) {
            Some(written) => written.as_ref(),
            None => self.cluster.services.get(key).map(|service| &*service.value),
        }
    }

    fn slice(&self, key: &Key) -> Option<&'a EndpointSlice> {
        match self.written.slices.get(key) {
            Some(written) => written.as_ref(),
            None => self.cluster.endpoint_slices.get(key).map(|slice| &*slice.value),
        }
    }
}

/// What there is to do.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) changes: Vec<Change>,
    /// What cannot be done, in words for a log.
    pub(crate) problems: BTreeSet<String>,
}

/// A Gateway that is served.
struct Wish<'a> {
    gateway: &'a Object<Gateway>,
    service: Key,
    /// What its Service should be; `None` where that stays as it is: parameters cannot be understood, or addresses not
    /// be had.
    asked: Option<(ClassParameters, RequestedAddresses)>,
}

/// Compares what should stand in the cluster with what does.
pub(crate) fn plan(cluster: &Cluster, graph: &Graph, peers: &Peers, written: &Written) -> Plan {
    let present = Present { cluster, written };
    let mut plan = Plan::default();
    let wishes = unique(wishes(cluster, graph), &mut plan.problems);
    let free = |service: &Key| present.service(service).is_none_or(is_ours);
    let (wishes, refused): (Vec<_>, Vec<_>) = wishes.into_iter().partition(|wish| free(&wish.service));
    plan.problems.extend(refused.iter().map(|wish| {
        format!("Service {} was not made here, so {} gets none", wish.service, wish.gateway.label)
    }));
    let wishes = without_rivals(&present, wishes, &mut plan.problems);
    let ports = assign_ports(&present, &wishes, graph, &mut plan.problems);
    let wanted: BTreeSet<&Key> = wishes.iter().map(|wish| &wish.service).collect();
    let mut slices = Vec::new();
    for wish in &wishes {
        let current = present.service(&wish.service);
        let ports = ports.get(&wish.gateway.key).cloned().unwrap_or_default();
        // One that is about to go can neither be changed nor be made anew before it is gone.
        let goes = current.is_some_and(|current| current.metadata.deletion_timestamp.is_some());
        if let Some((parameters, addresses)) = wish.asked.filter(|_| !ports.is_empty() && !goes) {
            let service = stamped(build_service(wish.gateway, parameters, addresses, &ports));
            match current.filter(|current| has_another_cluster_ip(current, addresses)) {
                Some(current) => plan.changes.push(Change::DeleteService {
                    key: wish.service.clone(),
                    uid: current.metadata.uid.clone(),
                }),
                None if differs(&service, current) => {
                    plan.changes.push(Change::ApplyService(Box::new(service)));
                }
                None => {}
            }
        }
        // They follow the Service as it is: a port of theirs must not lead where nobody listens yet.
        let ports = current.map(ports_of).unwrap_or_default();
        plan_slices(&present, wish, &ports, peers, &mut slices);
    }
    plan.changes.append(&mut slices);
    plan.changes.extend(superfluous(&present, &wanted));
    plan
}

/// The Gateways that are served and stay, the senior ones first.
fn wishes<'a>(cluster: &'a Cluster, graph: &Graph) -> Vec<Wish<'a>> {
    let mut wishes: Vec<_> = graph
        .gateways
        .keys()
        .filter_map(|key| cluster.gateways.get(key))
        // Without these, what is made for it could not go with it, or would come back while it goes.
        .filter(|gateway| gateway.value.metadata.uid.is_some())
        .filter(|gateway| gateway.value.metadata.deletion_timestamp.is_none())
        .filter_map(|gateway| {
            let class = cluster.gateway_classes.get(&Key::new("", &gateway.value.spec.gateway_class_name))?;
            let service = Key::new(&gateway.key.namespace, &service_name(&gateway.key.name));
            let of_class = resolve_parameters(cluster, class).ok();
            let parameters =
                of_class.and_then(|of_class| resolve_gateway_parameters(cluster, gateway, of_class).ok());
            let asked = parameters.and_then(|parameters| {
                let addresses = requested_addresses(cluster, gateway, parameters.service_type).ok()?;
                Some((parameters, addresses))
            });
            Some(Wish { gateway, service, asked })
        })
        .collect();
    wishes.sort_by(|a, b| a.gateway.seniority().cmp(&b.gateway.seniority()));
    wishes
}

/// Whether a Service has another cluster IP than is asked for. That one can never change, so the Service is made anew;
/// not, where the API server may refuse the new one.
fn has_another_cluster_ip(current: &Service, asked: RequestedAddresses) -> bool {
    let Some(wanted) = asked.cluster.filter(|_| asked.cluster_is_sure) else { return false };
    let spec = current.spec.as_ref();
    let present = spec.and_then(|spec| spec.cluster_ip.as_deref()?.parse::<IpAddr>().ok());
    present.is_some_and(|present| present != wanted)
}

/// Of Gateways that ask for one cluster IP, the one whose Service has it keeps it, else the first gets it. The Services of
/// the others stay as they are: one that was removed to be made anew could not be.
fn without_rivals<'a>(
    present: &Present<'_>,
    mut wishes: Vec<Wish<'a>>,
    problems: &mut BTreeSet<String>,
) -> Vec<Wish<'a>> {
    let has = |wish: &Wish<'_>, wanted: IpAddr| {
        let spec = present.service(&wish.service).and_then(|service| service.spec.as_ref());
        spec.and_then(|spec| spec.cluster_ip.as_deref()?.parse::<IpAddr>().ok()) == Some(wanted)
    };
    let mut owners: BTreeMap<IpAddr, Arc<str>> = BTreeMap::new();
    for is_owner in [true, false] {
        for wish in &mut wishes {
            let Some(wanted) = wish.asked.and_then(|(_, addresses)| addresses.cluster) else { continue };
            if has(wish, wanted) != is_owner {
                continue;
            }
            if let Some(owner) = owners.get(&wanted) {
                let label = &wish.gateway.label;
                problems.insert(format!("{owner} has {wanted}, so the Service of {label} stays as it is"));
                wish.asked = None;
            } else {
                owners.insert(wanted, wish.gateway.label.clone());
            }
        }
    }
    wishes
}

/// Of Gateways whose Services would have one name, the first keeps it.
fn unique<'a>(wishes: Vec<Wish<'a>>, problems: &mut BTreeSet<String>) -> Vec<Wish<'a>> {
    let mut taken = BTreeSet::new();
    let (kept, refused): (Vec<_>, Vec<_>) =
        wishes.into_iter().partition(|wish| taken.insert(wish.service.clone()));
    problems.extend(refused.iter().map(|wish| {
        format!(
            "Service {} is that of an older Gateway, so {} gets none: give it another name",
            wish.service, wish.gateway.label
        )
    }));
    kept
}

/// The ports of a Gateway's listeners and of those of its ListenerSets.
fn wanted_ports(cluster: &Cluster, graph: &Graph, gateway: &Object<Gateway>) -> BTreeSet<ClientPort> {
    let sets = graph.gateways.get(&gateway.key).into_iter().flat_map(|node| &node.sets);
    let allowed = sets.filter(|set| set.shapes.is_some());
    let of_sets = allowed.filter_map(|set| cluster.listener_sets.get(&set.key));
    let of_sets = of_sets.flat_map(|set| listener_ports(&set.value.as_gateway));
    listener_ports(&gateway.value).into_iter().chain(of_sets).collect()
}

fn assign_ports(
    present: &Present<'_>,
    wishes: &[Wish<'_>],
    graph: &Graph,
    problems: &mut BTreeSet<String>,
) -> BTreeMap<Key, PortMap> {
    let held = HeldPorts::of(graph);
    let recorded: BTreeMap<&Key, PortMap> = wishes
        .iter()
        .map(|wish| (&wish.gateway.key, present.service(&wish.service).map(ports_of).unwrap_or_default()))
        .collect();
    let of = |gateway: &Key| recorded.get(gateway).cloned().unwrap_or_default();
    let claims: Vec<_> = wishes
        .iter()
        .map(|wish| Claim {
            gateway: &wish.gateway.key,
            wanted: wanted_ports(present.cluster, graph, wish.gateway),
            recorded: held.without_those_of_others(&wish.gateway.key, of(&wish.gateway.key), of),
        })
        .collect();
    // A Service whose Gateway is gone leads clients to its port until it is gone itself.
    let others = present.cluster.services.values().map(|service| &*service.value).filter(|s| is_ours(s));
    let reserved = others.flat_map(|service| ports_of(service).into_values()).collect();
    let given = allocate(&claims, &reserved);
    for claim in &claims {
        let missing = claim.wanted.iter().filter(|port| !given[claim.gateway].contains_key(port));
        problems.extend(missing.map(|(transport, port)| {
            let transport = transport.as_str();
            format!("no container port is left for {transport} port {port} of Gateway {}", claim.gateway)
        }));
    }
    given
}

fn plan_slices(
    present: &Present<'_>,
    wish: &Wish<'_>,
    ports: &PortMap,
    peers: &Peers,
    changes: &mut Vec<Change>,
) {
    let mut wanted = BTreeSet::new();
    if !ports.is_empty() {
        for slice in build_slices(wish.gateway, ports, peers) {
            let slice = stamped(slice);
            let key = key_of(&slice.metadata);
            if differs(&slice, present.slice(&key)) {
                changes.push(Change::ApplySlice(Box::new(slice)));
            }
            wanted.insert(key);
        }
    }
    let ours = |slice: &&&Object<EndpointSlice>| {
        slice.labels.get(SLICE_MANAGED_BY).is_some_and(|manager| manager == MANAGER)
    };
    let there = present.cluster.slices_of(&wish.service);
    for slice in there.iter().filter(ours).filter(|slice| !wanted.contains(&slice.key)) {
        if present.slice(&slice.key).is_some() {
            let uid = slice.value.metadata.uid.clone();
            changes.push(Change::DeleteSlice { key: slice.key.clone(), uid });
        }
    }
}

/// Services of ours that no Gateway wants: its class is another's now. Those of a Gateway that is gone go with it, and
/// those of one that cannot be read for the moment stay.
fn superfluous(present: &Present<'_>, wanted: &BTreeSet<&Key>) -> Vec<Change> {
    let cluster = present.cluster;
    let unwanted = |service: &&Arc<Object<Service>>| {
        let owners = service.value.metadata.owner_references.iter().flatten();
        let Some(owner) = owners.into_iter().find(|owner| owner.kind == "Gateway") else { return false };
        let key = Key::new(&service.key.namespace, &owner.name);
        match cluster.gateways.get(&key) {
            Some(gateway) => {
                let class = Key::new("", &gateway.value.spec.gateway_class_name);
                cluster.gateway_classes.get(&class).is_some_and(|class| !is_our_class(class))
            }
            None => !cluster.refused.contains_key(&ObjectId { kind: Kind::Gateway, key }),
        }
    };
    cluster
        .services
        .values()
        .filter(|service| is_ours(&service.value) && !wanted.contains(&service.key))
        .filter(|service| present.service(&service.key).is_some())
        .filter(|service| service.value.metadata.deletion_timestamp.is_none())
        .filter(unwanted)
        .map(|service| Change::DeleteService {
            key: service.key.clone(),
            uid: service.value.metadata.uid.clone(),
        })
        .collect()
}

/// The object with a hash of itself.
fn stamped<T: Resource + Serialize>(mut object: T) -> T {
    let text = serde_json::to_string(&object).unwrap_or_default();
    let hash = format!("{:016x}", fnv1a(text.as_bytes()));
    object.meta_mut().annotations.get_or_insert_default().insert(APPLIED.to_owned(), hash);
    object
}

/// Whether anything of an object is not there, or stands there from before and is no longer wanted.
fn differs<T: Serialize>(wanted: &T, current: Option<&T>) -> bool {
    let Some(current) = current else { return true };
    match (serde_json::to_value(wanted), serde_json::to_value(current)) {
        (Ok(wanted), Ok(current)) => !contains(&current, &wanted),
        _ => true,
    }
}

/// Whether a value holds all of another; lists in any order.
fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => part.iter().all(|(key, part)| {
            // What is empty is not stored.
            whole.get(key).map_or_else(|| is_empty(part), |whole| contains(whole, part))
        }),
        (Value::Array(whole), Value::Array(part)) => {
            part.iter().all(|part| whole.iter().any(|whole| contains(whole, part)))
        }
        _ => whole == part,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}
