//! gitignore patterns: the one place that compiles them, and refuses those that could never match.
//!
//! gitignore ignores a line it cannot use; a pattern that an administrator believes to be in force and that is not
//! would replicate what must stay, so here it is an error. Braces are alternatives (`*.{tmp,bak}`), as in most tools.

use ignore::gitignore::{Gitignore, GitignoreBuilder};

/// Most patterns in one list.
pub const MAX_PATTERNS: usize = 10_000;

/// Compiles patterns relative to the top of a tree.
///
/// # Errors
/// The position of the first bad pattern, and what is wrong with it.
pub fn compile(patterns: &[String]) -> Result<Gitignore, (usize, String)> {
    if patterns.len() > MAX_PATTERNS {
        return Err((MAX_PATTERNS, format!("more than {MAX_PATTERNS} patterns")));
    }
    let mut builder = GitignoreBuilder::new("");
    builder.allow_unclosed_class(false);
    for (i, p) in patterns.iter().enumerate() {
        usable(p).map_err(|e| (i, e.to_owned()))?;
        builder.add_line(None, p).map_err(|e| (i, plain(&e)))?;
    }
    let last = patterns.len().saturating_sub(1);
    builder.build().map_err(|e| (last, plain(&e)))
}

fn usable(pattern: &str) -> Result<(), &'static str> {
    if pattern.starts_with('#') {
        return Err(
            "a pattern that starts with # is a comment; write \\# for a name that starts with #",
        );
    }
    if pattern.chars().any(|c| c == '\0' || c == '\n') {
        return Err("it has a newline or NUL character; write ? in its place");
    }
    let rest = pattern.trim_end().trim_start_matches('!');
    if rest.trim_matches('/').is_empty() {
        return Err("it names nothing");
    }
    if rest.split('/').any(|c| c == "." || c == "..") {
        return Err("a \".\" or \"..\" component never matches");
    }
    Ok(())
}

fn plain(e: &ignore::Error) -> String {
    match e {
        ignore::Error::Glob { err, .. } => err.clone(),
        other => other.to_string(),
    }
}
