//! The root: which index files make up the newest version.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::kind::Kind;
use super::layout::SHARDS;
use super::{FORMAT, StoreError, yaml};

/// Versions above this are taken for garbled when a broken root is searched for its version.
const LARGEST_VERSION: u64 = 1 << 53;

/// Digests of the index files of one kind, by their number.
pub(crate) type Shards = BTreeMap<u8, Digest>;

/// The root, without the line that seals it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Root {
    format: u32,
    pub(crate) version: u64,
    policies: Shards,
    backends: Shards,
    pools: Shards,
    // Left out while there is none, so that a state without the kind is read by whoever does not know it.
    #[serde(default, rename = "ca-bundles", skip_serializing_if = "Shards::is_empty")]
    ca_bundles: Shards,
    #[serde(default, skip_serializing_if = "Shards::is_empty")]
    certificates: Shards,
    #[serde(default, skip_serializing_if = "Shards::is_empty")]
    guards: Shards,
    gateways: Shards,
    routes: Shards,
}

impl Root {
    pub(crate) fn new(version: u64, shards: impl Fn(Kind) -> Shards) -> Self {
        Self {
            format: FORMAT,
            version,
            policies: shards(Kind::Policies),
            backends: shards(Kind::Backends),
            pools: shards(Kind::Pools),
            ca_bundles: shards(Kind::CaBundles),
            certificates: shards(Kind::Certificates),
            guards: shards(Kind::Guards),
            gateways: shards(Kind::Gateways),
            routes: shards(Kind::Routes),
        }
    }

    pub(crate) fn shards(&self, kind: Kind) -> &Shards {
        match kind {
            Kind::Policies => &self.policies,
            Kind::Backends => &self.backends,
            Kind::Pools => &self.pools,
            Kind::CaBundles => &self.ca_bundles,
            Kind::Certificates => &self.certificates,
            Kind::Guards => &self.guards,
            Kind::Gateways => &self.gateways,
            Kind::Routes => &self.routes,
        }
    }

    /// The content of the file: the root, and a last line with the digest of all before it.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, String> {
        let mut text = yaml::to_text(self)?;
        let seal = Digest::of(text.as_bytes());
        text.push_str(&format!("digest: {seal}\n"));
        Ok(text.into_bytes())
    }

    /// Reads the content of the root.
    pub(crate) fn parse(file: &Path, content: &[u8]) -> Result<Self, StoreError> {
        // A newer format may be sealed differently, so the format is looked at first.
        if let Some(found) = number_after(content, "format: ")
            && found > u64::from(FORMAT)
        {
            return Err(StoreError::NewerFormat { file: file.to_owned(), found, known: FORMAT });
        }
        let text = std::str::from_utf8(content)
            .map_err(|error| StoreError::garbled(file, format!("it is no text: {error}")))?;
        let Some(lines) = text.strip_suffix('\n') else {
            return Err(StoreError::truncated(file, "the last line has no end"));
        };
        let start_of_seal = lines.rfind('\n').map_or(0, |end| end + 1);
        let (sealed, seal) = (&text[..start_of_seal], &lines[start_of_seal..]);
        let Some(seal) = seal.strip_prefix("digest: ") else {
            return Err(StoreError::truncated(file, "the last line, \"digest: …\", is missing"));
        };
        let seal: Digest = seal.parse().map_err(|error| StoreError::garbled(file, format!("{error}")))?;
        if Digest::of(sealed.as_bytes()) != seal {
            return Err(StoreError::garbled(file, "its content does not fit its digest"));
        }
        let root: Self = yaml::from_text(sealed).map_err(|reason| StoreError::garbled(file, reason))?;
        if root.format != FORMAT {
            return Err(StoreError::garbled(file, format!("format {} never was", root.format)));
        }
        if Kind::ALL.iter().any(|kind| root.shards(*kind).keys().any(|number| *number >= SHARDS)) {
            return Err(StoreError::garbled(file, format!("there are only {SHARDS} index files per kind")));
        }
        Ok(root)
    }
}

/// The version that a root bears, even if it cannot be read otherwise.
pub(crate) fn version_of(content: &[u8]) -> Option<u64> {
    number_after(content, "version: ").filter(|version| *version <= LARGEST_VERSION)
}

/// The number in the first complete line that begins with `key`.
fn number_after(content: &[u8], key: &str) -> Option<u64> {
    content
        .split_inclusive(|byte| *byte == b'\n')
        .filter_map(|line| line.strip_suffix(b"\n"))
        .find_map(|line| line.strip_prefix(key.as_bytes()))
        .and_then(|number| std::str::from_utf8(number).ok()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Root {
        Root::new(7, |kind| if kind == Kind::Pools { [(3, Digest::of(b"x"))].into() } else { Shards::new() })
    }

    #[test]
    fn a_root_is_read_as_it_was_written() {
        let bytes = root().to_bytes().unwrap();
        assert_eq!(Root::parse(Path::new("state.yaml"), &bytes).unwrap(), root());
        assert_eq!(version_of(&bytes), Some(7));
        assert!(bytes.starts_with(b"format: 1\nversion: 7\n"), "{}", String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn every_change_of_a_byte_and_every_cut_of_a_root_is_found() {
        let bytes = root().to_bytes().unwrap();
        for at in 0..bytes.len() {
            assert!(Root::parse(Path::new("r"), &bytes[..at]).is_err(), "cut at {at}");
            for flipped in [1, 0x20, 0x80] {
                let mut garbled = bytes.clone();
                garbled[at] ^= flipped;
                assert!(Root::parse(Path::new("r"), &garbled).is_err(), "byte {at} ^ {flipped}");
            }
        }
    }

    #[test]
    fn a_version_is_never_taken_from_a_line_that_was_cut() {
        assert_eq!(version_of(b"format: 1\nversion: 12"), None);
        assert_eq!(version_of(b"version: 12\n"), Some(12));
        assert_eq!(version_of(b"version: 18446744073709551615\n"), None);
    }
}
