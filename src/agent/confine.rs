//! Confining the process that receives (`syncd serve`): to its roots and its state. Of the run-time directory it keeps what it
//! has open, lock and socket: whoever removed the lock would let a second process own the node.
//!
//! The peer's bytes are read after that, so a receiver that is broken into has what stands here and no more. Hooks run in
//! another process ([`super::hooks::Runner`]). What the kernel does not have is told, and the receiver goes on without it.

use std::path::Path;

use super::owner::{Site, failed};
use crate::decide::confine::{Grant, Place, READ};
use crate::sys::confine::{Confined, confine};
use crate::wire::control::Failure;

/// Confines this process, which has one thread and owns the node.
///
/// # Errors
/// A failure where there are other threads, or no state directory can be made.
pub fn receiver(site: &Site) -> Result<Confined, Failure> {
    let state = site.config.state_dir(site.node);
    std::fs::create_dir_all(&state).map_err(|e| {
        failed(
            format!("cannot make the state directory {}: {e}", state.display()),
            "see syncctl check",
        )
    })?;
    // SAFETY: no other thread reads the environment: `confine` refuses where there is one, and none is made in between.
    // Temporary files of the index would go to /var/tmp, which is not reached from now on.
    unsafe { std::env::set_var("SQLITE_TMPDIR", &state) };
    let confined = confine(&places(site)).map_err(|e| {
        failed(
            format!("cannot confine this process: {e}"),
            "report this as a defect",
        )
    })?;
    if confined.lacks.is_empty() {
        tracing::info!(
            "confined to roots and state, by version {} of Landlock",
            confined.abi
        );
    } else {
        let open = confined.lacks.join("; ");
        tracing::warn!(
            "confined as far as this kernel can; if it were broken into {open}; see syncctl check"
        );
    }
    Ok(confined)
}

/// What a receiver of this node reaches.
#[must_use]
pub fn places(site: &Site) -> Vec<Place> {
    let config = &site.config;
    let root = |i| {
        let path = config.root_path(site.node, i);
        // Of a root that is one file everything is done in its directory.
        let single = std::fs::metadata(&path).is_ok_and(|m| m.is_file());
        let parent = path.parent().filter(|_| single).map(Path::to_owned);
        Place {
            path: parent.unwrap_or(path),
            grant: Grant::Root,
        }
    };
    let mut places: Vec<Place> = (0..config.roots.len()).map(root).collect();
    let mut add = |path: &Path, grant| {
        places.push(Place {
            path: path.to_owned(),
            grant,
        });
    };
    add(&config.state_dir(site.node), Grant::State);
    if let Some(dir) = config.metrics.textfile.as_deref().and_then(Path::parent) {
        add(dir, Grant::Figures);
    }
    READ.into_iter()
        .for_each(|file| add(Path::new(file), Grant::Read));
    places
}
