//! TLS to a backend's endpoints.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::BackendEndpoint;
use crate::problem::Checker;
use crate::schema;

/// TLS to a backend's endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = schema::rules(&[
    ("!(has(self.caCertificateRefs) && size(self.caCertificateRefs) > 0 && has(self.wellKnownCACertificates))", "caCertificateRefs and wellKnownCACertificates exclude each other"),
    ("!(has(self.insecureSkipVerify) && self.insecureSkipVerify && ((has(self.caCertificateRefs) && size(self.caCertificateRefs) > 0) || has(self.wellKnownCACertificates)))", "insecureSkipVerify excludes caCertificateRefs and wellKnownCACertificates"),
    ("!(has(self.sni) && has(self.autoSNIFromEndpointHostname) && self.autoSNIFromEndpointHostname)", "sni and autoSNIFromEndpointHostname exclude each other"),
    ("!(has(self.ciphers) && has(self.minVersion) && self.minVersion == '1.3')", "TLS 1.3 has no choice of ciphers; remove them, or lower minVersion"),
    ("!has(self.minVersion) || !has(self.maxVersion) || self.minVersion == 'Auto' || self.maxVersion == 'Auto' || self.minVersion <= self.maxVersion", "minVersion is above maxVersion"),
])))]
pub struct BackendTls {
    /// Where the authorities that sign the endpoints' certificates are; at most 8. Without them, without
    /// `wellKnownCACertificates` and `insecureSkipVerify`, a BackendTLSPolicy has to say whom to trust.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    pub ca_certificate_refs: Option<Vec<ObjectReference>>,
    /// `System`: the machine's own authorities.
    #[serde(rename = "wellKnownCACertificates", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["System"]))]
    pub well_known_ca_certificates: Option<String>,
    /// True: certificates are not verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub insecure_skip_verify: Option<bool>,
    /// The name that is sent and verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::NAME))]
    pub sni: Option<String>,
    /// Send each endpoint's own hostname.
    #[serde(rename = "autoSNIFromEndpointHostname", skip_serializing_if = "Option::is_none")]
    pub auto_sni_from_endpoint_hostname: Option<bool>,
    /// The certificate that the gateway shows to the endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate_ref: Option<SecretReference>,
    /// `Auto` or 1.0 to 1.3.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = schema::TLS_VERSIONS))]
    pub min_version: Option<String>,
    /// `Auto` or 1.0 to 1.3.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = schema::TLS_VERSIONS))]
    pub max_version: Option<String>,
    /// Cipher suites below TLS 1.3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ciphers: Option<Vec<String>>,
    /// Curves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ecdh_curves: Option<Vec<String>>,
    /// Signature algorithms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature_algorithms: Option<Vec<String>>,
    /// ALPN protocols.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpn_protocols: Option<Vec<String>>,
    /// `JA3`, `JA4`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(inner(regex(pattern = "^JA[34]$")))]
    pub fingerprints: Option<Vec<String>>,
}

/// An object in the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ObjectReference {
    /// The object's group; empty for the core group.
    #[schemars(length(max = 253))]
    pub group: String,
    /// The object's kind.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// The object's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// A Secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("required" = ["name"]))]
pub struct SecretReference {
    /// Empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub group: Option<String>,
    /// `Secret`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Secret"]))]
    pub kind: Option<String>,
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its namespace; default: the backend's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
}

impl BackendTls {
    pub(crate) fn validate(&self, check: &mut Checker<'_>, dynamic: bool, endpoints: &[BackendEndpoint]) {
        let insecure = self.insecure_skip_verify == Some(true);
        // An empty list is none.
        let refs = self.ca_certificate_refs.as_ref().filter(|refs| !refs.is_empty());
        if refs.is_some() && self.well_known_ca_certificates.is_some() {
            check.problem(
                "wellKnownCACertificates",
                "it stands beside caCertificateRefs",
                "Keep one of the two.",
            );
        }
        if insecure && (refs.is_some() || self.well_known_ca_certificates.is_some()) {
            check.problem(
                "insecureSkipVerify",
                "it excludes caCertificateRefs and wellKnownCACertificates",
                "Remove insecureSkipVerify to have certificates verified.",
            );
        }
        if let Some(refs) = refs {
            check.items("caCertificateRefs", refs.len(), 1, 8);
            for (index, reference) in refs.iter().enumerate() {
                if !["ConfigMap", "Secret", "ClusterTrustBundle"].contains(&reference.kind.as_str()) {
                    check.item("caCertificateRefs", index).problem(
                        "kind",
                        format!("{:?} holds no certificates", reference.kind),
                        "Use ConfigMap, Secret or ClusterTrustBundle.",
                    );
                }
            }
        }
        if let Some(known) = &self.well_known_ca_certificates
            && known != "System"
        {
            check.problem("wellKnownCACertificates", format!("{known:?} is unknown"), "Use System.");
        }
        self.validate_sni(check, dynamic, endpoints);
        self.validate_versions(check);
        for (index, print) in self.fingerprints.iter().flatten().enumerate() {
            if !["JA3", "JA4"].contains(&print.as_str()) {
                check.problem(
                    &format!("fingerprints[{index}]"),
                    format!("{print:?} is unknown"),
                    "Use JA3 or JA4.",
                );
            }
        }
        if let Some(secret) = &self.client_certificate_ref
            && secret.kind.as_deref().is_some_and(|kind| kind != "Secret")
        {
            check.problem(
                "clientCertificateRef.kind",
                "a client certificate is a Secret",
                "Use kind Secret.",
            );
        }
    }

