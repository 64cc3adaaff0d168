//! The matches of one hostname, by path.

use std::cmp::Reverse;
use std::sync::Arc;

use ahash::AHashMap;
use regex::bytes::Regex;
use understudy_conf::{PathMatch, RouteName};

use crate::conditions::Conditions;
use crate::pattern::Patterns;
use crate::rule::CompiledRule;
use crate::table::RequestParts;

/// The path of a match.
#[derive(Debug)]
pub(crate) enum Path {
    Exact(Box<str>),
    /// Without trailing slashes, so that it ends where an element of the path ends.
    Prefix(Box<str>),
    Regex {
        regex: Arc<Regex>,
        length: usize,
    },
}

impl Path {
    pub(crate) fn compile(path: &PathMatch, patterns: &mut Patterns) -> Result<Self, String> {
        Ok(match path {
            PathMatch::Exact(path) => Self::Exact(path.as_str().into()),
            PathMatch::Prefix(path) => Self::Prefix(path.trim_end_matches('/').into()),
            PathMatch::Regex(pattern) => {
                Self::Regex { regex: patterns.compile(pattern)?, length: pattern.len() }
            }
        })
    }
}

/// One match of a rule.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) path: Path,
    pub(crate) conditions: Conditions,
    /// When the route was made; 0: unknown.
    pub(crate) created: i64,
    pub(crate) match_index: usize,
    pub(crate) rule: Arc<CompiledRule>,
}

impl Entry {
    /// Gateway API's order among matches of the same path: a method, the most headers, the most query
    /// parameters, the oldest route, its name, the first rule, the first match.
    fn rank(&self) -> impl Ord + '_ {
        let created = if self.created == 0 { i64::MAX } else { self.created };
        let route: &RouteName = &self.rule.route;
        (
            Reverse(self.conditions.method.is_some()),
            Reverse(self.conditions.headers.len()),
            Reverse(self.conditions.query.len()),
            created,
            route,
            self.rule.rule_index,
            self.match_index,
        )
    }

    /// The prefix that fits, if the path is one.
    pub(crate) fn prefix(&self) -> Option<&str> {
        match &self.path {
            Path::Prefix(prefix) => Some(prefix),
            Path::Exact(_) | Path::Regex { .. } => None,
        }
    }
}

type Group = Vec<Arc<Entry>>;

/// The matches of one hostname. Before [`sort`](Self::sort) it is not ready.
#[derive(Debug, Default)]
pub(crate) struct PathTable {
    exact: AHashMap<Box<str>, Group>,
    regexes: Group,
    prefixes: AHashMap<Box<str>, Group>,
    /// The lengths that prefixes have, longest first: only there a path has to be looked up.
    lengths: Vec<usize>,
}

impl PathTable {
    pub(crate) fn insert(&mut self, entry: Arc<Entry>) {
        let group = match &entry.path {
            Path::Exact(path) => self.exact.entry(path.clone()).or_default(),
            Path::Prefix(path) => self.prefixes.entry(path.clone()).or_default(),
            Path::Regex { .. } => &mut self.regexes,
        };
        group.push(entry);
    }

    /// Puts everything into the order in which it is looked at.
    pub(crate) fn sort(&mut self) {
        for group in self.exact.values_mut().chain(self.prefixes.values_mut()) {
            group.sort_by(|a, b| a.rank().cmp(&b.rank()));
        }
        let length = |entry: &Entry| match &entry.path {
            Path::Regex { length, .. } => *length,
            Path::Exact(_) | Path::Prefix(_) => 0,
        };
        // As in Envoy Gateway, the longer expression counts as the more specific one.
        self.regexes.sort_by(|a, b| length(b).cmp(&length(a)).then_with(|| a.rank().cmp(&b.rank())));
        self.lengths = self.prefixes.keys().map(|prefix| prefix.len()).collect();
        self.lengths.sort_unstable_by_key(|length| Reverse(*length));
        self.lengths.dedup();
    }

    /// The match that a request belongs to: an exact path, then an expression, then the longest prefix.
    pub(crate) fn find(&self, request: &RequestParts<'_>) -> Option<&Entry> {
        let path = request.path;
        self.exact
            .get(path)
            .and_then(|group| first_fit(group, request))
            .or_else(|| self.find_regex(request))
            .or_else(|| self.find_prefix(request))
    }

    fn find_regex(&self, request: &RequestParts<'_>) -> Option<&Entry> {
        self.regexes.iter().map(Arc::as_ref).find(|entry| {
            let Path::Regex { regex, .. } = &entry.path else { return false };
            entry.conditions.fit(request) && regex.is_match(request.path.as_bytes())
        })
    }

    fn find_prefix(&self, request: &RequestParts<'_>) -> Option<&Entry> {
        let path = request.path;
        let ends_element = |length: &&usize| matches!(path.as_bytes().get(**length), None | Some(b'/'));
        self.lengths
            .iter()
            .filter(|length| **length <= path.len())
            .filter(ends_element)
            // Where the next byte is a slash or there is none, a character begins or the path ends.
            .filter_map(|length| self.prefixes.get(&path[..*length]))
            .find_map(|group| first_fit(group, request))
    }
}

fn first_fit<'a>(group: &'a [Arc<Entry>], request: &RequestParts<'_>) -> Option<&'a Entry> {
    group.iter().map(Arc::as_ref).find(|entry| entry.conditions.fit(request))
}
