//! Are the roots what they were? A root that is missing, unmounted or emptied is held: nothing in it counts as deleted.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::board::Board;
use super::node::{Node, PRIVATE_NAMES};
use super::resolve::guard::{Stopped, Until};
use super::rooting;
use crate::index::store::Store;
use crate::model::entry::Timestamp;
use crate::model::path::{PRIVATE_DIR, RootId};
use crate::sys::clock;
use crate::sys::tree::{Look, Root};

/// What a look at a root told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fitness {
    /// It is what it was.
    Well,
    /// It was held until now: what was said about it meanwhile was dropped, so all of it must be scanned.
    Back,
    /// It is held.
    Held,
}

/// The watch over the roots.
pub struct Roots {
    /// File system of each root when it was opened.
    device: BTreeMap<RootId, u64>,
    /// When each was known to be in place.
    seen: BTreeMap<RootId, Moment>,
    held: BTreeMap<RootId, String>,
    /// Held until a person says that it is meant to be, or what is missing is there again.
    stopped: BTreeMap<RootId, Stopped>,
    count: usize,
}

impl Roots {
    /// Remembers the roots as they are now.
    #[must_use]
    pub fn new(node: &Node) -> Self {
        let device = node
            .roots
            .iter()
            .filter_map(|r| Some((r.root.id, r.root.identity().ok()?.0)))
            .collect();
        let now = Moment::now();
        Self {
            device,
            seen: node.roots.iter().map(|r| (r.root.id, now)).collect(),
            held: BTreeMap::new(),
            stopped: BTreeMap::new(),
            count: node.roots.len(),
        }
    }

    /// Whether any root is held.
    #[must_use]
    pub fn any_held(&self) -> bool {
        !self.held.is_empty()
    }

    /// Whether every root is held.
    #[must_use]
    pub fn all_held(&self) -> bool {
        self.held.len() == self.count
    }

    /// The first held root and why it is held.
    #[must_use]
    pub fn first_held(&self, node: &Node) -> Option<String> {
        let (id, why) = self.held.first_key_value()?;
        Some(format!("root \"{}\": {why}", node.root(*id)?.root.name))
    }

    /// Looks at a root: opens it again if another directory stands at its path, holds it if it is not fit.
    pub fn check(&mut self, id: RootId, node: &mut Node, board: &Board) -> Fitness {
        let name = node.root(id).map_or(String::new(), |r| r.root.name.clone());
        match self.trouble(id, node) {
            Some(why) => {
                if self.held.insert(id, why.clone()).as_ref() != Some(&why) {
                    tracing::error!("root \"{name}\": {why}");
                    board.root_held(&name, &why);
                }
                Fitness::Held
            }
            None if self.held.remove(&id).is_some() => {
                tracing::info!("root \"{name}\" is well again");
                board.root_well(&name);
                Fitness::Back
            }
            None => Fitness::Well,
        }
    }

    /// Holds a root from which too much is missing.
    pub fn stop(&mut self, stopped: Stopped, node: &Node, board: &Board) {
        let (id, why) = (stopped.root, stopped.why.clone());
        self.stopped.entry(id).or_insert(stopped);
        let name = node.root(id).map_or(String::new(), |r| r.root.name.clone());
        if self.held.insert(id, why.clone()).is_none() {
            tracing::error!("root \"{name}\": {why}");
            board.root_held(&name, &why);
        }
    }

    /// What is missing from a root is meant to be; returns whether it was held for that.
    pub fn approve(&mut self, id: RootId) -> bool {
        self.stopped.remove(&id).is_some()
    }

    /// Why a root is stopped, unless what stopped it is seen to be over.
    fn stopped(&mut self, id: RootId, node: &Node) -> Option<String> {
        let (stopped, r) = (self.stopped.get(&id)?, node.root(id)?);
        let over = match &stopped.until {
            Until::Mounted(path) => {
                let look = r.root.look(&path.path);
                let device = r.root.identity().map(|(dev, _)| dev);
                matches!((look, device), (Ok(Look::There(seen)), Ok(dev)) if seen.stamp.dev != dev)
            }
            Until::Back(path) => matches!(r.root.look(&path.path), Ok(Look::There(_))),
        };
        if over {
            self.stopped.remove(&id);
            return None;
        }
        Some(stopped.why.clone())
    }

