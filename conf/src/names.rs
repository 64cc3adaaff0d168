//! Names: every object of the state keeps one that tells its origin.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Why a string is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Names are never empty.
    #[error("a name must not be empty")]
    Empty,
    /// Names longer than 1024 bytes are refused, so that no label or file name grows without bound.
    #[error("a name must not be longer than 1024 bytes (this one has {0})")]
    TooLong(usize),
    /// Control characters would break logs and file names.
    #[error("a name must not hold control characters")]
    Control,
}

fn checked(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > 1024 {
        return Err(NameError::TooLong(name.len()));
    }
    if name.chars().any(char::is_control) {
        return Err(NameError::Control);
    }
    Ok(())
}

thread_local! {
    /// The texts of names, while equal ones are shared.
    static TEXTS: RefCell<Option<HashSet<Arc<str>>>> = const { RefCell::new(None) };
}

/// Does work during which equal names that this thread makes share one text: a state says most of its names several
/// times.
pub(crate) fn sharing_texts<T>(work: impl FnOnce() -> T) -> T {
    struct Sharing;
    impl Drop for Sharing {
        fn drop(&mut self) {
            TEXTS.set(None);
        }
    }
    TEXTS.set(Some(HashSet::new()));
    let _until_the_end = Sharing;
    work()
}

fn shared(name: &str) -> Arc<str> {
    TEXTS.with_borrow_mut(|texts| {
        let Some(texts) = texts else { return name.into() };
        if let Some(known) = texts.get(name) {
            return Arc::clone(known);
        }
        let text = Arc::<str>::from(name);
        texts.insert(Arc::clone(&text));
        text
    })
}

macro_rules! name_types {
    ($($(#[$doc:meta])* $name:ident;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                // Where versions of a state are compared, most names are the very same.
                if Arc::ptr_eq(&self.0, &other.0) { Ordering::Equal } else { self.0.cmp(&other.0) }
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl $name {
            /// Makes a name of a string.
            ///
            /// # Errors
            /// [`NameError`] if the string is empty, too long or holds control characters.
            pub fn new(name: impl AsRef<str>) -> Result<Self, NameError> {
                let name = name.as_ref();
                checked(name)?;
                Ok(Self(shared(name)))
            }

            /// A name that is known to be one.
            #[allow(dead_code, reason = "not every kind of name has literals")]
            pub(crate) fn literal(name: &'static str) -> Self {
                Self(name.into())
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(name: String) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    )+};
}

name_types! {
    /// A gateway: `gateway/NAMESPACE/NAME`.
    GatewayName;
    /// A listener within its gateway: the listener's own name.
    ListenerName;
    /// A route: `httproute/NAMESPACE/NAME`.
    RouteName;
    /// A pool: `httproute/NAMESPACE/NAME/rule/INDEX`.
    PoolName;
    /// A set of endpoints: `backend/NAMESPACE/NAME` or `service/NAMESPACE/NAME/PORT`.
    BackendName;
    /// Authorities that are trusted together: `configmap/NAMESPACE/NAME` or `secret/NAMESPACE/NAME`.
    CaBundleName;
    /// A certificate with its key: `secret/NAMESPACE/NAME`.
    CertificateName;
    /// A target guard: `guard/cluster`.
    GuardName;
    /// A policy object: `backendtrafficpolicy/NAMESPACE/NAME`, or one merged of two, joined by `+`.
    PolicyName;
}

/// Why a string is no hostname of a listener or route.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostnameError {
    /// Not a DNS name of at most 253 characters.
    #[error("{0:?} is not a lower-case DNS name, optionally with the first label \"*\"")]
    Malformed(String),
    /// Gateway API allows no addresses as hostnames.
    #[error("{0:?} is an IP address; Gateway API hostnames are DNS names")]
    Address(String),
}

/// A hostname of a listener or route: exact (`www.example.com`) or with a first label `*` (`*.example.com`),
/// which stands for one or more labels (Gateway API, `Hostname`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hostname(Arc<str>);

impl Hostname {
    /// Parses a hostname.
    ///
    /// # Errors
    /// [`HostnameError`] if it is no lower-case DNS name (with an optional `*.` in front) or an IP address.
    pub fn new(name: impl AsRef<str>) -> Result<Self, HostnameError> {
        let name = name.as_ref();
        if name.parse::<std::net::IpAddr>().is_ok() {
            return Err(HostnameError::Address(name.to_owned()));
        }
        let labels = name.strip_prefix("*.").unwrap_or(name);
        let good = !labels.is_empty()
            && name.len() <= 253
            && labels.split('.').all(|label| {
                !label.is_empty()
                    && label.len() <= 63
                    && !label.starts_with('-')
                    && !label.ends_with('-')
                    && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            });
        if good { Ok(Self(shared(name))) } else { Err(HostnameError::Malformed(name.to_owned())) }
    }

    /// The hostname as text, with its `*.` if it has one.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part behind `*.`, or `None` for an exact name.
    #[must_use]
    pub fn wildcard_suffix(&self) -> Option<&str> {
        self.0.strip_prefix("*.")
    }

    /// The names that both match: Gateway API's intersection of a listener's and a route's hostname.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        match (self.wildcard_suffix(), other.wildcard_suffix()) {
            (None, None) => (self == other).then(|| self.clone()),
            (Some(suffix), None) => is_below(other.as_str(), suffix).then(|| other.clone()),
            (None, Some(suffix)) => is_below(self.as_str(), suffix).then(|| self.clone()),
            (Some(a), Some(b)) if a == b || is_below(b, a) => Some(other.clone()),
            (Some(a), Some(b)) if is_below(a, b) => Some(self.clone()),
            _ => None,
        }
    }
}

