//! The system log, for a daemon that has no terminal and no service manager.
//!
//! Each record is one message with the priority of its level; libc's `syslog` opens the socket again where the log
//! daemon was restarted.

use std::io::{self, Write};

use nix::syslog::{Facility, LogFlags, Severity, openlog, syslog};
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// Makes writers to the system log.
#[derive(Debug)]
pub struct Syslog(());

impl Syslog {
    /// Opens the system log under a name, with the number of this process.
    ///
    /// # Errors
    /// The name is not usable.
    pub fn open(name: &'static std::ffi::CStr) -> io::Result<Self> {
        // The socket is opened at once: a process that gives up its rights later opens none.
        let flags = LogFlags::LOG_PID | LogFlags::LOG_NDELAY;
        openlog(Some(name), flags, Facility::LOG_DAEMON)?;
        Ok(Self(()))
    }
}

/// One record on its way.
#[derive(Debug)]
pub struct Record {
    severity: Severity,
    text: Vec<u8>,
}

impl Write for Record {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let text = String::from_utf8_lossy(&self.text);
        let text = text.trim_end();
        if !text.is_empty() {
            // There is nobody left to tell.
            let _ = syslog(self.severity, text);
        }
    }
}

impl<'a> MakeWriter<'a> for Syslog {
    type Writer = Record;

    fn make_writer(&'a self) -> Record {
        record(Severity::LOG_INFO)
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Record {
        record(match *meta.level() {
            Level::ERROR => Severity::LOG_ERR,
            Level::WARN => Severity::LOG_WARNING,
            Level::INFO => Severity::LOG_INFO,
            Level::DEBUG | Level::TRACE => Severity::LOG_DEBUG,
        })
    }
}

fn record(severity: Severity) -> Record {
    Record {
        severity,
        text: Vec::new(),
    }
}
