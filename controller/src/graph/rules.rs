//! Rules of a route, as far as the route alone decides them: matches, filters, timeouts, retries.

use gateway_api::apis::experimental::httproutes::{
    HttpRoute, HttpRouteRules, HttpRouteRulesMatchesPathType as PathType, HttpRouteRulesRetry,
    HttpRouteRulesTimeouts,
};
use understudy_conf::{
    BackOff, GatewayDuration, HttpFilter, HttpMatch, Redirect, Retry, RetryTrigger, RuleTimeouts,
};

use crate::cluster::Object;
use crate::diagnostics::{Diagnostic, reasons};
use crate::graph::filters::{BuiltFilters, MirrorSource, build_filters, build_ref_filters};
use crate::graph::matches::{build_match, match_everything};
use crate::watch::Kind;

/// A rule without its references.
#[derive(Debug)]
pub(crate) struct BuiltRule {
    pub(crate) name: Option<String>,
    /// `None` if a match cannot act: then the rule is left out.
    pub(crate) matches: Option<Vec<HttpMatch>>,
    pub(crate) filters: Vec<HttpFilter>,
    pub(crate) mirrors: Vec<MirrorSource>,
    pub(crate) timeouts: Option<RuleTimeouts>,
    pub(crate) retry: Option<Retry>,
    pub(crate) outcome: Outcome,
}

/// Where a rule leads.
#[derive(Debug)]
pub(crate) enum Outcome {
    Redirect(Redirect),
    /// To its references, with their filters; `None` for one whose filters cannot act.
    Forward(Vec<Option<BuiltFilters>>),
    /// Nowhere: it answers 500.
    Refused,
}

/// Findings below a field of an object.
pub(crate) struct Findings<'a> {
    place: &'a dyn Fn(&str) -> crate::diagnostics::Place,
    field: String,
    found: &'a mut Vec<Diagnostic>,
}

impl<'a> Findings<'a> {
    pub(crate) fn new(
        place: &'a dyn Fn(&str) -> crate::diagnostics::Place,
        field: &str,
        found: &'a mut Vec<Diagnostic>,
    ) -> Self {
        Self { place, field: field.to_owned(), found }
    }

    pub(crate) fn at(&mut self, field: &str) -> Findings<'_> {
        let field = self.path(field);
        Findings { place: self.place, field, found: self.found }
    }

    pub(crate) fn error(&mut self, field: &str, message: impl Into<String>, remedy: impl Into<String>) {
        let place = (self.place)(&self.path(field));
        self.found.push(reasons::invalid(&place, message, remedy));
    }

    pub(crate) fn unsupported(&mut self, field: &str, message: impl Into<String>, remedy: impl Into<String>) {
        let place = (self.place)(&self.path(field));
        self.found.push(reasons::unsupported_value(&place, message, remedy));
    }

    pub(crate) fn no_effect(&mut self, field: &str, message: impl Into<String>) {
        let place = (self.place)(&self.path(field));
        self.found.push(reasons::no_effect(&place, message, "Remove it: the first entry counts."));
    }

    pub(crate) fn ignored(&mut self, field: &str, message: impl Into<String>, remedy: impl Into<String>) {
        let place = (self.place)(&self.path(field));
        self.found.push(reasons::no_effect(&place, message, remedy));
    }

    pub(crate) fn not_acting(&mut self, field: &str, message: &str) {
        let place = (self.place)(&self.path(field));
        self.found.push(reasons::not_acting(&place, message));
    }

    /// How many errors there are so far.
    pub(crate) fn errors(&self) -> usize {
        self.found.iter().filter(|diagnostic| diagnostic.is_error()).count()
    }

    fn path(&self, field: &str) -> String {
        match (self.field.is_empty(), field.is_empty() || field.starts_with('[')) {
            (true, _) => field.to_owned(),
            (_, true) => format!("{}{field}", self.field),
            _ => format!("{}.{field}", self.field),
        }
    }
}

