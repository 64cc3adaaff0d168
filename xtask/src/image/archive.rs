//! An image for containers in one file, without Docker: an OCI layout that is a `docker save` archive as well.
//!
//! Inputs: names, settings and files. Output: a tar archive that `ctr image import`, `docker load`, `podman load` and
//! `kind load image-archive` read. The same inputs give the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// What an image is.
pub(crate) struct Image {
    /// Its names, with tags: `understudy:0.1.0`.
    pub(crate) names: Vec<String>,
    /// The program that it runs.
    pub(crate) entrypoint: String,
    /// As which user the program runs; root, if empty.
    pub(crate) user: String,
    /// Files by their path without a leading slash.
    pub(crate) files: BTreeMap<String, Node>,
}

/// A file of an image.
pub(crate) struct Node {
    /// Permissions.
    pub(crate) mode: u32,
    /// What it contains.
    pub(crate) content: Vec<u8>,
    /// Whether a user who is not root may be given the right to bind ports below 1024 with it.
    pub(crate) binds_low_ports: bool,
}

impl Node {
    /// A program.
    pub(crate) fn program(content: Vec<u8>) -> Self {
        Self { mode: 0o755, content, binds_low_ports: false }
    }

    /// The same, which may bind ports below 1024 in a container that has NET_BIND_SERVICE.
    pub(crate) fn binding_low_ports(self) -> Self {
        Self { binds_low_ports: true, ..self }
    }

    /// A file that everybody may read.
    pub(crate) fn text(content: impl Into<Vec<u8>>) -> Self {
        Self { mode: 0o644, content: content.into(), binds_low_ports: false }
    }
}

/// A part of the archive that others name by its digest.
struct Blob {
    digest: String,
    size: usize,
}

impl Blob {
    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest)
    }

    fn described(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": format!("sha256:{}", self.digest), "size": self.size })
    }
}

impl Image {
    /// Writes the archive.
    pub(crate) fn write(&self, out: &Path) -> Result<()> {
        let file = File::create(out).with_context(|| format!("creating {}", out.display()))?;
        let mut archive = Builder::new(BufWriter::new(file));
        let layer = append_blob(&mut archive, &self.layer()?)?;
        let config = append_blob(&mut archive, &serde_json::to_vec(&self.config(&layer))?)?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.described(CONFIG),
            "layers": [layer.described(LAYER)],
        });
        let manifest = append_blob(&mut archive, &serde_json::to_vec(&manifest)?)?;
        let manifests: Vec<Value> = self.names.iter().map(|name| named(&manifest, name)).collect();
        let index = json!({ "schemaVersion": 2, "manifests": manifests });
        append_json(&mut archive, "index.json", &index)?;
        append_json(&mut archive, "oci-layout", &json!({ "imageLayoutVersion": "1.0.0" }))?;
        // What Docker reads.
        let saved = json!([{ "Config": config.path(), "RepoTags": self.names, "Layers": [layer.path()] }]);
        append_json(&mut archive, "manifest.json", &saved)?;
        archive.into_inner()?.flush()?;
        Ok(())
    }

    fn config(&self, layer: &Blob) -> Value {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        json!({
            "architecture": architecture,
            "os": "linux",
            "config": {
                "Entrypoint": [self.entrypoint],
                "Env": ["PATH=/"],
                "User": self.user,
                "WorkingDir": "/",
            },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", layer.digest)] },
        })
    }

    /// The one layer: folders first, then the files in the order of their paths.
    fn layer(&self) -> Result<Vec<u8>> {
        let mut layer = Builder::new(Vec::new());
        for folder in self.folders() {
            let mut header = header(EntryType::Directory, if folder == "tmp" { 0o1777 } else { 0o755 }, 0);
            layer.append_data(&mut header, format!("{folder}/"), std::io::empty())?;
        }
        for (path, node) in &self.files {
            if node.binds_low_ports {
                let record = extended_record("SCHILY.xattr.security.capability", &NET_BIND_SERVICE);
                let mut header = header(EntryType::XHeader, 0o644, record.len());
                layer.append_data(&mut header, "attributes", record.as_slice())?;
            }
            let mut header = header(EntryType::Regular, node.mode, node.content.len());
            layer.append_data(&mut header, path, node.content.as_slice())?;
        }
        Ok(layer.into_inner()?)
    }

    fn folders(&self) -> BTreeSet<&str> {
        let mut folders = BTreeSet::from(["tmp"]);
        for path in self.files.keys() {
            folders.extend(path.match_indices('/').map(|(at, _)| &path[..at]));
        }
        folders
    }
}

