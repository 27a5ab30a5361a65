//! The exit codes of `syncctl`, in one table. Wrappers and tests rely on them; they never change their meaning.

use std::process::ExitCode;

use crate::config::ConfigError;
use crate::wire::control::Failure;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It did what it was asked.
    Done = 0,
    /// It failed.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// No process runs for this node.
    NotRunning = 3,
    /// The peer cannot be reached.
    PeerUnreachable = 4,
    /// Both nodes changed data on their own; nothing was changed.
    Diverged = 5,
    /// A guard refused.
    Refused = 6,
    /// It took longer than allowed.
    TimedOut = 7,
}

impl Exit {
    /// The number.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// A failure that ends with this code.
    #[must_use]
    pub fn failure(self, message: impl Into<String>, hint: impl Into<String>) -> Failure {
        Failure {
            code: self.code(),
            message: message.into(),
            hint: hint.into(),
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl From<&ConfigError> for Failure {
    fn from(e: &ConfigError) -> Self {
        Exit::Usage.failure(e.to_string(), e.hint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_those_of_the_manual() {
        let codes = [
            Exit::Done,
            Exit::Failed,
            Exit::Usage,
            Exit::NotRunning,
            Exit::PeerUnreachable,
            Exit::Diverged,
            Exit::Refused,
            Exit::TimedOut,
        ];
        for (i, e) in codes.iter().enumerate() {
            assert_eq!(usize::from(e.code()), i, "{e:?}");
        }
    }
}
