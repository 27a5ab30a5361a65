//! The last step of an activation: outgoing traffic gets the virtual IP, then the node is said to be ready.
//!
//! Rules that cannot be installed are told and tried again, and never stop a service: a start that fails would take it
//! from both nodes.

use std::sync::Arc;

use tokio::task::{JoinHandle, block_in_place};

use super::board::Board;
use super::snat::{self, State};
use crate::config::Config;
use crate::decide::snat::Presence;
use crate::sys::service;
use crate::wire::control::{Failure, SnatStatus};

/// What looks after the rules while the node is active.
pub struct Traffic {
    config: Arc<Config>,
    task: JoinHandle<()>,
}

impl Traffic {
    /// Installs the rules once the virtual IP is here, says that the node is ready, and looks after the rules from then on.
    /// Must be called within a runtime.
    #[must_use]
    pub fn begin(config: Arc<Config>, board: Arc<Board>) -> Self {
        let task = tokio::spawn(keep(config.clone(), board));
        Self { config, task }
    }

    /// Takes the rules out; nothing puts them back afterwards.
    pub fn end(self, rt: &tokio::runtime::Runtime) {
        // What it does at this moment is done first, so that it cannot come after the removal.
        self.task.abort();
        let _ = rt.block_on(self.task);
        match snat::remove(&self.config) {
            Ok(removed) if removed.found => tracing::info!("the SNAT rules are removed"),
            Ok(_) => {}
            Err(f) => tracing::error!("{}; {}", f.message, f.hint),
        }
    }
}

async fn keep(config: Arc<Config>, board: Arc<Board>) {
    snat::wait_for_vip(&config).await;
    let tell = |status| board.update(|s| s.snat = status);
    match block_in_place(|| snat::apply(&config)) {
        Ok(applied) => {
            for warning in &applied.warnings {
                tracing::warn!("{warning}");
            }
        }
        Err(f) => {
            tracing::error!("{}; {}", f.message, f.hint);
            tell(failed(&f));
        }
    }
    if let Some(warning) = block_in_place(|| snat::flush_connections(&config)).warning {
        tracing::warn!("{warning}");
    }
    service::ready();
    snat::guard(config.clone(), |state| tell(status(state))).await;
}

fn failed(f: &Failure) -> SnatStatus {
    SnatStatus {
        state: "failed".into(),
        why: format!("{}; {}", f.message, f.hint),
    }
}

fn status(state: &State) -> SnatStatus {
    let word = match state.state {
        Presence::Present => "in-force",
        Presence::Partial => "partial",
        Presence::Absent => "absent",
    };
    SnatStatus {
        state: word.into(),
        why: state.why.clone(),
    }
}
