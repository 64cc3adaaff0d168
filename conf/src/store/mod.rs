//! The state on disk.
//!
//! Purpose: carry a [`crate::State`] from the controller to the proxy, and the proxy's answers back. Inputs: a
//! folder, and what is to be written. Outputs: files, and what was read from them. `docs/state.md` describes
//! layout, order and guarantees.
//!
//! The state is a tree whose root, [`ROOT_FILE`], names index files by digest, which name the objects by
//! digest. A file whose content does not fit its digest is refused, files never change once they are written,
//! and only the root is replaced: so a reader sees one whole version or the next, never a mix.

mod digest;
mod disk;
mod error;
mod folder;
mod kind;
mod layout;
mod plan;
mod proxy_files;
mod reader;
mod root;
mod snapshot;
#[cfg(test)]
mod tests;
mod writer;
mod yaml;

pub use error::StoreError;
pub use proxy_files::{
    read_acknowledgement, read_reports, reports_file, write_acknowledgement, write_reports,
};
pub use reader::{Read, Reader};
pub use writer::{Published, Writer};
pub use yaml::from_text;

/// The root's name within the state's folder. A rename onto it is what a reader has to watch for.
pub const ROOT_FILE: &str = "state.yaml";

/// The folder, within the state's folder, that the proxy writes its acknowledgement and reports to.
pub const PROXY_FOLDER: &str = "proxy";

/// The format that this version writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

/// Files larger than this are refused, so that a wrong file cannot exhaust the memory.
pub const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;
