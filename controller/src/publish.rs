//! Fifth stage: what changed goes to disk, and is written again where the proxy finds it broken.
//!
//! Inputs: a [`State`]. Outputs: files in the state's folder (`understudy_conf::store` describes them).

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;
use understudy_conf::State;
use understudy_conf::store::{Published, StoreError, Writer, read_acknowledgement};

/// A state that the proxy refuses is written again at most this often.
const REPAIR_INTERVAL: Duration = Duration::from_secs(5);

/// Writes states.
pub(crate) struct Publisher {
    writer: Writer,
    folder: PathBuf,
    repaired: Option<Instant>,
}

impl Publisher {
    pub(crate) fn open(folder: &Path) -> Result<Self, StoreError> {
        Ok(Self { writer: Writer::open(folder)?, folder: folder.to_owned(), repaired: None })
    }

    /// Whether a state stands on disk.
    pub(crate) fn has_state(&self) -> bool {
        self.writer.state().is_some()
    }

    pub(crate) fn publish(&mut self, state: &State) -> Result<Published, StoreError> {
        self.writer.publish(state)
    }

    /// Writes again what the proxy reports as broken, if it does.
    pub(crate) fn repair_refused(&mut self, now: Instant) -> Result<Option<Published>, StoreError> {
        let refused = match read_acknowledgement(&self.folder) {
            Ok(acknowledgement) => acknowledgement.and_then(|acknowledgement| acknowledgement.refused),
            Err(error) => {
                log::debug!("the proxy's acknowledgement cannot be read: {error}");
                None
            }
        };
        let Some(refusal) = refused else { return Ok(None) };
        let current = self.writer.state().map(|state| state.version);
        // A refusal of an older version is history: the proxy has not seen the newest one yet.
        if refusal.version.is_some() && refusal.version != current {
            return Ok(None);
        }
        if self.repaired.is_some_and(|last| now.duration_since(last) < REPAIR_INTERVAL) {
            return Ok(None);
        }
        self.repaired = Some(now);
        let published = self.writer.repair()?;
        if published.changed {
            log::warn!(
                "the proxy refused the state ({}), so version {} was written again",
                refusal.reason,
                published.version
            );
        }
        Ok(Some(published))
    }
}
