//! Which paths of a root are left out.
//!
//! Pure: patterns and a path in, yes or no out; no file is looked at. The syntax is gitignore's, and so is its rule
//! that nothing below an excluded directory can be taken in again. That rule is what makes the filter safe to use on
//! any path in any order: the answer for a path never contradicts the answer for a directory above it, so a walk
//! that skips excluded directories and a look at a single path agree.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use ignore::gitignore::Gitignore;

use crate::config::pattern;
use crate::model::path::RelPath;

/// The compiled exclude patterns of a root.
#[derive(Debug, Clone)]
pub struct Filter(Option<Gitignore>);

impl Filter {
    /// Compiles patterns; the later of two that match wins, `!` takes in again.
    ///
    /// # Errors
    /// The position of the first pattern that is refused, and why.
    pub fn new(patterns: &[String]) -> Result<Self, (usize, String)> {
        let compiled = pattern::compile(patterns)?;
        Ok(Self((!compiled.is_empty()).then_some(compiled)))
    }

    /// Whether nothing is ever left out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether a path, or a directory above it, is left out. The root itself never is.
    #[must_use]
    pub fn excluded(&self, path: &RelPath, is_dir: bool) -> bool {
        let Some(set) = &self.0 else { return false };
        let bytes = path.as_bytes();
        let above = (0..bytes.len()).filter(|i| bytes[*i] == b'/');
        above
            .into_iter()
            .any(|end| matches(set, &bytes[..end], true))
            || self.excluded_here(path, is_dir)
    }

    /// The answer for a path whose parent is known to be taken in, as in a walk from the top; one match instead of
    /// one for each component.
    #[must_use]
    pub fn excluded_here(&self, path: &RelPath, is_dir: bool) -> bool {
        let Some(set) = &self.0 else { return false };
        !path.is_root() && matches(set, path.as_bytes(), is_dir)
    }
}

fn matches(set: &Gitignore, path: &[u8], is_dir: bool) -> bool {
    set.matched(OsStr::from_bytes(path), is_dir).is_ignore()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(patterns: &[&str]) -> Filter {
        let patterns: Vec<_> = patterns.iter().map(ToString::to_string).collect();
        Filter::new(&patterns).expect("good patterns")
    }

    /// Patterns, path (a directory where it ends in a slash), whether it is left out.
    const TABLE: &[(&[&str], &[u8], bool)] = &[
        (&[], b"a/b.tmp", false),
        (&["*.tmp"], b"a.tmp", true),
        (&["*.tmp"], b"a/b/c.tmp", true),
        (&["*.tmp"], b"a.tmp/inside", true),
        (&["*.tmp"], b"a.tmpx", false),
        (&["/cache/"], b"cache/", true),
        (&["/cache/"], b"cache/x/y", true),
        (&["/cache/"], b"cache", false),
        (&["/cache/"], b"a/cache/", false),
        (&["cache/"], b"a/cache/x", true),
        (&["a/b"], b"a/b", true),
        (&["a/b"], b"x/a/b", false),
        (&["a/*/c"], b"a/b/c", true),
        (&["a/*/c"], b"a/b/b/c", false),
        (&["a/**/c"], b"a/b/b/c", true),
        (&["logs/**"], b"logs/", false),
        (&["logs/**"], b"logs/x", true),
        (&["**/x"], b"a/b/x", true),
        (&["[a-c]?"], b"bz", true),
        (&["[!a-c]?"], b"bz", false),
        (&["*.{tmp,bak}"], b"x.bak", true),
        (&["\\#x"], b"#x", true),
        (&["\\!x"], b"!x", true),
        (&["x\\ "], b"x ", true),
        (&["x "], b"x", true),
        (&["*.log", "!keep.log"], b"keep.log", false),
        (&["*.log", "!keep.log"], b"a/keep.log", false),
        (&["*.log", "!keep.log"], b"other.log", true),
        (&["!keep.log", "*.log"], b"keep.log", true),
        (&["/a/", "!/a/keep"], b"a/keep", true),
        (&["/a/*", "!/a/keep"], b"a/keep", false),
        (&["/a/*", "!/a/keep"], b"a/drop", true),
        (&["*"], b"x", true),
        (&["*"], b"", false),
        (&["*.tmp"], b"\xff\xfe\n.tmp", true),
        (&["a?b"], b"a\nb", true),
        (&["*"], b"\xff", true),
        (&["*.TMP"], b"a.tmp", false),
        (&["a*b"], b"a/b", false),
    ];

    #[test]
    fn the_rules_of_gitignore() {
        for (patterns, path, left_out) in TABLE {
            let (bytes, is_dir) = path
                .strip_suffix(b"/")
                .map_or((*path, false), |p| (p, true));
            let path = RelPath::parse(bytes).expect("safe");
            assert_eq!(
                filter(patterns).excluded(&path, is_dir),
                *left_out,
                "{patterns:?} {path}"
            );
        }
    }

    #[test]
    fn a_walk_that_skips_excluded_directories_agrees_with_a_look_at_one_path() {
        for (patterns, path, left_out) in TABLE {
            let f = filter(patterns);
            let (bytes, is_dir) = path
                .strip_suffix(b"/")
                .map_or((*path, false), |p| (p, true));
            let path = RelPath::parse(bytes).expect("safe");
            let mut at = RelPath::root();
            let depth = path.depth();
            let mut skipped = false;
            for (i, name) in path.components().enumerate() {
                at = at.join(name).expect("safe");
                skipped = skipped || f.excluded_here(&at, is_dir || i + 1 < depth);
            }
            assert_eq!(skipped, *left_out, "{patterns:?} {path}");
        }
    }

    #[test]
    fn patterns_that_cannot_work_are_refused() {
        for (bad, why) in [
            (
                "# note",
                "a pattern that starts with # is a comment; write \\# for a name that starts with #",
            ),
            ("", "it names nothing"),
            ("  ", "it names nothing"),
            ("/", "it names nothing"),
            ("!/", "it names nothing"),
            ("./a", "a \".\" or \"..\" component never matches"),
            ("a/../b", "a \".\" or \"..\" component never matches"),
            (
                "a\nb",
                "it has a newline or NUL character; write ? in its place",
            ),
            ("[abc", "unclosed character class; missing ']'"),
            (
                "{a,b",
                "unclosed alternate group; missing '}' (maybe escape '{' with '[{]'?)",
            ),
            ("a\\", "dangling '\\'"),
        ] {
            let patterns = ["*.tmp".to_owned(), bad.to_owned()];
            let got = Filter::new(&patterns).map(|_| ());
            assert_eq!(got, Err((1, why.to_owned())), "{bad:?}");
        }
    }

    #[test]
    fn the_number_of_patterns_is_bounded() {
        let many = vec!["x".to_owned(); pattern::MAX_PATTERNS + 1];
        assert_eq!(
            Filter::new(&many).map(|_| ()).map_err(|e| e.0),
            Err(pattern::MAX_PATTERNS)
        );
    }

    #[test]
    fn no_patterns_compile_to_nothing() {
        assert!(filter(&[]).is_empty());
        assert!(!filter(&["x"]).is_empty());
    }
}
