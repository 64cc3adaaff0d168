//! Configurations of nginx and HAProxy that do what the failover task asks for, as far as they can. Pure.

use std::net::SocketAddr;
use std::path::Path;

use crate::wrk::HOST;

/// The addresses of a configuration.
pub(crate) struct Peer {
    pub(crate) listen: SocketAddr,
    /// Where statistics are served.
    pub(crate) admin: SocketAddr,
    pub(crate) active: SocketAddr,
    pub(crate) passive: SocketAddr,
}

/// nginx: one process; connections on both sides stay open, however many requests they carry, as with the others.
pub(crate) fn nginx(peer: &Peer, access_log: &Path) -> String {
    let Peer { listen, admin, active, passive } = peer;
    let log = access_log.display();
    format!(
        r#"daemon off;
master_process off;
worker_processes 1;
pid nginx.pid;
events {{
    worker_connections 4096;
}}
http {{
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    log_format all '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent '
                   '"$http_referer" "$http_user_agent" $upstream_addr $upstream_status $request_time';
    access_log {log} all buffer=64k flush=1s;
    keepalive_requests 1000000000;
    keepalive_timeout 3600s;
    upstream ha {{
        server {active} max_fails=1 fail_timeout=10s;
        server {passive} backup;
        keepalive 1024;
        keepalive_requests 1000000000;
        keepalive_timeout 3600s;
    }}
    server {{
        listen {listen};
        server_name {HOST};
        location /test {{
            proxy_pass http://ha;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_connect_timeout 10s;
            proxy_next_upstream error timeout http_503;
            proxy_next_upstream_tries 3;
        }}
    }}
    server {{
        listen {admin};
        location = /status {{
            access_log off;
            stub_status;
        }}
    }}
}}
"#
    )
}

/// HAProxy: one process with one thread.
pub(crate) fn haproxy(peer: &Peer) -> String {
    let Peer { listen, admin, active, passive } = peer;
    format!(
        r#"global
    nbthread 1
    maxconn 4096
    log stdout format raw local0
defaults
    mode http
    timeout connect 10s
    timeout client 3600s
    timeout server 3600s
    timeout http-request 60s
frontend http
    bind {listen}
    log global
    option httplog
    option forwardfor
    use_backend ha if {{ hdr(host) -i {HOST} }} {{ path_beg /test }}
backend ha
    retries 2
    retry-on conn-failure 503
    option redispatch
    option httpchk
    http-check send meth GET uri /test ver HTTP/1.1 hdr Host {HOST}
    http-reuse always
    default-server check inter 2s observe layer7 error-limit 1 on-error mark-down
    server active {active}
    server passive {passive} backup
frontend statistics
    bind {admin}
    stats enable
    stats uri /stats
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Peer { listen: at(1), admin: at(2), active: at(3), passive: at(4) }
    }

    #[test]
    fn both_have_a_backup_detection_retries_a_log_and_statistics() {
        let nginx = nginx(&peer(), Path::new("/logs/a.log"));
        for line in [
            "server 127.0.0.1:3 max_fails=1 fail_timeout=10s;",
            "server 127.0.0.1:4 backup;",
            "proxy_next_upstream error timeout http_503;",
            "access_log /logs/a.log all buffer=64k flush=1s;",
            "stub_status;",
        ] {
            assert!(nginx.contains(line), "{line}");
        }
        let haproxy = haproxy(&peer());
        for line in [
            "observe layer7",
            "server passive 127.0.0.1:4 backup",
            "retry-on conn-failure 503",
            "log stdout format raw local0",
            "stats enable",
        ] {
            assert!(haproxy.contains(line), "{line}");
        }
    }
}
