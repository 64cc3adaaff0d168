//! Connecting to an endpoint, as long as it is one.
//!
//! A pod that ends takes its address with it: connecting to it is neither accepted nor refused, and would take the
//! whole connect timeout. The state without the pod is there long before, and ends the wait.

use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::connectors::l4::Connect;
use pingora_core::protocols::l4::ext;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_error::{Error, ErrorType, Result};
use tokio::time::timeout;
use understudy_engine::{Departure, Member};

/// The connectors of a pool's members, each made when it is first asked for.
#[derive(Debug)]
pub(crate) struct Connectors(Vec<OnceLock<Arc<Connecting>>>);

impl Connectors {
    /// For so many members.
    pub(crate) fn new(members: usize) -> Self {
        Self(std::iter::repeat_with(OnceLock::new).take(members).collect())
    }

    /// The connector of a member.
    pub(super) fn of(&self, index: usize, member: &Member) -> Option<Arc<Connecting>> {
        let connecting = self.0.get(index)?.get_or_init(|| Arc::new(Connecting(member.departure())));
        Some(connecting.clone())
    }
}

/// The error of an attempt that was given up because the endpoint left.
pub(super) const LEFT: ErrorType = ErrorType::Custom("the endpoint left the pool");

/// How often a connection that takes long is asked whether it is still wanted.
const LOOK: Duration = Duration::from_millis(100);

/// Connects over TCP, unless the endpoint leaves its pool before it answers.
#[derive(Debug)]
pub(crate) struct Connecting(Departure);

#[async_trait]
impl Connect for Connecting {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let Some(address) = address.as_inet() else {
            return Error::e_explain(ErrorType::InternalError, "the endpoint has no address of TCP");
        };
        let mut connecting = pin!(ext::connect(address, None));
        loop {
            match timeout(LOOK, &mut connecting).await {
                Ok(connected) => return connected.map(Stream::from),
                Err(_) if self.0.has_left() => return Err(Error::new_up(LEFT)),
                Err(_) => {}
            }
        }
    }
}
