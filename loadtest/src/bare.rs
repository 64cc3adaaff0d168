//! A bare Pingora proxy with one fixed upstream: what Pingora costs by itself, with stock server and service.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use pingora_core::server::Server;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

/// Arguments of the bare proxy.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where it listens.
    #[arg(long)]
    listen: SocketAddr,
    /// Where requests go.
    #[arg(long)]
    upstream: SocketAddr,
    /// Worker threads.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Let threads take work from each other; without, each has a runtime of its own, which is cheaper.
    #[arg(long)]
    work_stealing: bool,
}

struct Bare {
    upstream: SocketAddr,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        (): &mut (),
    ) -> pingora_core::Result<Box<HttpPeer>> {
        let mut peer = HttpPeer::new(self.upstream, false, String::new());
        // What Understudy sets without a policy of the user's.
        peer.options.connection_timeout = Some(Duration::from_secs(10));
        peer.options.idle_timeout = Some(Duration::from_secs(3600));
        Ok(Box::new(peer))
    }
}

/// Serves until the process is killed.
pub(crate) fn run(args: &Args) -> Result<()> {
    let conf =
        ServerConf { threads: args.threads, work_stealing: args.work_stealing, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut service =
        http_proxy_service(&Arc::clone(&server.configuration), Bare { upstream: args.upstream });
    service.add_tcp(&args.listen.to_string());
    server.add_service(service);
    server.run_forever()
}
