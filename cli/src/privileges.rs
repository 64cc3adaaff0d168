//! Ports below 1024 for a user who is not root.

use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

/// Makes use of the right to bind low ports where this process was given it without its being in effect.
///
/// The image's program has NET_BIND_SERVICE as a permitted capability of its file, and not as an effective one: with that
/// the system would refuse to start it wherever a container has dropped the capability, which is everywhere except with
/// host ports. What cannot be raised is not missed until a port is bound, and that error says what to do.
pub(crate) fn raise_low_ports() {
    let Ok(mut sets) = capabilities(None) else { return };
    let wanted = CapabilitySet::NET_BIND_SERVICE;
    if sets.permitted.contains(wanted) && !sets.effective.contains(wanted) {
        sets.effective |= wanted;
        // Nothing is logged: logging is not set up yet.
        let _ = set_capabilities(None, sets);
    }
}
