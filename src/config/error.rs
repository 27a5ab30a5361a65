//! Why a configuration is refused: one line for a log, and a hint that says what to do.

use std::fmt;
use std::path::{Path, PathBuf};

/// Why a configuration is refused. `Display` gives one line: file, line, what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    file: PathBuf,
    line: Option<usize>,
    key: String,
    message: String,
    hint: String,
}

impl ConfigError {
    pub(super) fn new(
        file: &Path,
        line: Option<usize>,
        key: &str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            file: file.to_owned(),
            line,
            key: key.to_owned(),
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The line, counted from 1, where the trouble has a place.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        self.line
    }

    /// The key, as `root.path`; empty where the trouble is not about one.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &str {
        &self.hint
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for ConfigError {}
