//! The clock of change times, and whether two changes that follow each other closely get different ones.
//!
//! Since Linux 6.13 some file systems give a change its own time if the former one was looked at (multigrain
//! timestamps). Elsewhere a change time is that of the last timer tick, up to 10 ms ago: a file that is changed, read
//! and changed again within one tick looks the same before and after, unless its size changed.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{self as rfs, AtFlags, Mode, OFlags};
use rustix::time::{ClockId, clock_gettime};

use super::tree::{Look, look_at};
use crate::model::entry::Timestamp;

/// Changes tried by the probe: with ticks, two of them at most differ.
const TRIES: usize = 4;
/// Name of the probe's file.
const NAME: &str = "change-times";

/// The time that a change made now gets where change times go with the timer.
#[must_use]
pub fn tick() -> Timestamp {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    Timestamp {
        sec: now.tv_sec,
        nsec: u32::try_from(now.tv_nsec).unwrap_or(0),
    }
}

/// Milliseconds since 1970 by this host's clock; never to be compared with another host's.
#[must_use]
pub fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX))
}

/// Seconds since this host was booted, sleep included.
#[must_use]
pub fn uptime() -> u64 {
    u64::try_from(clock_gettime(ClockId::Boottime).tv_sec).unwrap_or(0)
}

/// Whether the file system of a directory gives each change of a file that was looked at a time of its own.
///
/// # Errors
/// What the system says.
pub fn is_fine(dir: BorrowedFd<'_>) -> io::Result<bool> {
    let flags =
        OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rfs::openat(dir, NAME, flags, Mode::RUSR | Mode::WUSR)?);
    let mut times = Vec::with_capacity(TRIES);
    for _ in 0..TRIES {
        file.write_all(b"x")?;
        if let Look::There(seen) = look_at(file.as_fd(), b"")? {
            times.push(seen.stamp.ctime);
        }
    }
    rfs::unlinkat(dir, NAME, AtFlags::empty())?;
    Ok(times.len() == TRIES && times.is_sorted_by(|a, b| a < b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_not_older_than_the_tick_before_it() {
        let dir = tempfile::tempdir().expect("a directory");
        for i in 0..200 {
            let before = tick();
            let path = dir.path().join(i.to_string());
            std::fs::write(&path, "x").expect("a file");
            let file = File::open(&path).expect("a file");
            let Ok(Look::There(seen)) = look_at(file.as_fd(), b"") else {
                panic!("it is there");
            };
            assert!(seen.stamp.ctime >= before);
        }
        let file = File::open(dir.path()).expect("a directory");
        is_fine(file.as_fd()).expect("probed");
        assert!(!dir.path().join(NAME).exists());
    }
}