    fn validate_sni(&self, check: &mut Checker<'_>, dynamic: bool, endpoints: &[BackendEndpoint]) {
        if let Some(sni) = &self.sni {
            check.dns_name("sni", sni);
        }
        if self.auto_sni_from_endpoint_hostname != Some(true) {
            return;
        }
        if self.sni.is_some() {
            check.problem("autoSNIFromEndpointHostname", "it stands beside sni", "Keep one of the two.");
        }
        if dynamic {
            check.problem(
                "autoSNIFromEndpointHostname",
                "a DynamicResolver has no endpoints whose hostname could be sent",
                "Remove it.",
            );
        }
        if endpoints.iter().any(|endpoint| endpoint.fqdn.is_none() && endpoint.hostname.is_none()) {
            check.problem(
                "autoSNIFromEndpointHostname",
                "an endpoint has no hostname to send",
                "Give every ip and unix endpoint a hostname, or use sni.",
            );
        }
    }

    fn validate_versions(&self, check: &mut Checker<'_>) {
        let rank = |version: &Option<String>| match version.as_deref() {
            None | Some("Auto") => Ok(None),
            Some("1.0") => Ok(Some(0)),
            Some("1.1") => Ok(Some(1)),
            Some("1.2") => Ok(Some(2)),
            Some("1.3") => Ok(Some(3)),
            Some(other) => Err(format!("{other:?} is no TLS version")),
        };
        let (min, max) = (rank(&self.min_version), rank(&self.max_version));
        for (field, version) in [("minVersion", &min), ("maxVersion", &max)] {
            if let Err(message) = version {
                check.problem(field, message.clone(), "Use Auto, 1.0, 1.1, 1.2 or 1.3.");
            }
        }
        if let (Ok(Some(min)), Ok(Some(max))) = (&min, &max)
            && min > max
        {
            check.problem("minVersion", "it is above maxVersion", "Swap the two, or remove one.");
        }
        if self.ciphers.is_some() && min == Ok(Some(3)) {
            check.problem("ciphers", "TLS 1.3 has no choice of ciphers", "Remove them, or lower minVersion.");
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::Backend;

    fn fields(tls: &str) -> Vec<String> {
        let text =
            format!("spec:\n  endpoints: [{{ip: {{address: 10.0.0.1, port: 1}}}}]\n  tls: {{{tls}}}\n");
        let backend: Backend = serde_yaml::from_str(&text).unwrap();
        backend.validate().into_iter().map(|problem| problem.field).collect()
    }

    #[test]
    fn what_excludes_each_other_is_refused() {
        for (tls, field) in [
            ("insecureSkipVerify: true, wellKnownCACertificates: System", "spec.tls.insecureSkipVerify"),
            ("wellKnownCACertificates: Mine", "spec.tls.wellKnownCACertificates"),
            ("insecureSkipVerify: true, minVersion: '1.3', maxVersion: '1.2'", "spec.tls.minVersion"),
            ("insecureSkipVerify: true, minVersion: '1.3', ciphers: [a]", "spec.tls.ciphers"),
            ("insecureSkipVerify: true, maxVersion: '2'", "spec.tls.maxVersion"),
            (
                "insecureSkipVerify: true, autoSNIFromEndpointHostname: true",
                "spec.tls.autoSNIFromEndpointHostname",
            ),
            ("insecureSkipVerify: true, sni: 'a b'", "spec.tls.sni"),
            ("caCertificateRefs: [{group: '', kind: Pod, name: a}]", "spec.tls.caCertificateRefs[0].kind"),
        ] {
            assert_eq!(fields(tls), [field], "{tls}");
        }
        // A BackendTLSPolicy may say whom to trust.
        assert_eq!(fields(""), [""; 0]);
        assert_eq!(fields("wellKnownCACertificates: System, sni: a.example.com"), [""; 0]);
    }
}