/// Builds all rules of a route, with findings about what the route says by itself.
pub(crate) fn build_rules(route: &Object<HttpRoute>) -> (Vec<BuiltRule>, Vec<Diagnostic>) {
    let mut diagnostics = Vec::new();
    let place = |field: &str| route.at(field);
    let everything = [HttpRouteRules::default()];
    let rules = route.value.spec.rules.as_deref().unwrap_or_default();
    if !route.kind.has_requests() {
        return (build_only_rule(route, rules, &mut diagnostics), diagnostics);
    }
    let rules = if rules.is_empty() { &everything } else { rules };
    let mut built = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let mut found = Findings::new(&place, &format!("spec.rules[{index}]"), &mut diagnostics);
        if let Some(name) = rule.name.as_deref() {
            if names.contains(&name) {
                found.error(
                    "name",
                    format!("a rule before it is called {name:?} too"),
                    "Give every rule a name of its own.",
                );
            }
            names.push(name);
        }
        built.push(build_rule(route.kind, rule, &mut found));
    }
    (built, diagnostics)
}

/// Of connections and datagrams nothing is known that could tell rules apart.
fn build_only_rule(
    route: &Object<HttpRoute>,
    rules: &[HttpRouteRules],
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<BuiltRule> {
    let place = |field: &str| route.at(field);
    let kind = route.kind;
    let mut found = Findings::new(&place, "spec.rules", diagnostics);
    let Some(rule) = rules.first() else {
        found.error("", "it has no rule", "Add one with backendRefs.");
        return Vec::new();
    };
    if rules.len() > 1 {
        found.unsupported(
            "[1]",
            format!("a {kind} has one rule; the others do not act"),
            format!("Put all backendRefs into the first rule, or write a {kind} of its own for each port."),
        );
    }
    let refs = build_refs(rule, false, &mut found.at("[0]"));
    vec![BuiltRule {
        name: rule.name.clone(),
        matches: Some(Vec::new()),
        filters: Vec::new(),
        mirrors: Vec::new(),
        timeouts: None,
        retry: None,
        outcome: Outcome::Forward(refs),
    }]
}

fn build_rule(kind: Kind, rule: &HttpRouteRules, found: &mut Findings<'_>) -> BuiltRule {
    let mut matches = Some(Vec::new());
    for (index, source) in rule.matches.iter().flatten().enumerate() {
        let one = build_match(kind, source, &mut found.at(&format!("matches[{index}]")));
        matches = matches.zip(one).map(|(mut all, one)| {
            all.push(one);
            all
        });
    }
    if matches.as_ref().is_some_and(Vec::is_empty) {
        matches = Some(vec![match_everything()]);
    }
    let timeouts =
        rule.timeouts.as_ref().and_then(|timeouts| build_timeouts(timeouts, &mut found.at("timeouts")));
    let retry = rule.retry.as_ref().map(|retry| build_retry(retry, &mut found.at("retry")));
    if rule.session_persistence.is_some() {
        found.not_acting("sessionPersistence", "session persistence does not act yet");
    }
    let single_prefix = has_single_prefix(rule);
    let filters = build_filters(rule.filters.as_deref().unwrap_or_default(), single_prefix, found);
    let refs = build_refs(rule, single_prefix, found);
    let mut mirrors = Vec::new();
    let (filters, outcome) = match filters {
        None => (Vec::new(), Outcome::Refused),
        Some(mut built) => match built.redirect {
            Some(_) if !refs.is_empty() => {
                found.error(
                    "backendRefs",
                    "a rule that redirects forwards nothing",
                    "Remove backendRefs or RequestRedirect.",
                );
                (built.filters, Outcome::Refused)
            }
            Some(redirect) => {
                if !built.mirrors.is_empty() {
                    found.ignored(
                        "filters",
                        "nothing is mirrored: the rule redirects",
                        "Remove RequestMirror.",
                    );
                }
                (built.filters, Outcome::Redirect(redirect))
            }
            None => {
                mirrors = std::mem::take(&mut built.mirrors);
                (built.filters, Outcome::Forward(refs))
            }
        },
    };
    BuiltRule { name: rule.name.clone(), matches, filters, mirrors, timeouts, retry, outcome }
}

/// Whether a rule has exactly one match, by path prefix, which replacing the prefix needs.
fn has_single_prefix(rule: &HttpRouteRules) -> bool {
    match rule.matches.as_deref().unwrap_or_default() {
        [] => true,
        [one] => {
            let kind = one.path.as_ref().and_then(|path| path.r#type.as_ref());
            matches!(kind, None | Some(PathType::PathPrefix))
        }
        _ => false,
    }
}

fn build_refs(
    rule: &HttpRouteRules,
    single_prefix: bool,
    found: &mut Findings<'_>,
) -> Vec<Option<BuiltFilters>> {
    let refs = rule.backend_refs.as_deref().unwrap_or_default();
    refs.iter()
        .enumerate()
        .map(|(index, reference)| {
            let mut found = found.at(&format!("backendRefs[{index}]"));
            if let Some(weight) = reference.weight
                && !(0..=1_000_000).contains(&weight)
            {
                found.error("weight", format!("{weight} is out of range"), "Use a number from 0 to 1000000.");
            }
            if let Some(port) = reference.port
                && !(1..=65_535).contains(&port)
            {
                found.error("port", format!("{port} is not a port"), "Use a number from 1 to 65535.");
            }
            build_ref_filters(reference.filters.as_deref().unwrap_or_default(), single_prefix, &mut found)
        })
        .collect()
}

fn duration(field: &str, text: Option<&str>, found: &mut Findings<'_>) -> Option<GatewayDuration> {
    match text?.parse() {
        Ok(duration) => Some(duration),
        Err(error) => {
            let error: understudy_conf::DurationError = error;
            found.error(field, error.to_string(), "Write it as in \"10s\", \"1m30s\" or \"500ms\".");
            None
        }
    }
}

fn build_timeouts(source: &HttpRouteRulesTimeouts, found: &mut Findings<'_>) -> Option<RuleTimeouts> {
    let request = duration("request", source.request.as_deref(), found);
    let backend_request = duration("backendRequest", source.backend_request.as_deref(), found);
    if let (Some(request), Some(attempt)) = (request, backend_request)
        && !request.is_zero()
        && (attempt > request || attempt.is_zero())
    {
        found.error(
            "backendRequest",
            format!("one attempt may take {attempt}, but the whole request only {request}"),
            "Make backendRequest at most as long as request.",
        );
    }
    (request.is_some() || backend_request.is_some()).then_some(RuleTimeouts { request, backend_request })
}

/// A rule's own `retry` asks for retries of connection errors too: "disconnect, reset, timeout, TCP failure"
/// (Gateway API, `HTTPRouteRetry`; features `HTTPRouteRetryConnectionError` and `HTTPRouteRetryBackendTimeout`).
fn build_retry(source: &HttpRouteRulesRetry, found: &mut Findings<'_>) -> Retry {
    let mut retry = Retry::default();
    retry.triggers.insert(RetryTrigger::Reset);
    if let Some(attempts) = source.attempts {
        match u32::try_from(attempts) {
            Ok(attempts) => retry.num_retries = attempts,
            Err(_) => found.error("attempts", format!("{attempts} is out of range"), "Use 0 or more."),
        }
    }
    if let Some(codes) = &source.codes {
        retry.status_codes.clear();
        for (index, code) in codes.iter().enumerate() {
            match u16::try_from(*code) {
                Ok(code) if (400..=599).contains(&code) => drop(retry.status_codes.insert(code)),
                _ => found.error(
                    &format!("codes[{index}]"),
                    format!("{code} is no status that can be retried"),
                    "Use statuses from 400 to 599.",
                ),
            }
        }
    }
    if let Some(base) = duration("backoff", source.backoff.as_deref(), found) {
        if base.is_zero() {
            found.error(
                "backoff",
                "a length of 0s makes no sense here",
                "Use a longer duration, or leave it out.",
            );
        } else {
            let max = GatewayDuration::from_millis(base.as_millis().saturating_mul(10));
            retry.back_off = BackOff { base_interval: base, max_interval: max };
        }
    }
    retry
}
