//! Which system calls count as a point at which something can fail, and how each of them can fail in earnest.

/// Where a call says which file it is about.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    /// A descriptor, in this argument.
    Fd(usize),
    /// A directory and a path below it, in these arguments.
    At(usize, usize),
    /// A path.
    Path(usize),
    /// A program is started.
    Launch,
    /// A process is made by `clone`, whose flags are in the first argument.
    Clone,
    /// A process is made by `clone3`, whose flags are where the first argument points.
    Clone3,
}

/// A system call that counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    /// Its number on this machine.
    pub(crate) number: libc::c_long,
    /// Its name.
    pub(crate) name: &'static str,
    /// Which file it is about.
    pub(crate) place: Place,
    /// It changes nothing: of interest below a root only, and never a point for a crash.
    pub(crate) reads: bool,
}

const fn writes(number: libc::c_long, name: &'static str, place: Place) -> Call {
    Call {
        number,
        name,
        place,
        reads: false,
    }
}

const fn reads(number: libc::c_long, name: &'static str, place: Place) -> Call {
    Call {
        number,
        name,
        place,
        reads: true,
    }
}

/// All of them.
pub(crate) const CALLS: &[Call] = &[
    writes(libc::SYS_openat, "openat", Place::At(0, 1)),
    writes(libc::SYS_openat2, "openat2", Place::At(0, 1)),
    writes(libc::SYS_write, "write", Place::Fd(0)),
    writes(libc::SYS_pwrite64, "pwrite64", Place::Fd(0)),
    writes(libc::SYS_writev, "writev", Place::Fd(0)),
    writes(libc::SYS_fsync, "fsync", Place::Fd(0)),
    writes(libc::SYS_fdatasync, "fdatasync", Place::Fd(0)),
    writes(libc::SYS_syncfs, "syncfs", Place::Fd(0)),
    writes(libc::SYS_ftruncate, "ftruncate", Place::Fd(0)),
    writes(libc::SYS_fallocate, "fallocate", Place::Fd(0)),
    writes(libc::SYS_copy_file_range, "copy_file_range", Place::Fd(2)),
    writes(libc::SYS_ioctl, "ioctl", Place::Fd(0)),
    writes(libc::SYS_renameat, "renameat", Place::At(2, 3)),
    writes(libc::SYS_renameat2, "renameat2", Place::At(2, 3)),
    writes(libc::SYS_linkat, "linkat", Place::At(2, 3)),
    writes(libc::SYS_unlinkat, "unlinkat", Place::At(0, 1)),
    writes(libc::SYS_mkdirat, "mkdirat", Place::At(0, 1)),
    writes(libc::SYS_symlinkat, "symlinkat", Place::At(1, 2)),
    writes(libc::SYS_mknodat, "mknodat", Place::At(0, 1)),
    writes(libc::SYS_fchmod, "fchmod", Place::Fd(0)),
    writes(libc::SYS_fchmodat, "fchmodat", Place::At(0, 1)),
    writes(libc::SYS_fchown, "fchown", Place::Fd(0)),
    writes(libc::SYS_fchownat, "fchownat", Place::At(0, 1)),
    writes(libc::SYS_utimensat, "utimensat", Place::At(0, 1)),
    writes(libc::SYS_fsetxattr, "fsetxattr", Place::Fd(0)),
    writes(libc::SYS_setxattr, "setxattr", Place::Path(0)),
    writes(libc::SYS_lsetxattr, "lsetxattr", Place::Path(0)),
    writes(libc::SYS_fremovexattr, "fremovexattr", Place::Fd(0)),
    writes(libc::SYS_removexattr, "removexattr", Place::Path(0)),
    writes(libc::SYS_lremovexattr, "lremovexattr", Place::Path(0)),
    writes(libc::SYS_execve, "execve", Place::Launch),
    writes(libc::SYS_clone, "clone", Place::Clone),
    writes(libc::SYS_clone3, "clone3", Place::Clone3),
    #[cfg(target_arch = "x86_64")]
    writes(libc::SYS_vfork, "vfork", Place::Launch),
    #[cfg(target_arch = "x86_64")]
    writes(libc::SYS_open, "open", Place::Path(0)),
    #[cfg(target_arch = "x86_64")]
    writes(libc::SYS_unlink, "unlink", Place::Path(0)),
    #[cfg(target_arch = "x86_64")]
    writes(libc::SYS_rename, "rename", Place::Path(1)),
    #[cfg(target_arch = "x86_64")]
    writes(libc::SYS_mkdir, "mkdir", Place::Path(0)),
    #[cfg(target_arch = "x86_64")]
    writes(libc::SYS_rmdir, "rmdir", Place::Path(0)),
    #[cfg(target_arch = "x86_64")]
    writes(libc::SYS_chmod, "chmod", Place::Path(0)),
    reads(libc::SYS_statx, "statx", Place::At(0, 1)),
    reads(libc::SYS_newfstatat, "newfstatat", Place::At(0, 1)),
    reads(libc::SYS_getdents64, "getdents64", Place::Fd(0)),
    reads(libc::SYS_readlinkat, "readlinkat", Place::At(0, 1)),
    reads(libc::SYS_read, "read", Place::Fd(0)),
    reads(libc::SYS_pread64, "pread64", Place::Fd(0)),
];

