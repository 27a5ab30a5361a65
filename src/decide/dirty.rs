//! What may differ from the index: a merged, bounded set of paths and subtrees.
//!
//! Watch events go in, work comes out. The set decides when a path is worth
//! looking at (a file that is being written waits until it is closed, or for
//! the settle time at most) and what to do when there are too many paths to
//! hold one by one (they collapse into subtrees to rescan). It reads no clock
//! and no disk, and it never looks at what a path holds.
//!
//! Invariant: a touched path is later either handed out by itself or lies
//! within a subtree that is handed out after the touch. Nothing is forgotten.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::model::path::{RelPath, RootId, TreePath};

/// Default for the most paths held one by one.
pub const MAX_DIRTY_PATHS: usize = 100_000;
/// Most subtrees held; beyond it they collapse into their common parents, at last into whole roots.
pub const MAX_SUBTREES: usize = 1024;

/// What is known about a touched path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touch {
    /// A regular file was created or modified and is perhaps still open.
    Writing,
    /// A file that was open for writing was closed.
    Closed,
    /// Anything else: attributes, deletion, rename, a new directory, symbolic or hard link.
    Changed,
}

/// Age of a thing held: time of its first touch in ms, then order of arrival.
type Age = (u64, u64);

#[derive(Debug, Clone, Copy)]
struct Held {
    age: Age,
    ready: bool,
}

/// The set. Times are milliseconds of one monotonic clock.
#[derive(Debug)]
pub struct DirtySet {
    limit: usize,
    max_subtrees: usize,
    settle_ms: u64,
    arrivals: u64,
    paths: HashMap<Arc<TreePath>, Held>,
    ready: BTreeMap<Age, Arc<TreePath>>,
    /// All wait equally long, so the order of age is the order of becoming ready.
    waiting: BTreeMap<Age, Arc<TreePath>>,
    /// No subtree lies within another one.
    subtrees: BTreeMap<TreePath, Age>,
}

impl DirtySet {
    /// An empty set that holds at most `limit` (at least one) paths one by one and lets a file
    /// that is being written wait for `settle_ms`.
    #[must_use]
    pub fn new(limit: usize, settle_ms: u64) -> Self {
        Self {
            limit: limit.max(1),
            max_subtrees: MAX_SUBTREES,
            settle_ms,
            arrivals: 0,
            paths: HashMap::new(),
            ready: BTreeMap::new(),
            waiting: BTreeMap::new(),
            subtrees: BTreeMap::new(),
        }
    }

    /// Notes that `path` may differ.
    pub fn touch(&mut self, path: TreePath, touch: Touch, now: u64) {
        // A pending subtree is scanned after this touch, so it covers it.
        if self.covering(&path).is_some() {
            return;
        }
        let ready = touch != Touch::Writing;
        if let Some((key, held)) = self.paths.get_key_value(&path) {
            if held.ready != ready {
                let (key, age) = (Arc::clone(key), held.age);
                self.queue(!ready).remove(&age);
                self.queue(ready).insert(age, Arc::clone(&key));
                self.paths.insert(key, Held { age, ready });
            }
            return;
        }
        let age = self.next_age(now);
        let key = Arc::new(path);
        self.queue(ready).insert(age, Arc::clone(&key));
        self.paths.insert(key, Held { age, ready });
        if self.paths.len() > self.limit {
            self.collapse_paths();
        }
    }

    /// Notes that everything at or below `path` may differ.
    pub fn subtree(&mut self, path: TreePath, now: u64) {
        let age = self.next_age(now);
        if path.path.is_root() {
            let root = path.root;
            self.drop_paths(|p| p.root == root);
        }
        self.insert_subtree(path, age);
        self.bound_subtrees();
    }

    /// Takes at most `max` single paths that are ready at `now`, the oldest first.
    pub fn take_ready(&mut self, now: u64, max: usize) -> Vec<TreePath> {
        let mut out = Vec::new();
        while out.len() < max {
            let ready = self.ready.first_key_value().map(|(age, _)| *age);
            let waited = self.waiting.first_key_value().map(|(age, _)| *age);
            let waited = waited.filter(|age| age.0.saturating_add(self.settle_ms) <= now);
            let from_ready = match (ready, waited) {
                (Some(r), Some(w)) => r < w,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => break,
            };
            let Some((_, path)) = self.queue(from_ready).pop_first() else {
                break;
            };
            self.paths.remove(&path);
            out.push(Arc::unwrap_or_clone(path));
        }
        out
    }

