//! From the command line's manifests to what the controller takes.

use std::net::{IpAddr, Ipv4Addr};
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
    Options { listen: listen_options(listen, Ipv4Addr::LOCALHOST), ..Options::default() }
}

/// Where listeners are bound; `default` where nothing was said.
pub(crate) fn listen_options(listen: &ListenArgs, default: Ipv4Addr) -> ListenOptions {
    let bind = listen.bind.unwrap_or(IpAddr::V4(default));
    ListenOptions { bind, port_offset: listen.port_offset, ..ListenOptions::default() }
}
