//! Filters of an HTTPRoute's rule and of its references.

use gateway_api::apis::experimental::httproutes::{
    HttpRouteRulesBackendRefs, HttpRouteRulesBackendRefsFilters, HttpRouteRulesFilters,
    HttpRouteRulesFiltersRequestMirror, HttpRouteRulesFiltersRequestRedirect,
    HttpRouteRulesFiltersRequestRedirectPathType as RedirectPathType,
    HttpRouteRulesFiltersRequestRedirectScheme as Scheme, HttpRouteRulesFiltersType as Type,
    HttpRouteRulesFiltersUrlRewrite, HttpRouteRulesFiltersUrlRewritePathType as RewritePathType,
};
use understudy_conf::{HeaderValue, Hostname, HttpFilter, PathRewrite, Redirect, UrlRewrite};

use crate::graph::cors::build_cors;
use crate::graph::matches::is_header_name;
use crate::graph::rules::Findings;

/// What filters come to.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct BuiltFilters {
    pub(crate) filters: Vec<HttpFilter>,
    pub(crate) redirect: Option<Redirect>,
    pub(crate) mirrors: Vec<MirrorSource>,
}

/// A mirror whose reference is still to be followed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MirrorSource {
    /// Its place, from the rule or the reference on.
    pub(crate) field: String,
    pub(crate) reference: HttpRouteRulesBackendRefs,
    pub(crate) numerator: u32,
    pub(crate) denominator: u32,
}

/// Builds a rule's filters; `None`, with findings, if one of them cannot act: then the rule answers 500.
///
/// `single_prefix` says whether the rule matches one path prefix and nothing else, which replacing a prefix
/// needs.
pub(crate) fn build_filters(
    source: &[HttpRouteRulesFilters],
    single_prefix: bool,
    found: &mut Findings<'_>,
) -> Option<BuiltFilters> {
    let mut built = BuiltFilters::default();
    let mut kinds: Vec<Type> = Vec::new();
    let before = found.errors();
    for (index, filter) in source.iter().enumerate() {
        let mut found = found.at(&format!("filters[{index}]"));
        let repeatable = matches!(filter.r#type, Type::RequestMirror | Type::ExtensionRef);
        if kinds.contains(&filter.r#type) && !repeatable {
            found.error(
                "type",
                "an earlier filter has this type already",
                "Put both changes into one filter.",
            );
        }
        kinds.push(filter.r#type.clone());
        let before = built.mirrors.len();
        build_filter(filter, single_prefix, &mut built, &mut found);
        for mirror in &mut built.mirrors[before..] {
            mirror.field = format!("filters[{index}].requestMirror.backendRef");
        }
    }
    if kinds.contains(&Type::RequestRedirect) && kinds.contains(&Type::UrlRewrite) {
        found.error(
            "filters",
            "RequestRedirect and URLRewrite exclude each other",
            "Keep one; a redirect can change the path by itself.",
        );
    }
    (found.errors() == before).then_some(built)
}

/// Builds the filters of a reference, which are those of a rule by other names.
pub(crate) fn build_ref_filters(
    source: &[HttpRouteRulesBackendRefsFilters],
    single_prefix: bool,
    found: &mut Findings<'_>,
) -> Option<BuiltFilters> {
    // The two types are generated from one definition, so that their forms are the same.
    let same = source.iter().map(|filter| serde_json::to_value(filter).and_then(serde_json::from_value));
    let filters: Vec<HttpRouteRulesFilters> = match same.collect() {
        Ok(filters) => filters,
        Err(error) => {
            let error: serde_json::Error = error;
            found.error("filters", error.to_string(), "Write them as the filters of a rule.");
            return None;
        }
    };
    let built = build_filters(&filters, single_prefix, found)?;
    if built.redirect.is_some() {
        found.unsupported(
            "filters",
            "a redirect cannot stand at one reference",
            "Put RequestRedirect into the rule's own filters.",
        );
        return None;
    }
    if built.filters.iter().any(|filter| matches!(filter, HttpFilter::Cors(_))) {
        found.unsupported(
            "filters",
            "CORS cannot stand at one reference: browsers are answered before one is chosen",
            "Put CORS into the rule's own filters.",
        );
        return None;
    }
    Some(built)
}

fn build_filter(
    filter: &HttpRouteRulesFilters,
    single_prefix: bool,
    built: &mut BuiltFilters,
    found: &mut Findings<'_>,
) {
    let mut missing = |field: &str| found.error(field, "the filter's type needs it", format!("Add {field}."));
    match filter.r#type {
        Type::RequestHeaderModifier => match &filter.request_header_modifier {
            None => missing("requestHeaderModifier"),
            Some(modifier) => {
                let mut found = found.at("requestHeaderModifier");
                let set = modifier.set.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect();
                let set = headers("set", set, &mut found);
                let add = modifier.add.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect();
                let add = headers("add", add, &mut found);
                let remove = removals(modifier.remove.as_deref(), &mut found);
                built.filters.push(HttpFilter::RequestHeaders { set, add, remove });
            }
        },
        Type::ResponseHeaderModifier => match &filter.response_header_modifier {
            None => missing("responseHeaderModifier"),
            Some(modifier) => {
                let mut found = found.at("responseHeaderModifier");
                let set = modifier.set.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect();
                let set = headers("set", set, &mut found);
                let add = modifier.add.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect();
                let add = headers("add", add, &mut found);
                let remove = removals(modifier.remove.as_deref(), &mut found);
                built.filters.push(HttpFilter::ResponseHeaders { set, add, remove });
            }
        },
        Type::RequestRedirect => match &filter.request_redirect {
            None => missing("requestRedirect"),
            Some(redirect) => {
                built.redirect =
                    Some(build_redirect(redirect, single_prefix, &mut found.at("requestRedirect")));
            }
        },
        Type::UrlRewrite => match &filter.url_rewrite {
            None => missing("urlRewrite"),
            Some(rewrite) => {
                let rewrite = build_rewrite(rewrite, single_prefix, &mut found.at("urlRewrite"));
                built.filters.push(HttpFilter::UrlRewrite(rewrite));
            }
        },
        Type::Cors => match &filter.cors {
            None => missing("cors"),
            Some(cors) => built.filters.push(HttpFilter::Cors(build_cors(cors, &mut found.at("cors")))),
        },
        Type::RequestMirror => match &filter.request_mirror {
            None => missing("requestMirror"),
            Some(mirror) => built.mirrors.push(build_mirror(mirror, &mut found.at("requestMirror"))),
        },
        Type::ExtensionRef | Type::ExternalAuth => {
            let name = match filter.r#type {
                Type::ExtensionRef => "ExtensionRef",
                _ => "ExternalAuth",
            };
            found.unsupported(
                "type",
                format!("filters of type {name} are not supported"),
                "Remove it: what it covers answers 500 as long as it is there.",
            );
        }
    }
}

