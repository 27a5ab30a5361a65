//! Answers the calls of a program under a plan: it counts those that matter and has one of them fail.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::calls::{Call, Fault, Order, Place, call};
use super::launcher::Plan;

/// `ioctl` requests that write: FICLONE and FICLONERANGE.
const CLONES: [u64; 2] = [0x4004_9409, 0x4020_940d];
/// Longest path that is read from a program.
const PATH: usize = 4096;

/// The one who answers.
pub(crate) struct Supervisor {
    listener: OwnedFd,
    plan: Plan,
    /// `--node NAME` of the processes that count.
    node: Vec<u8>,
    home: PathBuf,
    order: Option<Order>,
    calls: Option<File>,
    /// How often the call of the order was met.
    count: u64,
    fired: bool,
    /// The program itself was started.
    begun: bool,
    /// Whether a process is one of the node, by process id.
    ours: HashMap<u32, bool>,
}

impl Supervisor {
    pub(crate) fn new(listener: OwnedFd, plan: Plan, node: String, home: PathBuf) -> Self {
        let order = fs::read_to_string(plan.order());
        let order = order.ok().and_then(|text| Order::parse(&text));
        let calls = if order.is_none() {
            let file = File::options().create(true).append(true).open(plan.calls());
            file.ok()
        } else {
            None
        };
        let mut words = b"\0--node\0".to_vec();
        words.extend_from_slice(node.as_bytes());
        words.push(0);
        Self {
            listener,
            plan,
            node: words,
            home,
            order,
            calls,
            count: 0,
            fired: false,
            begun: false,
            ours: HashMap::new(),
        }
    }

    /// Answers until nobody is left who could ask.
    pub(crate) fn run(mut self) {
        loop {
            let mut poll = libc::pollfd {
                fd: self.listener.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one descriptor, which is open.
            if unsafe { libc::poll(&raw mut poll, 1, -1) } < 0 {
                continue;
            }
            if poll.revents & libc::POLLIN == 0 {
                return;
            }
            // SAFETY: the kernel wants it zeroed, and all zeros is a value of it.
            let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
            // SAFETY: the structure is the one the request takes.
            let got = unsafe {
                libc::ioctl(
                    self.listener.as_raw_fd(),
                    libc::SECCOMP_IOCTL_NOTIF_RECV,
                    &raw mut asked,
                )
            };
            if got == 0 {
                self.answer(&asked);
            }
        }
    }

    fn answer(&mut self, asked: &libc::seccomp_notif) {
        let (mut val, mut error) = (0, 0);
        let mut flags = u32::try_from(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE).unwrap_or(1);
        match self.judge(asked) {
            None => {}
            Some(Fault::Error(errno, _)) => (flags, error) = (0, -errno),
            Some(Fault::Short) => match short(asked) {
                Ok(n) => (flags, val) = (0, n),
                Err(_) => {
                    // Nothing can be said about it: the point did not hold what it promised.
                    let _ = fs::write(self.plan.fired(), "short write: impossible");
                }
            },
            Some(Fault::Crash) => {
                // SAFETY: the process is one that the test started, and waits for this answer.
                unsafe { libc::kill(asked.pid.cast_signed(), libc::SIGKILL) };
                return;
            }
        }
        let mut reply = libc::seccomp_notif_resp {
            id: asked.id,
            val,
            error,
            flags,
        };
        // SAFETY: the structure is the one the request takes.
        unsafe {
            libc::ioctl(
                self.listener.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_SEND,
                &raw mut reply,
            )
        };
    }

    /// The fault this call is to meet.
    fn judge(&mut self, asked: &libc::seccomp_notif) -> Option<Fault> {
        let call = call(asked.data.nr)?;
        if call.name == "execve" && !std::mem::replace(&mut self.begun, true) {
            return None;
        }
        if self.fired || !self.plan.armed().exists() {
            return None;
        }
        let (object, stream) = self.object(call, asked)?;
        let line = format!(
            "{} {} {}",
            call.name,
            if stream { "stream" } else { "file" },
            plain(&object)
        );
        if let Some(calls) = &mut self.calls {
            let _ = writeln!(calls, "{line}");
        }
        let order = self.order.as_ref().filter(|o| o.call == line)?;
        self.count += 1;
        if order.time != self.count {
            return None;
        }
        let fault = order.fault;
        self.fired = true;
        // Who is about to become another program is not yet the node's: what it was made for goes on.
        if fault == Fault::Crash
            && call.name != "execve"
            && let Ok(cut) = fs::read_to_string(self.plan.cut())
        {
            let _ = fs::write(cut, "");
        }
        let _ = fs::write(self.plan.fired(), &line);
        Some(fault)
    }

    /// What the call is about, where it counts; `true` with a stream to the peer.
    fn object(&mut self, call: &Call, asked: &libc::seccomp_notif) -> Option<(PathBuf, bool)> {
        let (pid, args) = (asked.pid, &asked.data.args);
        match call.place {
            Place::Fd(at) => {
                if call.name == "ioctl" && !CLONES.contains(&args[1]) {
                    return None;
                }
                let path = descriptor(pid, args[at])?;
                let pipe = path.as_os_str().as_bytes().starts_with(b"pipe:");
                if pipe && matches!(call.name, "write" | "writev") {
                    // Standard error is for messages.
                    let stream = args[at] != 2 && self.is_ours(pid);
                    return stream.then(|| (PathBuf::from("peer"), true));
                }
                self.file(call, path)
            }
            Place::At(dir, at) => {
                let path = resolve(pid, args[dir], &memory_text(pid, args[at]))?;
                self.file(call, path)
            }
            Place::Path(at) => {
                let here = u64::from(libc::AT_FDCWD.cast_unsigned());
                let path = resolve(pid, here, &memory_text(pid, args[at]))?;
                self.file(call, path)
            }
            Place::Clone if args[0] & libc::CLONE_THREAD as u64 != 0 => None,
            Place::Clone3 => {
                let flags = memory(pid, args[0], 8).ok()?;
                let flags = u64::from_ne_bytes(flags.try_into().ok()?);
                (flags & libc::CLONE_THREAD as u64 == 0 && self.is_ours(pid))
                    .then(|| (PathBuf::from("process"), false))
            }
            Place::Launch | Place::Clone => {
                self.is_ours(pid).then(|| (PathBuf::from("process"), false))
            }
        }
    }

    fn file(&self, call: &Call, path: PathBuf) -> Option<(PathBuf, bool)> {
        let below = path.strip_prefix(&self.home).ok()?;
        let inner = below.starts_with("state") || below.starts_with("run");
        (!(call.reads && inner)).then(|| (below.to_owned(), false))
    }

    /// Whether this is a process of the node, and not what it started.
    fn is_ours(&mut self, pid: u32) -> bool {
        let node = &self.node;
        *self.ours.entry(pid).or_insert_with(|| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.windows(node.len()).any(|w| w == node)
        })
    }
}