fn is_below(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

impl TryFrom<String> for Hostname {
    type Error = HostnameError;
    fn try_from(name: String) -> Result<Self, HostnameError> {
        Self::new(name)
    }
}

impl From<Hostname> for String {
    fn from(name: Hostname) -> Self {
        name.0.to_string()
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> Hostname {
        Hostname::new(name).unwrap()
    }

    #[test]
    fn hostnames_are_dns_names_with_an_optional_first_wildcard_label() {
        for good in ["example.com", "*.example.com", "localhost", "a-b.c0"] {
            assert!(Hostname::new(good).is_ok(), "{good}");
        }
        for bad in ["", "*", "*.", "a..b", "-a.b", "a.*.b", "Example.com", "1.2.3.4", "::1", "a b", "a_b.c"] {
            assert!(Hostname::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_intersection_of_two_hostnames_is_the_more_specific_one() {
        for (a, b, both) in [
            ("*.example.com", "www.example.com", Some("www.example.com")),
            ("*.example.com", "a.b.example.com", Some("a.b.example.com")),
            ("*.example.com", "example.com", None),
            ("*.example.com", "*.www.example.com", Some("*.www.example.com")),
            ("*.example.com", "*.example.com", Some("*.example.com")),
            ("www.example.com", "www.example.com", Some("www.example.com")),
            ("www.example.com", "example.com", None),
            ("*.example.com", "badexample.com", None),
        ] {
            assert_eq!(host(a).intersect(&host(b)).as_ref().map(Hostname::as_str), both, "{a} {b}");
            assert_eq!(host(b).intersect(&host(a)).as_ref().map(Hostname::as_str), both, "{b} {a}");
        }
    }

    #[test]
    fn equal_names_share_their_text_where_that_is_asked_for() {
        let pair = || [PoolName::new("a").unwrap(), PoolName::new("a").unwrap()];
        let is_shared = |[a, b]: [PoolName; 2]| Arc::ptr_eq(&a.0, &b.0);
        assert!(sharing_texts(|| is_shared(pair())));
        assert!(!is_shared(pair()), "not for ever");
    }

    #[test]
    fn names_refuse_what_would_break_logs_and_files() {
        assert_eq!(PoolName::new(""), Err(NameError::Empty));
        assert_eq!(PoolName::new("a\nb"), Err(NameError::Control));
        assert_eq!(PoolName::new("x".repeat(1025)), Err(NameError::TooLong(1025)));
    }
}
