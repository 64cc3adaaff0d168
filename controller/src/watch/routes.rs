//! Routes of the other kinds in the words of an HTTPRoute, field by field, so that the stages behind know one type.
//!
//! What a field of theirs is called stays what it is called: errors and line numbers are those of the object as it was
//! written. A method of gRPC becomes a path, as it is on the wire.

use gateway_api::apis::experimental::grpcroutes::{
    GrpcRoute, GrpcRouteRulesMatches, GrpcRouteRulesMatchesMethod,
    GrpcRouteRulesMatchesMethodType as MethodType,
};
use gateway_api::apis::experimental::httproutes::{
    HttpRoute, HttpRouteRulesMatches, HttpRouteRulesMatchesPath, HttpRouteRulesMatchesPathType as PathType,
    HttpRouteSpec,
};
use gateway_api::apis::experimental::tcproutes::TcpRoute;
use gateway_api::apis::experimental::tlsroutes::TlsRoute;
use gateway_api::apis::experimental::udproutes::UdpRoute;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde_json::Value;

use crate::watch::de::{TypeError, UnknownField, from_node};
use crate::watch::node::Node;

/// What came of reading a route, with the fields that its kind does not have.
type Read = (Result<HttpRoute, TypeError>, Vec<UnknownField>);

pub(super) fn read_grpc_route(node: &Node) -> Read {
    let (route, unknown) = from_node::<GrpcRoute>(node);
    (route.and_then(as_http), unknown)
}

pub(super) fn read_tls_route(node: &Node) -> Read {
    let (route, unknown) = from_node::<TlsRoute>(node);
    (route.and_then(|route| renamed(route.metadata, &route.spec)), unknown)
}

pub(super) fn read_tcp_route(node: &Node) -> Read {
    let (route, unknown) = from_node::<TcpRoute>(node);
    (route.and_then(|route| renamed(route.metadata, &route.spec)), unknown)
}

pub(super) fn read_udp_route(node: &Node) -> Read {
    let (route, unknown) = from_node::<UdpRoute>(node);
    (route.and_then(|route| renamed(route.metadata, &route.spec)), unknown)
}

/// The types are generated from definitions whose common fields have the same names and forms.
fn renamed(metadata: ObjectMeta, spec: &impl Serialize) -> Result<HttpRoute, TypeError> {
    let spec: Result<HttpRouteSpec, _> = serde_json::to_value(spec).and_then(serde_json::from_value);
    match spec {
        Ok(spec) => Ok(HttpRoute { metadata, spec, status: None }),
        Err(error) => Err(TypeError::whole(error.to_string())),
    }
}

fn as_http(route: GrpcRoute) -> Result<HttpRoute, TypeError> {
    let wrong = |error: serde_json::Error| TypeError::whole(error.to_string());
    let mut spec = serde_json::to_value(&route.spec).map_err(wrong)?;
    let rules = spec.get_mut("rules").and_then(Value::as_array_mut);
    for (value, rule) in rules.into_iter().flatten().zip(route.spec.rules.iter().flatten()) {
        if let Some(matches) = &rule.matches {
            let matches: Result<Vec<_>, _> = matches.iter().map(match_as_http).collect();
            value["matches"] = serde_json::to_value(matches.map_err(wrong)?).map_err(wrong)?;
        }
    }
    renamed(route.metadata, &spec)
}

fn match_as_http(source: &GrpcRouteRulesMatches) -> Result<HttpRouteRulesMatches, serde_json::Error> {
    let headers = serde_json::to_value(&source.headers).and_then(serde_json::from_value)?;
    let path = source.method.as_ref().and_then(path_of);
    Ok(HttpRouteRulesMatches { path, headers, ..HttpRouteRulesMatches::default() })
}

/// The path of a method; `None` if every method is meant.
fn path_of(source: &GrpcRouteRulesMatchesMethod) -> Option<HttpRouteRulesMatchesPath> {
    let given = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
    let (service, method) = (given(&source.service), given(&source.method));
    let any = || "[^/]+".to_owned();
    let (kind, path) = match (source.r#type.as_ref(), service, method) {
        (_, None, None) => return None,
        (Some(MethodType::RegularExpression), service, method) => {
            let group = |text: String| format!("(?:{text})");
            let (service, method) = (service.map_or_else(any, group), method.map_or_else(any, group));
            (PathType::RegularExpression, format!("/{service}/{method}"))
        }
        (_, Some(service), Some(method)) => (PathType::Exact, format!("/{service}/{method}")),
        (_, Some(service), None) => (PathType::PathPrefix, format!("/{service}")),
        (_, None, Some(method)) => {
            (PathType::RegularExpression, format!("/[^/]+/{}", regex::escape(&method)))
        }
    };
    Some(HttpRouteRulesMatchesPath { r#type: Some(kind), value: Some(path) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(method: &str) -> Option<(PathType, String)> {
        let method: GrpcRouteRulesMatchesMethod = serde_yaml::from_str(method).unwrap();
        path_of(&method).map(|path| (path.r#type.unwrap(), path.value.unwrap()))
    }

    #[test]
    fn a_method_of_grpc_is_a_path() {
        let exact = |path: &str| Some((PathType::Exact, path.to_owned()));
        let prefix = |path: &str| Some((PathType::PathPrefix, path.to_owned()));
        let regex = |path: &str| Some((PathType::RegularExpression, path.to_owned()));
        assert_eq!(path("{service: a.B, method: C}"), exact("/a.B/C"));
        assert_eq!(path("{type: Exact, service: a.B}"), prefix("/a.B"));
        assert_eq!(path("{method: C}"), regex("/[^/]+/C"));
        assert_eq!(path("{type: RegularExpression, service: a|b}"), regex("/(?:a|b)/[^/]+"));
        assert_eq!(path("{type: RegularExpression, method: 'C.*'}"), regex("/[^/]+/(?:C.*)"));
        assert_eq!(path("{service: '', method: ''}"), None);
        assert_eq!(path("{}"), None);
    }
}