    /// Takes the oldest subtree to rescan.
    pub fn take_subtree(&mut self) -> Option<TreePath> {
        let oldest = self.subtrees.iter().min_by_key(|(_, age)| **age);
        let path = oldest.map(|(path, _)| path.clone())?;
        self.subtrees.remove(&path);
        Some(path)
    }

    /// Milliseconds until something is ready: 0 for now, `None` where the set is empty.
    #[must_use]
    pub fn next_ready_in(&self, now: u64) -> Option<u64> {
        if !self.ready.is_empty() || !self.subtrees.is_empty() {
            return Some(0);
        }
        let (age, _) = self.waiting.first_key_value()?;
        Some(age.0.saturating_add(self.settle_ms).saturating_sub(now))
    }

    /// Number of single paths held, ready or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// Number of subtrees held.
    #[must_use]
    pub fn subtrees(&self) -> usize {
        self.subtrees.len()
    }

    /// Whether neither a path nor a subtree is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.subtrees.is_empty()
    }

    /// Time of the first touch of the oldest thing held.
    #[must_use]
    pub fn oldest(&self) -> Option<u64> {
        let ready = self.ready.first_key_value().map(|(age, _)| age.0);
        let waiting = self.waiting.first_key_value().map(|(age, _)| age.0);
        let subtree = self.subtrees.values().map(|age| age.0).min();
        [ready, waiting, subtree].into_iter().flatten().min()
    }

    fn queue(&mut self, ready: bool) -> &mut BTreeMap<Age, Arc<TreePath>> {
        if ready {
            &mut self.ready
        } else {
            &mut self.waiting
        }
    }

    fn next_age(&mut self, now: u64) -> Age {
        self.arrivals += 1;
        (now, self.arrivals)
    }

    /// The pending subtree that `path` lies within. Subtrees are disjoint and sort right before
    /// what lies in them, so only the nearest one before `path` can hold it.
    fn covering(&self, path: &TreePath) -> Option<&TreePath> {
        if self.subtrees.is_empty() {
            return None;
        }
        let (near, _) = self.subtrees.range(..=path).next_back()?;
        within(path, near).then_some(near)
    }

    /// Adds a subtree and keeps the subtrees disjoint; the age of what it swallows is kept.
    fn insert_subtree(&mut self, path: TreePath, mut age: Age) {
        if let Some(outer) = self.covering(&path).cloned() {
            if let Some(held) = self.subtrees.get_mut(&outer) {
                *held = (*held).min(age);
            }
            return;
        }
        let inner: Vec<TreePath> = self
            .subtrees
            .range(&path..)
            .take_while(|(p, _)| within(p, &path))
            .map(|(p, _)| p.clone())
            .collect();
        for p in inner {
            if let Some(a) = self.subtrees.remove(&p) {
                age = age.min(a);
            }
        }
        self.subtrees.insert(path, age);
    }

    fn drop_paths(&mut self, gone: impl Fn(&TreePath) -> bool) {
        let (ready, waiting) = (&mut self.ready, &mut self.waiting);
        self.paths.retain(|path, held| {
            let drop = gone(path);
            if drop && held.ready {
                ready.remove(&held.age);
            } else if drop {
                waiting.remove(&held.age);
            }
            !drop
        });
    }

    /// Replaces at least half of the paths by the directories that hold most of them, so that the
    /// cost of a collapse is paid by the touches it makes room for.
    fn collapse_paths(&mut self) {
        let most = (self.max_subtrees / 4).max(1);
        let deepest = self.paths.keys().map(|p| p.path.depth()).max().unwrap_or(0);
        let mut depth = deepest.saturating_sub(1);
        loop {
            let mut groups: HashMap<TreePath, (usize, Age)> = HashMap::new();
            for (path, held) in &self.paths {
                let group = groups.entry(ancestor(path, depth));
                let (count, age) = group.or_insert((0, held.age));
                *count += 1;
                *age = (*age).min(held.age);
            }
            let mut largest: Vec<(TreePath, (usize, Age))> = groups.into_iter().collect();
            largest.sort_unstable_by(|a, b| b.1.0.cmp(&a.1.0).then_with(|| a.0.cmp(&b.0)));
            if depth > 0 {
                largest.truncate(most);
            }
            let covered: usize = largest.iter().map(|(_, (count, _))| count).sum();
            if depth > 0 && covered * 2 < self.paths.len() {
                depth = shallower(depth);
                continue;
            }
            for (path, (_, age)) in largest {
                self.insert_subtree(path, age);
            }
            break;
        }
        self.bound_subtrees();
        let subtrees = std::mem::take(&mut self.subtrees);
        self.drop_paths(|p| {
            let near = subtrees.range(..=p).next_back();
            near.is_some_and(|(s, _)| within(p, s))
        });
        self.subtrees = subtrees;
    }

    /// Lifts the subtrees to shallower directories until they are few enough.
    fn bound_subtrees(&mut self) {
        if self.subtrees.len() <= self.max_subtrees {
            return;
        }
        let deepest = self.subtrees.keys().map(|p| p.path.depth()).max();
        let mut depth = deepest.unwrap_or(0);
        while depth > 0 && self.subtrees.len() > self.max_subtrees / 2 {
            depth = shallower(depth);
            for (path, age) in std::mem::take(&mut self.subtrees) {
                let lifted = truncate(&path.path, depth);
                self.insert_subtree(TreePath::new(path.root, lifted), age);
            }
        }
    }
}