/// The call of this number.
pub(crate) fn call(number: libc::c_int) -> Option<&'static Call> {
    CALLS
        .iter()
        .find(|c| c.number == libc::c_long::from(number))
}

/// What is done to a call instead of letting it pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It fails with this error and does nothing.
    Error(i32, &'static str),
    /// Half of the bytes are written, as where a disk fills up.
    Short,
    /// The process is killed before it.
    Crash,
}

const EIO: Fault = Fault::Error(libc::EIO, "EIO");
const ENOSPC: Fault = Fault::Error(libc::ENOSPC, "ENOSPC");
const EINTR: Fault = Fault::Error(libc::EINTR, "EINTR");
const EPIPE: Fault = Fault::Error(libc::EPIPE, "EPIPE");
const EACCES: Fault = Fault::Error(libc::EACCES, "EACCES");
const EAGAIN: Fault = Fault::Error(libc::EAGAIN, "EAGAIN");
const ALL: [Fault; 8] = [
    EIO,
    ENOSPC,
    EINTR,
    EPIPE,
    EACCES,
    EAGAIN,
    Fault::Short,
    Fault::Crash,
];

impl Fault {
    /// Its name in a list of points and in the command that replays one.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Error(_, name) => name,
            Self::Short => "short",
            Self::Crash => "crash",
        }
    }

    /// The fault of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        ALL.into_iter().find(|f| f.name() == name)
    }

    /// How a call of this name can fail; `stream` where it writes to the peer.
    pub(crate) fn of(name: &str, stream: bool) -> Vec<Self> {
        if stream {
            return vec![EPIPE, Self::Crash];
        }
        let reads = CALLS.iter().any(|c| c.name == name && c.reads);
        let mut all = match name {
            "execve" => vec![EACCES],
            "clone" | "clone3" | "vfork" => vec![EAGAIN],
            "write" | "pwrite64" => vec![EIO, ENOSPC, EINTR, Self::Short],
            "writev" | "fallocate" | "copy_file_range" => vec![EIO, ENOSPC, EINTR],
            "openat" | "openat2" | "open" => vec![EIO, ENOSPC, EINTR],
            "ftruncate" | "read" => vec![EIO, EINTR],
            "mkdirat" | "mkdir" | "symlinkat" | "mknodat" | "linkat" | "renameat" | "renameat2"
            | "rename" | "setxattr" | "lsetxattr" | "fsetxattr" => vec![EIO, ENOSPC],
            _ => vec![EIO],
        };
        if !reads {
            all.push(Self::Crash);
        }
        all
    }
}

/// Which call is to fail: the first, second... one that is written so, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) fault: Fault,
    /// Counted from 1.
    pub(crate) time: u64,
    /// Name, kind and object of the call, as they are counted.
    pub(crate) call: String,
}

impl Order {
    /// The order that [`std::fmt::Display`] writes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut words = text.splitn(3, ':');
        Some(Self {
            fault: Fault::named(words.next()?)?,
            time: words.next()?.parse().ok()?,
            call: words.next()?.to_owned(),
        })
    }
}

impl std::fmt::Display for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.fault.name(), self.time, self.call)
    }
}
