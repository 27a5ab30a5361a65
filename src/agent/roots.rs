//! Are the roots what they were? A root that is missing, unmounted or emptied is held: nothing in it counts as deleted.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::board::Board;
use super::node::{Node, PRIVATE_NAMES};
use super::resolve::guard::{Stopped, Until};
use super::rooting;
use crate::decide::root_dir::Birth;
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
    /// The time by the clock of change times at which each was known to be in place.
    seen: BTreeMap<RootId, Timestamp>,
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
        let now = clock::tick();
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
        let r = node.roots.get_mut(usize::from(id.0))?;
        if !r.root.is_in_place() {
            let now = clock::tick();
            let path = match &r.root.only {
                Some(only) => r
                    .root
                    .path
                    .join(std::ffi::OsStr::new(&*String::from_utf8_lossy(only))),
                None => r.root.path.clone(),
            };
            let root = match Root::open(id, &r.root.name, &path) {
                Ok(root) => root,
                Err(e) => return Some(format!("{e}; nothing of it is deleted on the peer")),
            };
            let device = root.identity().ok().map(|(dev, _)| dev);
            if device != self.device.get(&id).copied() {
                return Some("its file system is not mounted any more; mount it again. Nothing of it is deleted on the peer".into());
            }
            if let Some(found) = rooting::birth(&root) {
                let (known, seen) = (node.epochs.root(&root.name), self.seen.get(&id));
                let follows = |k: Birth| seen.is_none_or(|seen| k.may_be_followed(*seen, found));
                if !known.is_none_or(follows) {
                    return Some(format!(
                        "what stands at {} now was made long before the directory that was replicated went; most likely something is not mounted there any more. Mount it; nothing of it is deleted on the peer. Only if this directory is to be the root from now on, stop syncd and run \"syncctl approve {}\"",
                        root.path.display(),
                        root.name
                    ));
                }
                if let Err(e) = node.epochs.note_root(&root.name, found) {
                    return Some(e.to_string());
                }
            }
            if let Err(e) = root.make_private(&PRIVATE_NAMES) {
                return Some(format!("cannot make its private directory: {e}"));
            }
            self.seen.insert(id, now);
            r.root = Arc::new(root);
        }
        let emptied = r.root.only.is_none() && looks_empty(&r.root);
        if emptied && !node.store.is_empty(id).unwrap_or(true) {
            return Some("it became empty; nothing of it is deleted on the peer. Restore its content, or put any file into it if it is meant to be emptied".into());
        }
        None
    }
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