    fn trouble(&mut self, id: RootId, node: &mut Node) -> Option<String> {
        if let Some(why) = self.stopped(id, node) {
            return Some(why);
        }
        if !node.root(id)?.root.is_in_place()
            && let Err(why) = self.reopen(id, node)
        {
            return Some(why);
        }
        looks_emptied(&node.root(id)?.root, &node.store).then(|| EMPTIED.into())
    }

    /// Opens what stands at the path of a root now, unless that cannot follow the directory that was replicated; then it comes
    /// back why.
    fn reopen(&mut self, id: RootId, node: &mut Node) -> Result<(), String> {
        let now = Moment::now();
        let Some(r) = node.roots.get_mut(usize::from(id.0)) else {
            return Ok(());
        };
        let path = match &r.root.only {
            Some(only) => r
                .root
                .path
                .join(std::ffi::OsStr::new(&*String::from_utf8_lossy(only))),
            None => r.root.path.clone(),
        };
        let root = Root::open(id, &r.root.name, &path)
            .map_err(|e| format!("{e}; nothing of it is deleted on the peer"))?;
        let device = root.identity().ok().map(|(dev, _)| dev);
        if device != self.device.get(&id).copied() {
            return Err("its file system is not mounted any more; mount it again. Nothing of it is deleted on the peer".into());
        }
        if looks_emptied(&root, &node.store) {
            // It may have been made for a moment; the former one is still the root.
            return Err(EMPTIED.into());
        }
        let known = node.epochs.root(&root.name);
        if let (Some(known), Some(found), Some(seen)) =
            (known, rooting::birth(&root), self.seen.get(&id))
            && !known.may_be_followed(seen.by_the_clock_at(&now), found)
        {
            return Err(format!(
                "what stands at {} now was made before syncd saw the directory that was replicated there; most likely something is not mounted any more. Mount it; nothing of it is deleted on the peer. Only if this directory is to be the root from now on, stop syncd and run \"syncctl approve {}\", after which this node takes the other node's data",
                root.path.display(),
                root.name
            ));
        }
        root.make_private(&PRIVATE_NAMES)
            .map_err(|e| format!("cannot make its private directory: {e}"))?;
        let birth = rooting::birth(&root).map(|b| (root.name.clone(), b));
        node.epochs.note_roots(birth).map_err(|e| e.to_string())?;
        self.seen.insert(id, now);
        r.root = Arc::new(root);
        Ok(())
    }
}

/// Why a root is held that became empty.
const EMPTIED: &str = "it became empty; nothing of it is deleted on the peer. Restore its content, or put any file into it if it is meant to be emptied";

/// A moment by the clock of change times, which may be set, and by one that may not.
#[derive(Debug, Clone, Copy)]
struct Moment {
    tick: Timestamp,
    /// Seconds since the host was booted.
    uptime: u64,
}

impl Moment {
    fn now() -> Self {
        Self {
            tick: clock::tick(),
            uptime: clock::uptime(),
        }
    }

    /// This moment by the clock as it goes at `now`: where it was set back, what was made since has times before the one that
    /// was seen.
    fn by_the_clock_at(self, now: &Self) -> Timestamp {
        let passed = i64::try_from(now.uptime.saturating_sub(self.uptime)).unwrap_or(i64::MAX);
        let then = now.tick.sec.saturating_sub(passed);
        if then.saturating_add(STEP) < self.tick.sec {
            Timestamp { sec: then, nsec: 0 }
        } else {
            self.tick
        }
    }
}

/// Seconds by which two clocks may differ without one of them being set: both count whole seconds, and one is slewed.
const STEP: i64 = 5;

fn looks_emptied(root: &Root, store: &Store) -> bool {
    root.only.is_none() && looks_empty(root) && !store.is_empty(root.id).unwrap_or(true)
}

fn looks_empty(root: &Root) -> bool {
    let Ok(dir) = rustix::fs::Dir::read_from(root.fd()) else {
        return false;
    };
    dir.flatten().all(|item| {
        let name = item.file_name().to_bytes();
        name == b"." || name == b".." || name == PRIVATE_DIR
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_back_moves_what_it_saw() {
        let moment = |sec, uptime| Moment {
            tick: Timestamp { sec, nsec: 7 },
            uptime,
        };
        let seen = moment(10_000, 50);
        for (why, now, sec) in [
            ("it went on", moment(10_100, 150), 10_000),
            ("it was slewed", moment(10_098, 150), 10_000),
            ("it was set ahead", moment(13_700, 150), 10_000),
            ("it was set back an hour", moment(6_500, 150), 6_400),
        ] {
            assert_eq!(seen.by_the_clock_at(&now).sec, sec, "{why}");
        }
    }
}
