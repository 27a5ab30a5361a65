//! What was moved aside: listed, shown, put back, purged, kept no longer than it is to be.

mod common;

#[path = "preserved/edits.rs"]
mod edits;
#[path = "preserved/limits.rs"]
mod limits;
#[path = "preserved/tail.rs"]
mod tail;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::node::{Pair, Side};
use crate::common::steps::json;

/// A path below another one, by bytes.
fn at(dir: &Path, name: &[u8]) -> PathBuf {
    dir.join(OsStr::from_bytes(name))
}

/// What `syncctl preserved list` of a node tells.
fn list(pair: &Pair, side: Side) -> Vec<Value> {
    let listing = json(pair, side, &["preserved", "list"]);
    let items = listing["items"].as_array().expect("items").clone();
    let bytes: u64 = items.iter().filter_map(|i| i["size"].as_u64()).sum();
    assert_eq!(listing["bytes"], bytes, "{listing}");
    items
}

/// The one item with this path.
fn one(items: &[Value], path: &str) -> Value {
    let mut found = items.iter().filter(|i| i["path"] == path);
    let item = found.next().unwrap_or_else(|| panic!("{path}: {items:?}"));
    assert!(found.next().is_none(), "{path}: {items:?}");
    item.clone()
}

/// The id of an item.
fn id(item: &Value) -> &str {
    item["id"].as_str().expect("an id")
}
