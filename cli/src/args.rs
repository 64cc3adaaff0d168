//! The command line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use understudy_conf::{GatewayDuration, Network};
use understudy_controller::GatewayMode;

/// A gateway that keeps an API online: when the primary backends of a route fail, its fallback steps in at once.
#[derive(Debug, Parser)]
#[command(name = "understudy", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve Kubernetes manifests from files: controller and proxy in one process
    Run(RunArgs),
    /// Translate manifests, or a cluster's objects, into the state directory, and follow their changes
    Controller(ControllerArgs),
    /// Serve what stands in the state directory
    Proxy(ProxyArgs),
    /// Say by the exit status whether a proxy serves what stands in the state directory
    Ready(ReadyArgs),
    /// Report every problem of manifests
    Check(CheckArgs),
    /// Show each route's pools: which one serves, and why
    Pools(PoolsArgs),
    /// Walk through a failover with backends of its own
    Demo(DemoArgs),
}

/// Where manifests come from, and how their listeners are bound.
#[derive(Debug, Args)]
pub(crate) struct ManifestArgs {
    /// Manifest files or folders; `-` for standard input
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) listen: ListenArgs,
}

/// How listeners are bound.
#[derive(Debug, Args)]
pub(crate) struct ListenArgs {
    /// Address for the listeners of Gateways that name none in spec.addresses [default: 127.0.0.1; with --kubernetes
    /// 0.0.0.0]
    #[arg(long, value_name = "ADDR")]
    pub(crate) bind: Option<IpAddr>,
    /// Added to the port of listeners below 1024
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) port_offset: u16,
}

/// How the data plane works.
#[derive(Debug, Args)]
pub(crate) struct DataArgs {
    /// Address for metrics, readiness and `understudy pools`; `[::]` is every address, with or without IPv6
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:19000")]
    pub(crate) admin: SocketAddr,
    /// Address of a name that no name server knows, as with curl; may be given several times
    #[arg(long, value_name = "HOST=ADDR", value_parser = parse_resolve)]
    pub(crate) resolve: Vec<(String, IpAddr)>,
    /// Name server to ask instead of the system's
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) dns: Option<SocketAddr>,
    /// At the end, how long clients are still accepted while /ready says no
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_duration)]
    pub(crate) drain_delay: Duration,
    /// Leave room on the sockets for another process of this user, which takes over when this one ends
    #[arg(long)]
    pub(crate) reuse_port: bool,
    /// Threads that carry connections [default: one per processor]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Where the access log goes
    #[arg(long, value_name = "off|stdout|FILE", default_value = "stdout")]
    pub(crate) access_log: String,
    /// How the access log is written
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) manifests: ManifestArgs,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Folder for the state [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ControllerArgs {
    /// Manifest files or folders; `-` for standard input
    #[arg(long, required_unless_present = "kubernetes", num_args = 1.., value_name = "PATH")]
    pub(crate) manifests: Vec<PathBuf>,
    /// Watch the cluster that KUBECONFIG names, or that this runs in
    #[arg(long, conflicts_with = "manifests")]
    pub(crate) kubernetes: bool,
    /// Folder for the state
    #[arg(long, value_name = "DIR")]
    pub(crate) state: PathBuf,
    #[command(flatten)]
    pub(crate) listen: ListenArgs,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

/// Who a controller is in its cluster.
#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    /// Namespace of the installation, with the ConfigMap understudy-config
    #[arg(long, env = "POD_NAMESPACE", value_name = "NS", default_value = "understudy-system")]
    pub(crate) namespace: String,
    /// Name of the pod that this runs in
    #[arg(long, env = "POD_NAME", value_name = "NAME", default_value = "understudy")]
    pub(crate) pod: String,
    /// Name of the node that this runs on
    #[arg(long, env = "NODE_NAME", value_name = "NAME", default_value = "local")]
    pub(crate) node: String,
    /// How clients get to Gateways: by a Service of each, or by the ports of the nodes [default: on --bind]
    #[arg(long, value_name = "service|host", conflicts_with = "manifests")]
    pub(crate) gateways: Option<GatewayMode>,
    /// Addresses of the pod, which say in what families Gateways are served
    #[arg(long, env = "POD_IPS", value_name = "ADDR,ADDR", value_delimiter = ',')]
    pub(crate) pod_ips: Vec<IpAddr>,
    /// Network that no Backend may point to, beside those that are never allowed; may be given several times
    #[arg(long, value_name = "NETWORK", conflicts_with = "manifests")]
    pub(crate) deny_targets: Vec<Network>,
    /// Network that Backends may point to although it is reserved; may be given several times
    #[arg(long, value_name = "NETWORK", conflicts_with = "manifests")]
    pub(crate) allow_targets: Vec<Network>,
    /// Folder in which Unix-domain sockets of Backends may be [default: none may]
    #[arg(long, value_name = "DIR", conflicts_with = "manifests")]
    pub(crate) unix_folder: Option<PathBuf>,
    /// Domain of the cluster, behind NAME.NAMESPACE.svc
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub(crate) cluster_domain: String,
    /// Address for probes: /healthz, and /readyz once a state stands in the folder; `[::]` is every address, with or
    /// without IPv6
    #[arg(long, value_name = "ADDR:PORT", conflicts_with = "manifests")]
    pub(crate) health: Option<SocketAddr>,
}

#[derive(Debug, Args)]
pub(crate) struct ProxyArgs {
    /// Folder with the state
    #[arg(long, value_name = "DIR")]
    pub(crate) state: PathBuf,
    #[command(flatten)]
    pub(crate) data: DataArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ReadyArgs {
    /// Folder with the state
    #[arg(long, value_name = "DIR")]
    pub(crate) state: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) manifests: ManifestArgs,
    /// Warnings count as errors
    #[arg(long)]
    pub(crate) strict: bool,
    /// Also print what is merely worth knowing
    #[arg(long, short)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PoolsArgs {
    /// The proxy's admin address
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:19000")]
    pub(crate) admin: SocketAddr,
    /// Show them again every second
    #[arg(long, short)]
    pub(crate) watch: bool,
    /// How they are shown
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// End after the walk, with exit status 0 only if it went as promised
    #[arg(long)]
    pub(crate) once: bool,
}

/// How the pools are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// How the access log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// A readable line per request.
    Text,
    /// A JSON object per request.
    Json,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration: GatewayDuration = text.parse().map_err(|error| format!("{error}"))?;
    Ok(duration.into())
}

