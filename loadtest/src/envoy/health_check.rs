//! Active health checks, as Envoy Gateway renders them. Pure.

use std::fmt::Write as _;

use serde_json::{Value, json};
use understudy_conf::{ActiveHealthCheck, ActiveProbe, GrpcProbe, HttpProbe, Payload, TcpProbe};

use super::config::{RenderError, duration};

/// One check; `host` is the route's own hostname, for checks that name none.
///
/// # Errors
/// [`RenderError::Unsupported`] where Envoy has no such check.
pub(crate) fn build(name: &str, check: &ActiveHealthCheck, host: Option<&str>) -> Result<Value, RenderError> {
    let ActiveHealthCheck {
        probe,
        interval,
        timeout,
        initial_jitter,
        unhealthy_threshold,
        healthy_threshold,
        // Written to the endpoints, where Envoy takes it from.
        port: _,
    } = check;
    let mut rendered = json!({
        "interval": duration(*interval),
        // Not Envoy Gateway's: without it a cluster that is new is checked once a minute, and a case would be over.
        "no_traffic_interval": duration(*interval),
        "timeout": duration(*timeout),
        "unhealthy_threshold": unhealthy_threshold,
        "healthy_threshold": healthy_threshold,
    });
    if !initial_jitter.is_zero() {
        rendered["initial_jitter"] = duration(*initial_jitter);
    }
    match probe {
        ActiveProbe::Http(probe) => rendered["http_health_check"] = build_http(name, probe, host)?,
        ActiveProbe::Tcp(TcpProbe { send, receive }) => {
            let mut tcp = json!({});
            if let Some(send) = send {
                tcp["send"] = payload(send);
            }
            if let Some(receive) = receive {
                tcp["receive"] = json!([payload(receive)]);
            }
            rendered["tcp_health_check"] = tcp;
        }
        ActiveProbe::Grpc(GrpcProbe { service }) => {
            rendered["grpc_health_check"] = json!({"service_name": service});
        }
    }
    Ok(rendered)
}

fn build_http(name: &str, probe: &HttpProbe, host: Option<&str>) -> Result<Value, RenderError> {
    let HttpProbe {
        method,
        path,
        hostname,
        expected_statuses,
        retriable_statuses,
        expected_response,
        request_body,
    } = probe;
    if request_body.is_some() {
        return Err(RenderError::Unsupported(name.to_owned(), "the body of an active check"));
    }
    let ranges = |statuses: &std::collections::BTreeSet<u16>| -> Vec<Value> {
        statuses.iter().map(|status| json!({"start": status, "end": status + 1})).collect()
    };
    let mut http = json!({
        "method": method,
        "path": path,
        "expected_statuses": ranges(expected_statuses),
    });
    // Without a host Envoy sends the name of the cluster.
    if let Some(host) = hostname.as_deref().or(host) {
        http["host"] = json!(host);
    }
    if !retriable_statuses.is_empty() {
        http["retriable_statuses"] = json!(ranges(retriable_statuses));
    }
    if let Some(expected) = expected_response {
        http["receive"] = json!([payload(expected)]);
    }
    Ok(http)
}

/// Envoy takes text as hexadecimal digits, which say any bytes.
fn payload(payload: &Payload) -> Value {
    let mut hex = String::new();
    for byte in payload.as_bytes() {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    json!({"text": hex})
}
