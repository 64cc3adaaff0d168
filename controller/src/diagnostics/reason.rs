//! The reasons that diagnostics give.

use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// Why something is reported. Where Gateway API has a condition reason for it, the name is that one.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$doc])* $name,)+
        }

        impl Reason {
            /// The reason as it is written: `BackendNotFound`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }

            /// Every reason, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];
        }
    };
}

reasons! {
    /// A file or folder could not be read.
    Unreadable,
    /// A file is no YAML or JSON.
    Syntax,
    /// A document is no Kubernetes object, or a field has not its type.
    Malformed,
    /// A field that the kind does not have.
    UnknownField,
    /// A key, or an object, that stands twice.
    Duplicate,
    /// A known kind with another `apiVersion`.
    UnsupportedVersion,
    /// A field's value breaks a rule of its kind.
    Invalid,
    /// A reference to a backend that does not exist.
    BackendNotFound,
    /// A reference into another namespace without a ReferenceGrant.
    RefNotPermitted,
    /// A reference to a kind that cannot be used there.
    InvalidKind,
    /// A value or filter that is not supported.
    UnsupportedValue,
    /// A reference to a Service without a port.
    PortNotSpecified,
    /// A reference to a port that the Service does not have.
    PortNotFound,
    /// TLS to a backend that cannot be set up.
    InvalidBackendTLS,
    /// TLS to a backend whose certificate is not verified.
    InsecureBackend,
    /// A parent that does not exist, or is not served here.
    NoMatchingParent,
    /// A parent whose listeners allow no such route.
    NotAllowedByListeners,
    /// A ListenerSet that its Gateway does not allow.
    NotAllowed,
    /// No hostname in common with the parent's listeners.
    NoMatchingListenerHostname,
    /// A listener that is not supported.
    UnsupportedProtocol,
    /// A listener's port that another Gateway has, or that cannot be bound.
    PortUnavailable,
    /// A listener's certificate that does not exist or cannot be used.
    InvalidCertificateRef,
    /// Authorities for clients' certificates that do not exist or cannot be used.
    InvalidCACertificateRef,
    /// Authorities for clients' certificates in an object of a kind that holds none.
    InvalidCACertificateKind,
    /// A listener that could verify no client.
    NoValidCACertificate,
    /// Clients that are served whatever they show.
    InsecureFrontendValidationMode,
    /// A certificate that is out of date, or soon will be.
    CertificateExpired,
    /// Two listeners with the same port and hostname.
    HostnameConflict,
    /// Two listeners with the same port and different protocols.
    ProtocolConflict,
    /// A kind of route that a listener cannot serve.
    InvalidRouteKinds,
    /// A Gateway's address that cannot be used.
    UnsupportedAddress,
    /// A Gateway whose class is missing, or of another controller.
    InvalidParameters,
    /// A policy's target that does not exist.
    TargetNotFound,
    /// An older policy has the same target.
    Conflicted,
    /// A more specific policy acts instead.
    Overridden,
    /// A Service of which no endpoint is known.
    EndpointsNotFound,
    /// Failover that cannot happen as configured.
    FailoverImpossible,
    /// A field that has no effect in its place.
    NoEffect,
    /// A field that is accepted and does not act yet.
    NotActing,
    /// A name for the same thing that is no longer used.
    DeprecatedField,
    /// What was read last time stays, because what is there now cannot be used.
    LastGoodKept,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
