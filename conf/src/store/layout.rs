//! Where everything stands within the state's folder.

use std::path::{Path, PathBuf};

use super::digest::Digest;
use super::disk::Access;
use super::kind::Kind;

/// Index files per kind. A change rewrites one of them, so each should stay small.
pub(crate) const SHARDS: u8 = 64;

/// The folder of the index files.
pub(crate) const INDEX: &str = "index";

/// The file whose lock makes a controller the only writer.
pub(crate) const LOCK_FILE: &str = "controller.lock";

/// What the name of a file begins with until it is complete.
pub(crate) const TEMPORARY: &str = ".tmp-";

/// The readable part of a file's name is cut to this: with the digest it must stay below 255 bytes.
const READABLE_BYTES: usize = 180;

/// The index file that an object's name stands in.
pub(crate) fn shard_of(name: &str) -> u8 {
    Digest::of(name.as_bytes()).first_byte() % SHARDS
}

/// A file below the root.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FileId {
    Object { kind: Kind, name: String, digest: Digest },
    Shard { kind: Kind, number: u8, digest: Digest },
}

impl FileId {
    /// Who may read it.
    pub(crate) fn access(&self) -> Access {
        match self {
            Self::Object { kind, .. } if kind.is_private() => Access::Private,
            Self::Object { .. } | Self::Shard { .. } => Access::Shared,
        }
    }

    pub(crate) fn path(&self, folder: &Path) -> PathBuf {
        match self {
            Self::Object { kind, name, digest } => {
                folder.join(kind.folder()).join(format!("{}.{digest}.yaml", readable(name)))
            }
            Self::Shard { kind, number, digest } => {
                folder.join(INDEX).join(format!("{}-{number:02}.{digest}.yaml", kind.folder()))
            }
        }
    }
}

/// An object's name as part of a file name. It only helps people: the digest keeps files apart.
fn readable(name: &str) -> String {
    name.chars()
        .map(|c| match c {
            '/' => '_',
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' | '-' | '+' => c,
            _ => '-',
        })
        .take(READABLE_BYTES)
        .enumerate()
        // A leading dot would hide the file, and might make it look like an incomplete one.
        .map(|(at, c)| if at == 0 && c == '.' { '-' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_file_tells_its_object_and_is_always_allowed() {
        for (name, expected) in [
            ("httproute/default/shop", "httproute_default_shop"),
            ("a+b", "a+b"),
            ("../../etc/passwd", "-._.._etc_passwd"),
            ("..", "-."),
            (".tmp-x", "-tmp-x"),
            ("ä b:c\\d", "--b-c-d"),
        ] {
            assert_eq!(readable(name), expected);
        }
        let digest = Digest::of(b"");
        let id = FileId::Object { kind: Kind::Pools, name: "é".repeat(512), digest };
        let path = id.path(Path::new("/state"));
        assert_eq!(path.parent(), Some(Path::new("/state/pools")));
        assert!(path.file_name().unwrap().len() + TEMPORARY.len() < 255);
    }

    #[test]
    fn the_shard_of_a_name_never_changes_between_versions() {
        assert_eq!(shard_of("httproute/default/shop"), 48);
        assert!((0..10_000).all(|n| shard_of(&format!("x{n}")) < SHARDS));
    }
}