/// Which share of the requests goes to which reference.
fn build_mirror(source: &HttpRouteRulesFiltersRequestMirror, found: &mut Findings<'_>) -> MirrorSource {
    if source.percent.is_some() && source.fraction.is_some() {
        found.error("percent", "percent and fraction exclude each other", "Keep one of them.");
    }
    let (numerator, denominator) = match (&source.fraction, source.percent) {
        (Some(fraction), _) => (fraction.numerator, fraction.denominator.unwrap_or(100)),
        (None, percent) => (percent.unwrap_or(100), 100),
    };
    let share = u32::try_from(numerator).ok().zip(u32::try_from(denominator).ok());
    let share = share.filter(|(numerator, denominator)| *denominator > 0 && numerator <= denominator);
    let field = if source.fraction.is_some() { "fraction" } else { "percent" };
    if share.is_none() {
        found.error(
            field,
            format!("{numerator} of {denominator} is no share"),
            "Use a percent from 0 to 100, or a fraction that is at most 1.",
        );
    }
    if share.is_some_and(|(numerator, _)| numerator == 0) {
        found.ignored(field, "nothing is mirrored", "Use a larger share, or remove the filter.");
    }
    let (numerator, denominator) = share.unwrap_or((0, 100));
    let reference = &source.backend_ref;
    let reference = HttpRouteRulesBackendRefs {
        group: reference.group.clone(),
        kind: reference.kind.clone(),
        name: reference.name.clone(),
        namespace: reference.namespace.clone(),
        port: reference.port,
        ..HttpRouteRulesBackendRefs::default()
    };
    MirrorSource { field: String::new(), reference, numerator, denominator }
}

fn headers(field: &str, source: Vec<(String, String)>, found: &mut Findings<'_>) -> Vec<HeaderValue> {
    let mut built: Vec<HeaderValue> = Vec::new();
    for (index, (name, value)) in source.into_iter().enumerate() {
        let mut found = found.at(&format!("{field}[{index}]"));
        let lower = name.to_ascii_lowercase();
        if !is_header_name(&lower) {
            found.error("name", format!("{name:?} is not a header's name"), "Use letters, digits and '-'.");
        }
        if value.len() > 4096 || value.contains(|c: char| c.is_control() && c != '\t') {
            found.error(
                "value",
                "it is no header's value",
                "Use at most 4096 printable characters on one line.",
            );
        }
        if built.iter().any(|known| known.name == lower) {
            found.no_effect("name", format!("{lower} stands in an earlier entry already"));
        } else {
            built.push(HeaderValue { name: lower, value });
        }
    }
    built
}

