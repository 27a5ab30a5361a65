//! What the watcher says besides paths: cookies, roots that go and come, and what it cannot see.

use super::Engine;
use crate::agent::commands::clear_cookie;
use crate::model::path::{RelPath, TreePath};
use crate::sys::watch;

impl Engine {
    /// Hears what the watcher said besides paths.
    pub(super) fn listen(&mut self) {
        for said in self.hints.hear() {
            match said {
                watch::Event::Cookie(n) => {
                    self.commands.cookie(n, self.hints.now());
                    self.side
                        .node
                        .roots
                        .iter()
                        .for_each(|r| clear_cookie(&r.root, n));
                }
                watch::Event::Overflow => self.board.update(|s| s.watch.overflows += 1),
                watch::Event::Degraded(why) => {
                    tracing::warn!("{why}");
                    self.scrub.degrade();
                    self.board.update(|s| s.watch.degraded = why);
                }
                watch::Event::Restored => {
                    tracing::info!("all of the roots is watched again");
                    self.scrub.restore();
                    self.board.update(|s| s.watch.degraded = String::new());
                }
                watch::Event::RootGone(id) => {
                    self.is_held(id);
                }
                watch::Event::RootBack(id) => {
                    self.is_held(id);
                    self.hints.subtree(TreePath::new(id, RelPath::root()));
                }
                watch::Event::Touched(..) | watch::Event::Subtree(_) => {}
            }
        }
    }
}
