//! The plain model: which versions of a name there ever were, which one was made from which, and which ones the peer has
//! acknowledged. It knows nothing of how replication works.

use std::collections::{BTreeMap, BTreeSet};

/// Number of a version.
pub(super) type Id = usize;

/// What stands below a root: names, and what they hold.
pub(super) type Tree = BTreeMap<String, Vec<u8>>;

/// One state of a name.
struct Version {
    /// The states that whoever made this one found.
    from: Vec<Id>,
    /// The name does not stand any more.
    gone: bool,
}

/// Everything that was ever written.
#[derive(Default)]
pub(super) struct Model {
    versions: Vec<Version>,
    /// The newest version that holds this content under this name.
    standing: BTreeMap<(String, u64), Id>,
    /// The deletions of a name.
    gone: BTreeMap<String, Vec<Id>>,
    /// For each name the version of which the peer has said that it holds it.
    acked: BTreeMap<String, Id>,
    /// Contents that nobody took away on purpose.
    pub(super) wanted: BTreeSet<u64>,
    contents: u64,
}

/// The bytes of a content; some are too large for a batch.
pub(super) fn render(number: u64) -> Vec<u8> {
    let line = format!("content {number:08}\n");
    let lines = if number % 7 == 3 { 12_000 } else { 2 };
    line.repeat(lines).into_bytes()
}

/// The number of a content, if these bytes are a whole one.
pub(super) fn number_of(bytes: &[u8]) -> Option<u64> {
    let number = std::str::from_utf8(bytes.get(8..16)?).ok()?.parse().ok()?;
    (bytes == render(number)).then_some(number)
}

impl Model {
    fn add(&mut self, from: Vec<Id>, gone: bool) -> Id {
        self.versions.push(Version { from, gone });
        self.versions.len() - 1
    }

    /// The versions that what was found at a name may be.
    fn found(&self, name: &str, bytes: Option<&[u8]>) -> Vec<Id> {
        match bytes.and_then(number_of) {
            Some(number) => {
                let id = self.standing.get(&(name.to_owned(), number));
                id.copied().into_iter().collect()
            }
            None => self.gone.get(name).cloned().unwrap_or_default(),
        }
    }

    /// A new content that is about to stand at a name, in place of what was found there.
    pub(super) fn write(&mut self, name: &str, found: Option<&[u8]>) -> Vec<u8> {
        if let Some(former) = found.and_then(number_of) {
            self.wanted.remove(&former);
        }
        self.contents += 1;
        self.wanted.insert(self.contents);
        self.stand(name, found, self.contents);
        render(self.contents)
    }

    fn stand(&mut self, name: &str, found: Option<&[u8]>, content: u64) {
        let id = self.add(self.found(name, found), false);
        self.standing.insert((name.to_owned(), content), id);
    }

    /// What was found at a name is about to be deleted.
    pub(super) fn delete(&mut self, name: &str, found: &[u8]) {
        if let Some(former) = number_of(found) {
            self.wanted.remove(&former);
        }
        self.vanish(name, found);
    }

    fn vanish(&mut self, name: &str, found: &[u8]) {
        let id = self.add(self.found(name, Some(found)), true);
        self.gone.entry(name.to_owned()).or_default().push(id);
    }

    /// What was found at a name is about to stand at another, in place of what was found there.
    pub(super) fn rename(&mut self, from: &str, content: &[u8], to: &str, over: Option<&[u8]>) {
        if let Some(former) = over.and_then(number_of) {
            self.wanted.remove(&former);
        }
        self.vanish(from, content);
        if let Some(number) = number_of(content) {
            self.stand(to, over, number);
        }
    }

    /// The peer has said that it holds all of this tree.
    pub(super) fn acknowledge(&mut self, tree: &Tree) {
        let mut names: BTreeSet<String> = self.gone.keys().cloned().collect();
        names.extend(self.standing.keys().map(|(name, _)| name.clone()));
        for name in names {
            match self.found(&name, tree.get(&name).map(Vec::as_slice)).last() {
                Some(id) => self.acked.insert(name, *id),
                None => self.acked.remove(&name),
            };
        }
    }

    /// Whether `later` was made from `earlier`, or is that version.
    fn is_from(&self, later: Id, earlier: Id) -> bool {
        let (mut next, mut seen) = (vec![later], BTreeSet::new());
        while let Some(id) = next.pop() {
            if id == earlier {
                return true;
            }
            if id > earlier && seen.insert(id) {
                next.extend(&self.versions[id].from);
            }
        }
        false
    }

    /// What in a tree is torn, or older than what was acknowledged; `except` are names that somebody changed behind the
    /// active node's back.
    pub(super) fn faults(&self, tree: &Tree, except: &BTreeSet<String>) -> Vec<String> {
        let torn = tree.iter().filter(|(_, bytes)| number_of(bytes).is_none());
        let mut faults: Vec<_> = torn
            .map(|(name, bytes)| format!("{name} is torn: {} bytes", bytes.len()))
            .collect();
        for (name, acked) in &self.acked {
            let bytes = tree.get(name).map(Vec::as_slice);
            let found = self.found(name, bytes);
            if !except.contains(name) && !found.iter().any(|id| self.is_from(*id, *acked)) {
                let gone = self.versions[*acked].gone;
                let bytes =
                    bytes.map(|b| String::from_utf8_lossy(&b[..b.len().min(16)]).into_owned());
                faults.push(format!(
                    "{name} is {bytes:?}, which is not made from acknowledged version {acked} (gone: {gone})"
                ));
            }
        }
        faults
    }
}
