//! Which Kubernetes object a name of the state belongs to.

use std::fmt;

use crate::cluster::Key;
use crate::watch::{Kind, ObjectId};

/// An object that something is said of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    Backend(Key),
    Service(Key),
    Route(ObjectId),
}

impl Subject {
    /// The object of a set of endpoints: `backend/NAMESPACE/NAME`, `service/NAMESPACE/NAME/PORT`.
    pub(crate) fn of_origin(origin: &str) -> Option<Self> {
        // Behind an `@` stands how a variant of it is spoken to.
        let mut parts = origin.split('@').next()?.split('/');
        let (kind, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
        let key = Key::new(namespace, name);
        match (kind, parts.count()) {
            ("backend", 0) => Some(Self::Backend(key)),
            ("service", 1) => Some(Self::Service(key)),
            _ => None,
        }
    }

    /// The route of a pool, and what of the route the pool is for: `httproute/NAMESPACE/NAME/rule/INDEX…`, and so for
    /// the other kinds.
    pub(crate) fn of_pool(pool: &str) -> Option<(Self, String)> {
        let mut parts = pool.split('/');
        let (kind, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
        let (rule, index) = (parts.next()?, parts.next()?);
        let kind = Kind::ROUTES.into_iter().find(|known| known.info().name.eq_ignore_ascii_case(kind))?;
        if rule != "rule" {
            return None;
        }
        // Behind the number may stand for which gateway, where its rules are served differently.
        let index = index.split('@').next().unwrap_or(index);
        let mirror = if pool.contains("/mirror/") { "a mirror of " } else { "" };
        let route = ObjectId { kind, key: Key::new(namespace, name) };
        let what = format!("{mirror}rule {index} of {route}");
        Some((Self::Route(route), what))
    }

    pub(crate) fn key(&self) -> &Key {
        match self {
            Self::Backend(key) | Self::Service(key) => key,
            Self::Route(id) => &id.key,
        }
    }

    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Backend(_) => "Backend",
            Self::Service(_) => "Service",
            Self::Route(id) => id.kind.info().name,
        }
    }

    pub(crate) fn api_version(&self) -> &'static str {
        match self {
            Self::Backend(_) => understudy_crds::API_VERSION,
            Self::Service(_) => "v1",
            Self::Route(_) => "gateway.networking.k8s.io/v1",
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_state_tell_the_object_that_they_come_from() {
        let of_origin = |origin| Subject::of_origin(origin).map(|subject| subject.to_string());
        assert_eq!(of_origin("backend/default/active").as_deref(), Some("Backend default/active"));
        assert_eq!(of_origin("service/shop/web/8080").as_deref(), Some("Service shop/web"));
        assert_eq!(of_origin("backend/default/active@h2c").as_deref(), Some("Backend default/active"));
        assert_eq!(of_origin("service/shop/dns/53@udp").as_deref(), Some("Service shop/dns"));
        let variant = "service/shop/web/443@secret/shop/client";
        assert_eq!(of_origin(variant).as_deref(), Some("Service shop/web"));
        for none in ["there is no Backend a/b", "backend/default", "service/shop/web", "x/y/z", ""] {
            assert_eq!(of_origin(none), None, "{none}");
        }
        for (pool, subject, what) in [
            ("httproute/default/ha/rule/0", "HTTPRoute default/ha", "rule 0 of HTTPRoute default/ha"),
            ("httproute/a/b/rule/12@gateway/a/eg", "HTTPRoute a/b", "rule 12 of HTTPRoute a/b"),
            ("grpcroute/a/b/rule/1", "GRPCRoute a/b", "rule 1 of GRPCRoute a/b"),
            ("tcproute/a/b/rule/0", "TCPRoute a/b", "rule 0 of TCPRoute a/b"),
            ("httproute/a/b/rule/1/ref/0/mirror/0", "HTTPRoute a/b", "a mirror of rule 1 of HTTPRoute a/b"),
        ] {
            let (found, found_what) = Subject::of_pool(pool).unwrap();
            assert_eq!((found.to_string().as_str(), found_what.as_str()), (subject, what));
        }
        for none in ["dnsroute/a/b/rule/0", "tcproute/a/b/rules/0"] {
            assert_eq!(Subject::of_pool(none), None);
        }
        assert_eq!(Subject::of_pool("httproute/a/b"), None);
    }
}
