//! Which hook a change is about, what one run of it is told, and what is gathered until it runs.
//!
//! Pure. Patterns are about the paths of the configuration, which are the same on both nodes. What is gathered is bounded:
//! beyond the bound the roots stand in the place of the paths, which says less and nothing wrong.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::filter::Filter;
use crate::config::{Hook, HookEvent};
use crate::model::path::{RelPath, RootId, TreePath};

/// Most paths gathered for one run.
pub const MAX_PATHS: usize = 10_000;
/// Most bytes of paths gathered for one run.
pub const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Most paths that are handed over as arguments.
pub const MAX_ARGUMENTS: usize = 1000;
/// Most bytes of paths that are handed over as arguments.
pub const MAX_ARGUMENT_BYTES: usize = 128 * 1024;

/// A change, as far as hooks care.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Touched {
    /// This path.
    Path(TreePath),
    /// This directory itself, not what is in it.
    Dir(TreePath),
    /// This directory and everything in it: it came, went or was renamed as a whole.
    Subtree(TreePath),
}

impl Touched {
    /// The path.
    #[must_use]
    pub fn path(&self) -> &TreePath {
        match self {
            Self::Path(p) | Self::Dir(p) | Self::Subtree(p) => p,
        }
    }
}

/// What one hook is about.
#[derive(Debug, Clone)]
struct Rule {
    paths: Filter,
    /// The directories that hold everything its patterns can match, as far as their first wildcard.
    within: Vec<RelPath>,
    on: Vec<HookEvent>,
}

/// What all hooks are about.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    rules: Vec<Rule>,
    /// Where each root lies in the configuration.
    bases: Vec<RelPath>,
}

impl Rules {
    /// The rules of hooks; `bases` are the directories that the paths of each root are relative to.
    ///
    /// # Errors
    /// The position of the first hook with a pattern that is refused, and why.
    pub fn new(hooks: &[Hook], bases: &[PathBuf]) -> Result<Self, (usize, String)> {
        let rule = |(i, h): (usize, &Hook)| {
            let paths = Filter::new(&h.paths).map_err(|(_, why)| (i, why))?;
            Ok(Rule {
                paths,
                within: h.paths.iter().map(|p| fixed_part(p)).collect(),
                on: h.on.clone(),
            })
        };
        Ok(Self {
            rules: hooks
                .iter()
                .enumerate()
                .map(rule)
                .collect::<Result<_, _>>()?,
            bases: bases.iter().map(|b| relative(b)).collect(),
        })
    }

    /// The hooks that run on an event, in their order.
    pub fn on(&self, event: HookEvent) -> impl Iterator<Item = usize> + '_ {
        let wanted = move |(_, r): &(usize, &Rule)| r.on.contains(&event);
        self.rules.iter().enumerate().filter(wanted).map(|(i, _)| i)
    }

    /// Whether a hook is about a change.
    #[must_use]
    pub fn is_about(&self, hook: usize, touched: &Touched) -> bool {
        let at = touched.path();
        let (Some(rule), Some(base)) =
            (self.rules.get(hook), self.bases.get(usize::from(at.root.0)))
        else {
            return false;
        };
        if rule.paths.is_empty() {
            return true;
        }
        let Some(path) = joined(base, &at.path) else {
            return false;
        };
        match touched {
            Touched::Path(_) => rule.paths.excluded(&path, false),
            Touched::Dir(_) => rule.paths.excluded(&path, true),
            Touched::Subtree(_) => {
                rule.paths.excluded(&path, true)
                    || rule
                        .within
                        .iter()
                        .any(|w| w.is_within(&path) || path.is_within(w))
            }
        }
    }
}

fn relative(path: &Path) -> RelPath {
    let bytes = path.as_os_str().as_bytes();
    let bytes = bytes.strip_prefix(b"/").unwrap_or(bytes);
    RelPath::parse(bytes).unwrap_or_default()
}

fn joined(base: &RelPath, path: &RelPath) -> Option<RelPath> {
    let parts = [base.as_bytes(), path.as_bytes()];
    let filled: Vec<&[u8]> = parts.into_iter().filter(|p| !p.is_empty()).collect();
    RelPath::parse(&filled.join(&b'/')).ok()
}

/// The directory that a pattern names before its first wildcard; the top for one that matches anywhere.
fn fixed_part(pattern: &str) -> RelPath {
    let pattern = pattern.trim_end().trim_start_matches('!');
    let inside = pattern.trim_end_matches('/');
    if !inside.contains('/') {
        return RelPath::root();
    }
    let fixed: Vec<&str> = inside
        .trim_start_matches('/')
        .split('/')
        .take_while(|c| !c.contains(['*', '?', '[', '{', '\\']))
        .collect();
    RelPath::parse(fixed.join("/").as_bytes()).unwrap_or_default()
}

