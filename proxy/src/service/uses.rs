//! How many requests a connection has carried, for `maxRequestsPerConnection`.

use std::collections::HashMap;
use std::os::fd::RawFd;

use parking_lot::Mutex;

/// Requests by connection. Only connections of pools with a limit are here, each under its descriptor, so there are
/// never more entries than the process has descriptors.
#[derive(Debug, Default)]
pub(crate) struct Uses(Mutex<HashMap<RawFd, u32>>);

impl Uses {
    /// Counts a request on a connection. True if it is the last one that the connection carries.
    pub(super) fn count(&self, socket: RawFd, reused: bool, limit: u32) -> bool {
        let mut uses = self.0.lock();
        let count = uses.entry(socket).or_default();
        // A descriptor that stands for a new connection begins anew.
        *count = if reused { count.saturating_add(1) } else { 1 };
        let last = *count >= limit;
        if last {
            uses.remove(&socket);
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_ends_with_the_last_request_that_it_may_carry() {
        let uses = Uses::default();
        let seen: Vec<bool> = [false, true, true].map(|reused| uses.count(7, reused, 3)).into();
        assert_eq!(seen, [false, false, true]);
        assert!(!uses.count(7, false, 3), "the next connection begins anew");
        assert!(uses.count(8, false, 1), "each connection has its own count");
    }
}
