//! What a backend saw.

use std::collections::{BTreeMap, VecDeque};

use crate::wire::{RequestHead, values};

/// The most different method-and-path pairs that are counted apart.
const PATHS_LIMIT: usize = 1024;
/// The most requests whose heads are kept; older ones go first.
const LOG_LIMIT: usize = 4096;

/// What a backend saw since it was started, across its restarts.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Connections that were accepted.
    pub connections: u64,
    /// Connections that are open.
    pub open: u64,
    /// Connections that ended without a single byte: probes.
    pub probes: u64,
    /// Requests whose heads arrived.
    pub requests: u64,
    /// Connections whose TLS handshake failed.
    pub failed_handshakes: u64,
    /// Answers that were written to their end.
    pub answers: u64,
    /// Requests whose bytes had arrived, wholly or in part, on connections that the backend reset before it had
    /// answered.
    pub cut: u64,
    paths: BTreeMap<(String, String), u64>,
    log: VecDeque<RequestRecord>,
}

/// The head of a request that a backend got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestRecord {
    /// The connection's number, from 1 in the order of accepting.
    pub connection: u64,
    /// The method.
    pub method: String,
    /// The request target: path and query.
    pub target: String,
    /// Names and values of the headers as they came.
    pub headers: Vec<(String, String)>,
}

impl RequestRecord {
    /// The first value of a header, whatever the case of its name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        values(&self.headers, name).next()
    }
}

impl Observed {
    /// How many requests had this method and path (without the query). Only the first 1,024 different pairs
    /// are counted apart.
    #[must_use]
    pub fn requests_to(&self, method: &str, path: &str) -> u64 {
        self.paths.get(&(method.to_owned(), path.to_owned())).copied().unwrap_or_default()
    }

    /// The heads of the last 4,096 requests, oldest first.
    pub fn log(&self) -> impl DoubleEndedIterator<Item = &RequestRecord> {
        self.log.iter()
    }

    pub(crate) fn record(&mut self, connection: u64, head: &RequestHead) {
        self.requests += 1;
        let path = head.target.split('?').next().unwrap_or_default();
        let key = (head.method.clone(), path.to_owned());
        if self.paths.len() < PATHS_LIMIT || self.paths.contains_key(&key) {
            *self.paths.entry(key).or_default() += 1;
        }
        if self.log.len() == LOG_LIMIT {
            self.log.pop_front();
        }
        self.log.push_back(RequestRecord {
            connection,
            method: head.method.clone(),
            target: head.target.clone(),
            headers: head.headers.clone(),
        });
    }
}