fn within(path: &TreePath, dir: &TreePath) -> bool {
    path.root == dir.root && path.path.is_within(&dir.path)
}

/// One level up, or more where the tree is deep, so that lifting takes few rounds.
fn shallower(depth: usize) -> usize {
    (depth * 3 / 4).min(depth.saturating_sub(1))
}

/// The directory that holds `path`, or that directory's ancestor at `depth`.
fn ancestor(path: &TreePath, depth: usize) -> TreePath {
    let dir = path.path.parent().unwrap_or_default();
    TreePath::new(path.root, truncate(&dir, depth))
}

fn truncate(path: &RelPath, depth: usize) -> RelPath {
    if depth == 0 {
        return RelPath::root();
    }
    let slashes = path.as_bytes().iter().enumerate();
    let mut slashes = slashes.filter(|(_, b)| **b == b'/').map(|(i, _)| i);
    match slashes.nth(depth - 1) {
        // A prefix of a safe path that ends before a slash is safe.
        Some(cut) => RelPath::parse(&path.as_bytes()[..cut]).unwrap_or_default(),
        None => path.clone(),
    }
}

/// The whole of a root, as a subtree.
#[must_use]
pub fn whole(root: RootId) -> TreePath {
    TreePath::new(root, RelPath::root())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn at(path: &str) -> TreePath {
        TreePath::new(RootId(0), RelPath::parse(path.as_bytes()).expect("safe"))
    }

    fn names(paths: Vec<TreePath>) -> Vec<String> {
        paths.iter().map(|p| p.path.to_string()).collect()
    }

    #[test]
    fn when_a_path_is_ready() {
        use Touch::{Changed, Closed, Writing};
        // Touches of one path (kind, time); the first time at which it is handed out. Settle is 100.
        let table: [(&[(Touch, u64)], u64); 8] = [
            (&[(Changed, 5)], 5),
            (&[(Closed, 5)], 5),
            (&[(Writing, 5)], 105),
            (&[(Writing, 5), (Closed, 30)], 30),
            (&[(Writing, 5), (Changed, 30)], 30),
            (&[(Closed, 5), (Writing, 9)], 105),
            (&[(Writing, 5), (Writing, 50), (Writing, 90)], 105),
            (&[(Writing, 5), (Closed, 6), (Writing, 7), (Closed, 8)], 8),
        ];
        for (touches, expected) in table {
            let mut set = DirtySet::new(10, 100);
            let mut last = 0;
            for (touch, now) in touches {
                set.touch(at("f"), *touch, *now);
                last = *now;
            }
            assert_eq!(set.oldest(), Some(5));
            assert_eq!(set.next_ready_in(last), Some(expected - last));
            if expected > last {
                assert_eq!(set.take_ready(expected - 1, 9), []);
            }
            assert_eq!(set.take_ready(expected, 9), [at("f")], "{touches:?}");
            assert!(set.is_empty() && set.next_ready_in(0).is_none() && set.oldest().is_none());
        }
    }

    #[test]
    fn the_oldest_goes_first_whatever_made_it_ready() {
        let mut set = DirtySet::new(10, 10);
        set.touch(at("old-writing"), Touch::Writing, 0);
        set.touch(at("b"), Touch::Changed, 1);
        set.touch(at("a"), Touch::Closed, 1);
        set.touch(at("new-writing"), Touch::Writing, 5);
        assert_eq!(names(set.take_ready(10, 2)), ["old-writing", "b"]);
        assert_eq!(names(set.take_ready(10, 9)), ["a"]);
        assert_eq!((set.len(), set.next_ready_in(12)), (1, Some(3)));
    }

    #[test]
    fn a_pending_subtree_covers_later_touches_and_an_outer_one_swallows_it() {
        let mut set = DirtySet::new(10, 10);
        set.subtree(at("d/e"), 3);
        set.touch(at("d/e/f"), Touch::Changed, 4);
        set.touch(at("d/ex"), Touch::Changed, 4);
        assert_eq!((set.len(), set.subtrees()), (1, 1));
        set.subtree(at("d.d"), 5);
        set.subtree(at("d"), 6);
        assert_eq!((set.oldest(), set.next_ready_in(9)), (Some(3), Some(0)));
        assert_eq!(set.take_subtree(), Some(at("d")));
        set.touch(at("d/e/f"), Touch::Changed, 7);
        assert_eq!(names(set.take_ready(7, 9)), ["d/ex", "d/e/f"]);
        assert_eq!(set.take_subtree(), Some(at("d.d")));
        assert!(set.take_subtree().is_none() && set.is_empty());
    }

    #[test]
    fn one_past_the_limit_the_fullest_directory_collapses() {
        let mut set = DirtySet::new(10, 10);
        for i in 0..8 {
            set.touch(at(&format!("full/{i}")), Touch::Changed, 1);
        }
        set.max_subtrees = 4;
        set.touch(at("x/lone"), Touch::Changed, 2);
        set.touch(at("lone"), Touch::Changed, 2);
        assert_eq!((set.len(), set.subtrees()), (10, 0));
        set.touch(at("full/more"), Touch::Changed, 3);
        assert_eq!(set.take_subtree(), Some(at("full")));
        assert_eq!(names(set.take_ready(3, 99)), ["x/lone", "lone"]);
    }

    #[test]
    fn a_million_touches_stay_bounded_and_fast() {
        let mut set = DirtySet::new(MAX_DIRTY_PATHS, 100);
        let start = std::time::Instant::now();
        for i in 0..1_000_000u64 {
            let path = format!("web/{}/{}/file-{i}", i % 97, i % 5003);
            set.touch(at(&path), Touch::Writing, i / 1000);
            assert!(set.len() <= MAX_DIRTY_PATHS && set.subtrees() <= MAX_SUBTREES);
        }
        println!("{:.0} touches/s", 1e6 / start.elapsed().as_secs_f64());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Touch(String, Touch),
        Subtree(String),
        TakeReady(usize),
        TakeSubtree,
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let path = || "[ab](\\.b)?(/[abc]{1,2}){0,4}";
        let kind = prop_oneof![
            Just(Touch::Writing),
            Just(Touch::Closed),
            Just(Touch::Changed)
        ];
        prop_oneof![
            20 => (path(), kind).prop_map(|(p, t)| Step::Touch(p, t)),
            3 => path().prop_map(Step::Subtree),
            2 => (1usize..4).prop_map(Step::TakeReady),
            1 => Just(Step::TakeSubtree),
            2 => (1u64..40).prop_map(Step::Wait),
        ]
    }

    proptest! {
        #[test]
        fn nothing_is_forgotten(
            steps in prop::collection::vec(step(), 1..300),
            limit in 1usize..40,
            max_subtrees in 1usize..12,
        ) {
            let mut set = DirtySet::new(limit, 20);
            set.max_subtrees = max_subtrees;
            let (mut owed, mut owed_trees, mut now) = (HashSet::new(), HashSet::new(), 0);
            for s in steps.into_iter().chain([Step::Wait(100), Step::TakeReady(usize::MAX)]) {
                match s {
                    Step::Touch(p, t) => { set.touch(at(&p), t, now); owed.insert(at(&p)); }
                    Step::Subtree(p) => { set.subtree(at(&p), now); owed_trees.insert(at(&p)); }
                    Step::Wait(ms) => now += ms,
                    Step::TakeReady(n) => for p in set.take_ready(now, n) {
                        prop_assert!(owed.remove(&p), "{p:?} was not touched, or twice handed out");
                    },
                    Step::TakeSubtree => if let Some(s) = set.take_subtree() {
                        owed.retain(|p| !within(p, &s) || set.paths.contains_key(p));
                        owed_trees.retain(|p| !within(p, &s));
                    },
                }
                prop_assert!(set.len() <= limit && set.subtrees() <= max_subtrees);
                prop_assert_eq!(set.len(), set.ready.len() + set.waiting.len());
                let held = |p: &TreePath| set.paths.contains_key(p) || set.covering(p).is_some();
                prop_assert!(owed.iter().all(held));
                prop_assert!(owed_trees.iter().all(|p| set.covering(p).is_some()));
            }
        }
    }
}