fn removals(source: Option<&[String]>, found: &mut Findings<'_>) -> Vec<String> {
    let mut built: Vec<String> = Vec::new();
    for (index, name) in source.unwrap_or_default().iter().enumerate() {
        let lower = name.to_ascii_lowercase();
        if !is_header_name(&lower) {
            let field = format!("remove[{index}]");
            found.error(&field, format!("{name:?} is not a header's name"), "Use letters, digits and '-'.");
        }
        if !built.contains(&lower) {
            built.push(lower);
        }
    }
    built
}

fn build_redirect(
    source: &HttpRouteRulesFiltersRequestRedirect,
    single_prefix: bool,
    found: &mut Findings<'_>,
) -> Redirect {
    let scheme = source.scheme.as_ref().map(|scheme| match scheme {
        Scheme::Http => "http".to_owned(),
        Scheme::Https => "https".to_owned(),
    });
    let hostname = precise_hostname(source.hostname.as_deref(), found);
    let port = source.port.and_then(|port| {
        let number = u16::try_from(port).ok().filter(|number| *number != 0);
        if number.is_none() {
            found.error("port", format!("{port} is not a port"), "Use a number from 1 to 65535.");
        }
        number
    });
    let status = source.status_code.unwrap_or(302);
    if ![301, 302, 303, 307, 308].contains(&status) {
        found.error("statusCode", format!("{status} is no redirect"), "Use 301, 302, 303, 307 or 308.");
    }
    let path = source.path.as_ref().and_then(|path| {
        let kind = match path.r#type {
            RedirectPathType::ReplaceFullPath => PathKind::Full,
            RedirectPathType::ReplacePrefixMatch => PathKind::Prefix,
        };
        let fields = (path.replace_full_path.as_deref(), path.replace_prefix_match.as_deref());
        build_path_rewrite(kind, fields, single_prefix, &mut found.at("path"))
    });
    Redirect { scheme, hostname, port, path, status: u16::try_from(status).unwrap_or(302) }
}

fn build_rewrite(
    source: &HttpRouteRulesFiltersUrlRewrite,
    single_prefix: bool,
    found: &mut Findings<'_>,
) -> UrlRewrite {
    let hostname = precise_hostname(source.hostname.as_deref(), found);
    let path = source.path.as_ref().and_then(|path| {
        let kind = match path.r#type {
            RewritePathType::ReplaceFullPath => PathKind::Full,
            RewritePathType::ReplacePrefixMatch => PathKind::Prefix,
        };
        let fields = (path.replace_full_path.as_deref(), path.replace_prefix_match.as_deref());
        build_path_rewrite(kind, fields, single_prefix, &mut found.at("path"))
    });
    UrlRewrite { hostname, path }
}

fn precise_hostname(hostname: Option<&str>, found: &mut Findings<'_>) -> Option<String> {
    let hostname = hostname?;
    let precise = Hostname::new(hostname).is_ok_and(|name| name.wildcard_suffix().is_none());
    if !precise {
        found.error(
            "hostname",
            format!("{hostname:?} is not a DNS name"),
            "Use one name in lower case, without a wildcard.",
        );
    }
    Some(hostname.to_owned())
}

#[derive(Clone, Copy)]
enum PathKind {
    Full,
    Prefix,
}

fn build_path_rewrite(
    kind: PathKind,
    (full, prefix): (Option<&str>, Option<&str>),
    single_prefix: bool,
    found: &mut Findings<'_>,
) -> Option<PathRewrite> {
    let (field, value, other) = match kind {
        PathKind::Full => ("replaceFullPath", full, prefix),
        PathKind::Prefix => ("replacePrefixMatch", prefix, full),
    };
    let Some(value) = value else {
        found.error(field, "the type needs it", format!("Add {field}, or change the type."));
        return None;
    };
    if other.is_some() {
        found.error("", "it has a field of the other type", format!("Keep only {field}."));
    }
    if value.len() > 1024 || value.contains(|c: char| c.is_control() || c == ' ') {
        found.error(field, format!("{value:?} is not a path"), "Use at most 1024 characters without spaces.");
    }
    if matches!(kind, PathKind::Prefix) && !single_prefix {
        found.error(
            field,
            "a prefix can be replaced only where the rule has exactly one match, of type PathPrefix",
            "Give the rule one such match, or use ReplaceFullPath.",
        );
    }
    Some(match kind {
        PathKind::Full => PathRewrite::Full(value.to_owned()),
        PathKind::Prefix => PathRewrite::Prefix(value.to_owned()),
    })
}