/// A file's capabilities as the system stores them (`struct vfs_cap_data`, version 2): NET_BIND_SERVICE is permitted. It is
/// not effective by itself: such a program could not be started in containers that have dropped it.
const NET_BIND_SERVICE: [u8; 20] = [0, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A record of an extended header (pax): its own length, a name and a value.
fn extended_record(name: &str, value: &[u8]) -> Vec<u8> {
    let rest = name.len() + value.len() + 3;
    // The digits of the length count as well.
    let digits = |length: usize| length.to_string().len();
    let mut length = rest + digits(rest);
    if rest + digits(length) != length {
        length += 1;
    }
    [format!("{length} {name}=").as_bytes(), value, b"\n"].concat()
}

/// An entry that belongs to root and to no time.
fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn append_blob<W: Write>(archive: &mut Builder<W>, bytes: &[u8]) -> Result<Blob> {
    let digest = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let blob = Blob { digest, size: bytes.len() };
    append(archive, &blob.path(), bytes)?;
    Ok(blob)
}

fn append_json<W: Write>(archive: &mut Builder<W>, path: &str, value: &Value) -> Result<()> {
    append(archive, path, &serde_json::to_vec(value)?)
}

fn append<W: Write>(archive: &mut Builder<W>, path: &str, bytes: &[u8]) -> Result<()> {
    let mut header = header(EntryType::Regular, 0o644, bytes.len());
    archive.append_data(&mut header, path, bytes)?;
    Ok(())
}

/// The manifest under one of the image's names, as containerd looks for it.
fn named(manifest: &Blob, name: &str) -> Value {
    let mut described = manifest.described(MANIFEST);
    let tag = name.rsplit(':').next().unwrap_or(name);
    described["annotations"] = json!({
        "io.containerd.image.name": full_name(name),
        "org.opencontainers.image.ref.name": tag,
    });
    described
}

/// A name as a kubelet completes it, when it is not complete.
fn full_name(name: &str) -> String {
    match name.split_once('/') {
        None => format!("docker.io/library/{name}"),
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Image {
        Image {
            names: vec!["a:1".to_owned(), "localhost/b:2".to_owned()],
            entrypoint: "/a".to_owned(),
            user: "65532".to_owned(),
            files: BTreeMap::from([
                ("a".to_owned(), Node::program(b"#!".to_vec())),
                ("etc/ssl/x".to_owned(), Node::text("x")),
            ]),
        }
    }

    fn entries(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut entries = BTreeMap::new();
        for entry in tar::Archive::new(archive).entries().unwrap() {
            let mut entry = entry.unwrap();
            assert_eq!(entry.header().mtime().unwrap(), 0);
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            entries.insert(entry.path().unwrap().to_string_lossy().into_owned(), bytes);
        }
        entries
    }

    #[test]
    fn every_digest_in_the_archive_names_a_part_of_it() {
        let out = std::env::temp_dir().join(format!("understudy-image-{}", std::process::id()));
        image().write(&out).unwrap();
        let entries = entries(&std::fs::read(&out).unwrap());
        std::fs::remove_file(&out).unwrap();
        let index: Value = serde_json::from_slice(&entries["index.json"]).unwrap();
        let names: Vec<&str> = index["manifests"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m["annotations"]["io.containerd.image.name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["docker.io/library/a:1", "localhost/b:2"]);
        let blob = |described: &Value| {
            let digest = described["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
            let bytes = &entries[&format!("blobs/sha256/{digest}")];
            assert_eq!(bytes.len() as u64, described["size"].as_u64().unwrap());
            bytes
        };
        let manifest: Value = serde_json::from_slice(blob(&index["manifests"][0])).unwrap();
        let config: Value = serde_json::from_slice(blob(&manifest["config"])).unwrap();
        assert_eq!(config["config"]["User"], "65532");
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        let saved: Value = serde_json::from_slice(&entries["manifest.json"]).unwrap();
        assert_eq!(saved[0]["RepoTags"], json!(["a:1", "localhost/b:2"]));
        assert!(entries.contains_key(saved[0]["Layers"][0].as_str().unwrap()));
    }

    #[test]
    fn a_layer_has_its_folders_before_their_files_and_is_the_same_each_time() {
        let layer = image().layer().unwrap();
        assert_eq!(layer, image().layer().unwrap());
        let paths: Vec<String> = tar::Archive::new(layer.as_slice())
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(paths, ["etc/", "etc/ssl/", "tmp/", "a", "etc/ssl/x"]);
    }

    #[test]
    fn a_program_may_carry_the_right_to_bind_low_ports() {
        let mut image = image();
        image.files.insert("b".to_owned(), Node::program(b"#!".to_vec()).binding_low_ports());
        let layer = image.layer().unwrap();
        let carried = |path: &str| {
            let mut archive = tar::Archive::new(layer.as_slice());
            let mut entry = archive
                .entries()
                .unwrap()
                .map(Result::unwrap)
                .find(|e| e.path_bytes() == path.as_bytes())
                .unwrap();
            let records = entry.pax_extensions().unwrap().into_iter().flatten().map(Result::unwrap);
            records.map(|r| (r.key().unwrap().to_owned(), r.value_bytes().to_vec())).collect::<Vec<_>>()
        };
        let expected = ("SCHILY.xattr.security.capability".to_owned(), NET_BIND_SERVICE.to_vec());
        assert_eq!(carried("b"), [expected]);
        assert_eq!(carried("a"), []);
    }

    #[test]
    fn the_length_of_a_record_counts_its_own_digits() {
        for value in 0..200 {
            let record = extended_record("name", &vec![b'x'; value]);
            let length = record.split(|byte| *byte == b' ').next().unwrap();
            assert_eq!(String::from_utf8_lossy(length), record.len().to_string());
        }
    }

    #[test]
    fn names_without_a_host_are_completed_as_a_kubelet_completes_them() {
        assert_eq!(full_name("understudy:0.1.0"), "docker.io/library/understudy:0.1.0");
        assert_eq!(full_name("team/understudy:1"), "docker.io/team/understudy:1");
        assert_eq!(full_name("registry.example:5000/understudy:1"), "registry.example:5000/understudy:1");
    }
}
