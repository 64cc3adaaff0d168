//! From the command line's manifests to what the controller takes.

use std::path::PathBuf;

use understudy_controller::{ListenOptions, Options, Source};

use crate::args::ListenArgs;

/// Manifests as the controller names them; `-` is standard input.
pub(crate) fn sources(paths: &[PathBuf]) -> Vec<Source> {
    let source = |path: &PathBuf| {
        if path.as_os_str() == "-" { Source::Stdin } else { Source::Path(path.clone()) }
    };
    paths.iter().map(source).collect()
}

/// How manifests are translated.
pub(crate) fn options(listen: &ListenArgs) -> Options {
    let listen =
        ListenOptions { bind: listen.bind, port_offset: listen.port_offset, ..ListenOptions::default() };
    Options { listen, ..Options::default() }
}
