//! What the lints do not see: files too long to hold in mind, and work left for later.

use std::path::Path;

use walkdir::WalkDir;

/// Most lines of a source file, its tests included.
const MOST: usize = 500;
/// Words that stand for work left for later. (The macros for it, and `unwrap`, are clippy's: see `Cargo.toml`.)
const LATER: [&str; 2] = [concat!("FIX", "ME"), concat!("X", "XX")];

#[test]
fn sources_are_short_and_leave_nothing_for_later() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut faults = Vec::new();
    let below = |dir| WalkDir::new(root.join(dir)).sort_by_file_name();
    for file in below("src")
        .into_iter()
        .chain(below("tests"))
        .chain(below("benches"))
    {
        let file = file.expect("sources can be walked");
        if file.path().extension().is_none_or(|e| e != "rs") {
            continue;
        }
        let path = file.path().strip_prefix(root).expect("below the root");
        let path = path.display().to_string();
        let text = std::fs::read_to_string(file.path()).expect("sources are text");
        let lines = text.lines().count();
        if lines > MOST {
            faults.push(format!("{path}: {lines} lines, {MOST} are allowed"));
        }
        for (n, line) in text.lines().enumerate() {
            let mut words = line.split(|c: char| !c.is_alphanumeric());
            if let Some(word) = words.find(|w| LATER.contains(w)) {
                faults.push(format!("{path}:{}: {word}", n + 1));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
