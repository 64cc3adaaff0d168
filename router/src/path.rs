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

type Group = Box<[Arc<Entry>]>;

/// Up to so many paths are compared one by one, which is faster than a hash and takes a fraction of its room.
const FEW: usize = 4;

/// Groups of matches by path.
#[derive(Debug)]
enum Groups {
    Few(Box<[(Box<str>, Group)]>),
    Many(Box<AHashMap<Box<str>, Group>>),
}

impl Groups {
    fn build(groups: AHashMap<Box<str>, Vec<Arc<Entry>>>) -> Self {
        let count = groups.len();
        let ranked = groups.into_iter().map(|(path, mut group)| {
            group.sort_by(|a, b| a.rank().cmp(&b.rank()));
            (path, group.into())
        });
        if count <= FEW { Self::Few(ranked.collect()) } else { Self::Many(Box::new(ranked.collect())) }
    }

    fn get(&self, path: &str) -> Option<&Group> {
        match self {
            Self::Few(groups) => groups.iter().find(|(known, _)| **known == *path).map(|(_, group)| group),
            Self::Many(groups) => groups.get(path),
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Group> {
        let (few, many) = match self {
            Self::Few(groups) => (Some(groups), None),
            Self::Many(groups) => (None, Some(groups)),
        };
        let few = few.into_iter().flat_map(|groups| groups.iter().map(|(_, group)| group));
        few.chain(many.into_iter().flat_map(|groups| groups.values()))
    }
}

/// The matches of one hostname, in the order in which they are looked at. There may be thousands of tables with one
/// match each, so that none has room that it does not use.
#[derive(Debug)]
pub(crate) struct PathTable {
    exact: Groups,
    regexes: Group,
    prefixes: Groups,
    /// The lengths that prefixes have, longest first: only there a path has to be looked up.
    lengths: Box<[usize]>,
}

impl PathTable {
    pub(crate) fn build(entries: impl IntoIterator<Item = Arc<Entry>>) -> Self {
        let (mut exact, mut prefixes) =
            (AHashMap::<Box<str>, Vec<_>>::new(), AHashMap::<Box<str>, Vec<_>>::new());
        let mut regexes = Vec::new();
        for entry in entries {
            let group: &mut Vec<_> = match &entry.path {
                Path::Exact(path) => exact.entry(path.clone()).or_default(),
                Path::Prefix(path) => prefixes.entry(path.clone()).or_default(),
                Path::Regex { .. } => &mut regexes,
            };
            group.push(entry);
        }
        let length = |entry: &Entry| match &entry.path {
            Path::Regex { length, .. } => *length,
            Path::Exact(_) | Path::Prefix(_) => 0,
        };
        // As in Envoy Gateway, the longer expression counts as the more specific one.
        regexes.sort_by(|a, b| length(b).cmp(&length(a)).then_with(|| a.rank().cmp(&b.rank())));
        let mut lengths: Vec<usize> = prefixes.keys().map(|prefix| prefix.len()).collect();
        lengths.sort_unstable_by_key(|length| Reverse(*length));
        lengths.dedup();
        Self {
            exact: Groups::build(exact),
            regexes: regexes.into(),
            prefixes: Groups::build(prefixes),
            lengths: lengths.into(),
        }
    }

    /// All matches.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        let groups = self.exact.iter().chain([&self.regexes]).chain(self.prefixes.iter());
        groups.flat_map(|group| group.iter())
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