fn parse_resolve(text: &str) -> Result<(String, IpAddr), String> {
    let (host, address) = text.split_once('=').ok_or("write HOST=ADDR, such as active.example=127.0.0.1")?;
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    if host.is_empty() {
        return Err("the host in HOST=ADDR is empty".to_owned());
    }
    let address = address.parse().map_err(|_| format!("{address:?} is no IP address"))?;
    Ok((host, address))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_controller_has_either_manifests_or_a_cluster() {
        let parse = |args: &[&str]| {
            Cli::try_parse_from(["understudy", "controller", "--state", "s"].iter().chain(args))
        };
        assert!(parse(&["--manifests", "a.yaml"]).is_ok());
        assert!(parse(&["--kubernetes", "--health", "127.0.0.1:0"]).is_ok());
        assert!(parse(&[]).unwrap_err().to_string().contains("--manifests"));
        assert!(parse(&["--kubernetes", "--manifests", "a.yaml"]).is_err());
        assert!(parse(&["--manifests", "a.yaml", "--health", "127.0.0.1:0"]).is_err());
    }

    #[test]
    fn names_are_resolved_as_with_curl() {
        let good = parse_resolve("Active.Default.svc.=127.0.0.1").unwrap();
        assert_eq!(good, ("active.default.svc".to_owned(), "127.0.0.1".parse().unwrap()));
        assert_eq!(parse_resolve("a=::1").unwrap().1, "::1".parse::<IpAddr>().unwrap());
        for bad in ["a", "=127.0.0.1", "a=b", "a=127.0.0.1:80"] {
            assert!(parse_resolve(bad).is_err(), "{bad}");
        }
    }
}