/// A path without the numbers that differ from run to run: of processes, slots and what is preserved.
fn plain(path: &Path) -> String {
    let text = path.display().to_string();
    if !text.starts_with("run/") && !text.contains("/.osm-failover/") {
        return text;
    }
    let digit = |c: char| if c.is_ascii_digit() { '#' } else { c };
    let mut plain: String = text.chars().map(digit).collect();
    while plain.contains("##") {
        plain = plain.replace("##", "#");
    }
    plain
}

/// The path a descriptor of a process leads to.
fn descriptor(pid: u32, fd: u64) -> Option<PathBuf> {
    #[allow(clippy::cast_possible_truncation)]
    let fd = fd as i32;
    let link = if fd == libc::AT_FDCWD {
        format!("/proc/{pid}/cwd")
    } else {
        format!("/proc/{pid}/fd/{fd}")
    };
    fs::read_link(link).ok()
}

/// A path as a process means it, as far as it can be told without following links.
fn resolve(pid: u32, dir: u64, path: &[u8]) -> Option<PathBuf> {
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    for own in ["/proc/self/fd", "/proc/thread-self/fd"] {
        if let Ok(rest) = path.strip_prefix(own) {
            let mut words = rest.iter();
            let fd = words.next()?.to_str()?.parse().ok()?;
            return Some(descriptor(pid, fd)?.join(words.as_path()));
        }
    }
    if path.is_absolute() {
        return Some(path.to_owned());
    }
    let dir = descriptor(pid, dir)?;
    Some(if path.as_os_str().is_empty() {
        dir
    } else {
        dir.join(path)
    })
}

fn memory(pid: u32, at: u64, n: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; n];
    let file = File::open(format!("/proc/{pid}/mem"))?;
    let got = file.read_at(&mut bytes, at)?;
    bytes.truncate(got);
    Ok(bytes)
}

/// The text at an address: up to its NUL.
fn memory_text(pid: u32, at: u64) -> Vec<u8> {
    if at == 0 {
        return Vec::new();
    }
    // Not past the end of a page at once: the next one may not be there.
    let mut text = Vec::new();
    while text.len() < PATH {
        let from = at + text.len() as u64;
        let page = usize::try_from(4096 - from % 4096).unwrap_or(1);
        let Ok(part) = memory(pid, from, page) else {
            break;
        };
        if let Some(end) = part.iter().position(|b| *b == 0) {
            text.extend_from_slice(&part[..end]);
            break;
        }
        if part.is_empty() {
            break;
        }
        text.extend_from_slice(&part);
    }
    text
}

/// Writes the first half of what the program meant to write; how much that was.
fn short(asked: &libc::seccomp_notif) -> io::Result<i64> {
    let args = &asked.data.args;
    let len = usize::try_from(args[2]).map_err(io::Error::other)? / 2;
    if len == 0 {
        return Err(io::Error::other("one byte has no half"));
    }
    let bytes = memory(asked.pid, args[1], len)?;
    // SAFETY: plain numbers; each result is looked at before it is used.
    let file = unsafe {
        let leader = leader(asked.pid)?;
        let process = libc::syscall(libc::SYS_pidfd_open, leader, 0);
        if process < 0 {
            return Err(io::Error::last_os_error());
        }
        let process = OwnedFd::from_raw_fd(i32::try_from(process).map_err(io::Error::other)?);
        let fd = libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), args[0], 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        File::from_raw_fd(i32::try_from(fd).map_err(io::Error::other)?)
    };
    let n = if asked.data.nr == i32::try_from(libc::SYS_pwrite64).unwrap_or(-1) {
        file.write_at(&bytes, args[3])?
    } else {
        (&file).write(&bytes)?
    };
    i64::try_from(n).map_err(io::Error::other)
}

/// The process a thread belongs to.
fn leader(thread: u32) -> io::Result<i32> {
    let status = fs::read_to_string(format!("/proc/{thread}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("Tgid:"));
    line.and_then(|l| l.trim().parse().ok())
        .ok_or_else(|| io::Error::other("no thread group"))
}