/// What is gathered for the next run of a hook.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Due {
    paths: BTreeSet<TreePath>,
    bytes: usize,
    /// Roots of which so much changed that they stand in the place of their paths.
    roots: BTreeSet<RootId>,
}

impl Due {
    /// Whether there is nothing to run for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.roots.is_empty()
    }

    /// The paths, each by itself.
    pub fn paths(&self) -> impl Iterator<Item = &TreePath> {
        self.paths.iter()
    }

    /// The roots that stand in the place of their paths.
    pub fn roots(&self) -> impl Iterator<Item = RootId> + '_ {
        self.roots.iter().copied()
    }

    /// Adds a path.
    pub fn add(&mut self, path: &TreePath) {
        if self.roots.contains(&path.root) || !self.paths.insert(path.clone()) {
            return;
        }
        self.bytes += path.path.as_bytes().len();
        if self.paths.len() > MAX_PATHS || self.bytes > MAX_BYTES {
            let roots: BTreeSet<_> = self.paths.iter().map(|p| p.root).collect();
            roots.into_iter().for_each(|r| self.add_root(r));
        }
    }

    /// Takes a path out: it did not change after all. A root that stands in its place stays.
    pub fn remove(&mut self, path: &TreePath) {
        if self.paths.remove(path) {
            self.bytes -= path.path.as_bytes().len();
        }
    }

    /// Adds everything of another one.
    pub fn merge(&mut self, other: &Self) {
        other.roots.iter().for_each(|r| self.add_root(*r));
        other.paths.iter().for_each(|p| self.add(p));
    }

    /// Adds a root: anything in it may have changed.
    pub fn add_root(&mut self, root: RootId) {
        self.roots.insert(root);
        self.paths.retain(|p| p.root != root);
        self.bytes = self.paths.iter().map(|p| p.path.as_bytes().len()).sum();
    }

    /// Everything, as paths on this host; `bases` are the directories that the paths of each root are relative to, `roots`
    /// the roots themselves.
    #[must_use]
    pub fn told(&self, bases: &[PathBuf], roots: &[PathBuf]) -> Told {
        let at = |all: &[PathBuf], r: RootId| all.get(usize::from(r.0)).cloned();
        let mut all: Vec<PathBuf> = self.roots.iter().filter_map(|r| at(roots, *r)).collect();
        all.extend(self.paths.iter().filter_map(|p| absolute(bases, p)));
        let parents = self.paths.iter().map(|p| p.root);
        let touched: BTreeSet<_> = self.roots.iter().copied().chain(parents).collect();
        Told {
            paths: all,
            exact: self.roots.is_empty(),
            roots: touched.into_iter().filter_map(|r| at(roots, r)).collect(),
        }
    }
}

/// A path on this host.
#[must_use]
pub fn absolute(bases: &[PathBuf], path: &TreePath) -> Option<PathBuf> {
    let base = bases.get(usize::from(path.root.0))?;
    if path.path.is_root() {
        return Some(base.clone());
    }
    let name = OsString::from_vec(path.path.as_bytes().to_vec());
    Some(base.join(name))
}

/// What one run is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// What changed: paths, and roots in the place of paths where those are too many.
    pub paths: Vec<PathBuf>,
    /// These are all paths themselves.
    pub exact: bool,
    /// The roots that they lie in.
    pub roots: Vec<PathBuf>,
}

impl Told {
    /// The program's words, the paths in the place of `{paths}`; the roots where they are too many for arguments.
    #[must_use]
    pub fn words(&self, run: &[String]) -> Vec<OsString> {
        let bytes: usize = self.paths.iter().map(|p| p.as_os_str().len() + 1).sum();
        let few = self.paths.len() <= MAX_ARGUMENTS && bytes <= MAX_ARGUMENT_BYTES;
        let paths = if few { &self.paths } else { &self.roots };
        let mut words = Vec::with_capacity(run.len());
        for word in run {
            if word == Hook::PATHS {
                words.extend(paths.iter().map(|p| p.clone().into_os_string()));
            } else {
                words.push(word.into());
            }
        }
        words
    }

    /// The paths, each ended by a NUL.
    #[must_use]
    pub fn list(&self) -> Vec<u8> {
        let mut list = Vec::new();
        for path in &self.paths {
            list.extend_from_slice(path.as_os_str().as_bytes());
            list.push(0);
        }
        list
    }
}

#[cfg(test)]
#[path = "hooks/tests.rs"]
mod tests;
