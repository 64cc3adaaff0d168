//! The kinds of objects that the state holds, each with its place in it.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{
    Backend, BackendName, CaBundle, CaBundleName, Certificate, CertificateName, Gateway, GatewayName, Guard,
    GuardName, Policy, PolicyName, Pool, PoolName, Route, RouteName, State,
};

/// A kind of object, in the order in which they are written: what is referred to comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Guards,
    Policies,
    CaBundles,
    Certificates,
    Backends,
    Pools,
    Gateways,
    Routes,
}

impl Kind {
    pub(crate) const ALL: [Self; 8] = [
        Self::Guards,
        Self::Policies,
        Self::CaBundles,
        Self::Certificates,
        Self::Backends,
        Self::Pools,
        Self::Gateways,
        Self::Routes,
    ];

    /// The name of its folder and in the names of its index files.
    pub(crate) fn folder(self) -> &'static str {
        match self {
            Self::Guards => "guards",
            Self::Policies => "policies",
            Self::CaBundles => "ca-bundles",
            Self::Backends => "backends",
            Self::Pools => "pools",
            Self::Certificates => "certificates",
            Self::Gateways => "gateways",
            Self::Routes => "routes",
        }
    }

    /// Whether its files are for their owner only.
    pub(crate) fn is_private(self) -> bool {
        self == Self::Certificates
    }

    /// Its place in tables that hold one entry per kind.
    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

/// The map of the objects of one kind.
pub(crate) type Objects<T> = BTreeMap<<T as Object>::Name, Arc<T>>;

/// An object of the state.
pub(crate) trait Object: Serialize + DeserializeOwned + PartialEq + Clone {
    const KIND: Kind;
    type Name: Ord + Clone + AsRef<str> + Borrow<str>;

    fn name(&self) -> &Self::Name;
    fn objects(state: &State) -> &Objects<Self>;
    fn objects_mut(state: &mut State) -> &mut Objects<Self>;
}

macro_rules! objects {
    ($($type:ident, $name:ident, $kind:ident, $field:ident;)+) => {$(
        impl Object for $type {
            const KIND: Kind = Kind::$kind;
            type Name = $name;

            fn name(&self) -> &$name {
                &self.name
            }

            fn objects(state: &State) -> &Objects<Self> {
                &state.$field
            }

            fn objects_mut(state: &mut State) -> &mut Objects<Self> {
                &mut state.$field
            }
        }
    )+};
}

objects! {
    Guard, GuardName, Guards, guards;
    Policy, PolicyName, Policies, policies;
    CaBundle, CaBundleName, CaBundles, ca_bundles;
    Backend, BackendName, Backends, backends;
    Pool, PoolName, Pools, pools;
    Certificate, CertificateName, Certificates, certificates;
    Gateway, GatewayName, Gateways, gateways;
    Route, RouteName, Routes, routes;
}

/// Runs a generic function once for each kind, in the order of [`Kind::ALL`].
macro_rules! for_each_kind {
    ($function:ident ( $($argument:expr),* $(,)? )) => {{
        $function::<crate::Guard>($($argument),*)?;
        $function::<crate::Policy>($($argument),*)?;
        $function::<crate::CaBundle>($($argument),*)?;
        $function::<crate::Certificate>($($argument),*)?;
        $function::<crate::Backend>($($argument),*)?;
        $function::<crate::Pool>($($argument),*)?;
        $function::<crate::Gateway>($($argument),*)?;
        $function::<crate::Route>($($argument),*)?;
    }};
}
pub(crate) use for_each_kind;
