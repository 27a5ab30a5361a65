//! What a standby holds after its process ended at a bad moment.

use std::fs;
use std::path::Path;

use super::*;
use crate::agent::node::RootSpec;
use crate::model::epoch::Epoch;

fn receiving(dir: &Path) -> Receiving {
    let root = dir.join("root");
    fs::create_dir_all(&root).expect("a root");
    let spec = RootSpec {
        name: "data".into(),
        path: root,
        exclude: Vec::new(),
    };
    let node = Node::open("b", &dir.join("state"), &[spec]).expect("a node");
    Receiving::open(node, true).expect("what was left is done")
}

fn history(heads: &[u64]) -> History {
    let mut first = 1;
    let mut epochs = Vec::new();
    for (i, head) in (1u32..).zip(heads) {
        epochs.push(Epoch {
            number: i.into(),
            id: i.into(),
            node: "a".into(),
            first,
        });
        first = head + 1;
    }
    History::new(epochs, first - 1).expect("in order")
}

/// The index must never stand at a head whose epoch the history file does not know: that is how a tail looks.
#[test]
fn a_round_that_ended_in_a_crash_is_no_tail() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("state/epochs.json");
    let (before, after) = (history(&[10]), history(&[10, 25]));
    let mut side = receiving(dir.path());
    side.settle(&[], before).expect("the first round ends");
    // The history file cannot be replaced: as if the process ended just before.
    let aside = dir.path().join("epochs.json");
    fs::rename(&file, &aside).expect("set aside");
    fs::create_dir(&file).expect("in its way");
    side.settle(&[], after.clone())
        .expect_err("the history cannot be written");
    drop(side);
    fs::remove_dir(&file).expect("out of its way");
    fs::rename(&aside, &file).expect("as it was");
    let side = receiving(dir.path());
    assert_eq!(*side.node.epochs.history(), after);
}
