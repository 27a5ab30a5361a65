//! Every way out that we know of, tried by a process that has the receiver's confinement around it and all the rest of a
//! broken-into root process.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

use super::apart::{self, Log};
use crate::common::node::{Pair, Side};
use crate::common::steps::{idle, is_root, run_dir, state};
use crate::options;

fn raw(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("a path")
}

/// A call that returns -1 where it fails.
fn call(number: libc::c_long, arguments: [libc::c_long; 5]) -> io::Result<()> {
    let [a, b, c, d, e] = arguments;
    // SAFETY: each use gives pointers to memory that lives, or none.
    match unsafe { libc::syscall(number, a, b, c, d, e) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn write_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).open(path)
}

/// Files that are not ours.
fn files(log: &mut Log, root: &Path, beside: &Path, state: &Path, run: &Path) {
    let secret = beside.join("secret");
    log.tried("read a file beside the root", fs::read(&secret));
    log.tried("read /etc/shadow", fs::read("/etc/shadow"));
    log.tried("list the directory beside", fs::read_dir(beside));
    log.tried("list /", fs::read_dir("/"));
    log.tried("write a file beside the root", write_to(&secret));
    log.tried("cut off a file beside the root", {
        // SAFETY: the path lives for the call.
        match unsafe { libc::truncate(raw(&secret).as_ptr(), 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    });
    log.tried(
        "make a file beside the root",
        File::create(beside.join("new")),
    );
    log.tried(
        "make a directory beside",
        fs::create_dir(beside.join("dir")),
    );
    log.tried("make a link beside", symlink("x", beside.join("link")));
    log.tried("link a file in", fs::hard_link(&secret, root.join("in")));
    log.tried(
        "link a file out",
        fs::hard_link(root.join("own"), beside.join("out")),
    );
    symlink(&secret, root.join("way")).expect("a link in the root");
    log.tried("read by a link in the root", fs::read(root.join("way")));
    log.tried("write by a link in the root", write_to(&root.join("way")));
    let dotted = root.join("../beside/secret");
    log.tried("read by dots", fs::read(dotted));
    let pinned = OpenOptions::new()
        .read(true)
        .custom_flags_path()
        .open(&secret)
        .expect("a path only");
    let again = format!("/proc/self/fd/{}", pinned.as_raw_fd());
    log.tried("read what was opened as a path", fs::read(again));
    // What the next process of this node would follow, or wait for, as root and not confined.
    log.tried(
        "make a link in the state",
        symlink(&secret, state.join("index.db")),
    );
    log.tried(
        "move a link into the state",
        fs::rename(root.join("way"), state.join("index.db")),
    );
    let fifo = nix::unistd::mkfifo(&state.join("journal"), nix::sys::stat::Mode::S_IRWXU);
    log.tried("make a pipe in the state", fifo.map_err(Into::into));
    log.tried(
        "make a link where lists for hooks are",
        symlink(&secret, run.join("hook-1-1.paths")),
    );
    log.tried(
        "make a file where lists for hooks are",
        File::create(run.join("hook-1-1.paths")),
    );
    // Without it a second process would own the node.
    log.tried("remove the lock", fs::remove_file(run.join("owner.lock")));
    log.tried(
        "move a file out",
        fs::rename(root.join("own"), beside.join("own")),
    );
    log.tried(
        "rename beside",
        fs::rename(beside.join("spare"), beside.join("other")),
    );
    log.tried(
        "move a file in",
        fs::rename(beside.join("more"), root.join("moved")),
    );
    log.tried("remove a file beside the root", fs::remove_file(&secret));
}

trait PathOnly {
    fn custom_flags_path(&mut self) -> &mut Self;
}

impl PathOnly for OpenOptions {
    fn custom_flags_path(&mut self) -> &mut Self {
        std::os::unix::fs::OpenOptionsExt::custom_flags(self, libc::O_PATH)
    }
}

/// Programs, other processes, the network, the kernel.
fn others(log: &mut Log, root: &Path, port: u16) {
    log.tried("run a program", Command::new("/bin/true").spawn());
    // SAFETY: the new process ends at once.
    let made = match unsafe { nix::unistd::fork() } {
        Ok(nix::unistd::ForkResult::Child) => unsafe { libc::_exit(0) },
        Ok(nix::unistd::ForkResult::Parent { .. }) => Ok(()),
        Err(e) => Err(e.into()),
    };
    log.tried("make a process", made);
    let own = root.join("program");
    fs::write(&own, "#!/bin/sh\n").expect("a program in the root");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o6755);
    fs::set_permissions(&own, mode).expect("executable");
    log.tried("run a program of the root", Command::new(&own).spawn());
    // SAFETY: it asks for a number.
    let parent = libc::c_long::from(unsafe { libc::getppid() });
    let none = [0; 5];
    let of = |pid| {
        [
            libc::c_long::from(libc::PTRACE_ATTACH.cast_signed()),
            pid,
            0,
            0,
            0,
        ]
    };
    log.tried("trace a process", call(libc::SYS_ptrace, of(parent)));
    log.tried("end a process", call(libc::SYS_kill, [parent, 0, 0, 0, 0]));
    log.tried(
        "end the first process",
        call(libc::SYS_kill, [1, 0, 0, 0, 0]),
    );
    let of = |what: &str| format!("/proc/{parent}/{what}");
    log.tried(
        "write to a process's memory",
        write_to(Path::new(&of("mem"))),
    );
    log.tried("read its variables", fs::read(of("environ")));
    log.tried("reach its files", fs::read_dir(of("root/etc")));
    let door = root.with_file_name("beside").join("door");
    log.tried("ask a local server", UnixStream::connect(door));
    let of = [
        parent,
        libc::c_long::from(libc::RLIMIT_NOFILE.cast_signed()),
        0,
        0,
        0,
    ];
    log.tried("limit a process", call(libc::SYS_prlimit64, of));
    log.tried(
        "share memory",
        call(libc::SYS_shmget, [0, 4096, 0o1600, 0, 0]),
    );
    log.tried("connect to a host", TcpStream::connect(("127.0.0.1", port)));
    log.tried("listen", TcpListener::bind("127.0.0.1:0"));
    log.tried("send to the network", UdpSocket::bind("127.0.0.1:0"));
    let place = raw(root);
    let at = place.as_ptr() as libc::c_long;
    // Where nobody refuses these two, they fail by what they ask for: this host is to stay as it is.
    let kind = c"no such kind".as_ptr() as libc::c_long;
    log.tried("mount", call(libc::SYS_mount, [kind, at, kind, 0, 0]));
    log.tried("change root", call(libc::SYS_chroot, [at, 0, 0, 0, 0]));
    let new = libc::c_long::from(libc::CLONE_NEWNS);
    log.tried(
        "leave its name space",
        call(libc::SYS_unshare, [new, 0, 0, 0, 0]),
    );
    log.tried("load a program into the kernel", call(libc::SYS_bpf, none));
    log.tried("listen to all files", call(libc::SYS_fanotify_init, none));
    log.tried(
        "use the other way of calls",
        call(libc::SYS_io_uring_setup, [1, 0, 0, 0, 0]),
    );
    log.tried(
        "name the host",
        call(libc::SYS_sethostname, [at, -1, 0, 0, 0]),
    );
    log.tried(
        "read the log of the kernel",
        call(libc::SYS_syslog, [10, 0, 0, 0, 0]),
    );
    log.tried(
        "become somebody else",
        call(libc::SYS_setuid, [65534, 0, 0, 0, 0]),
    );
    for device in [
        "/dev/kmsg",
        "/dev/mem",
        "/dev/null",
        "/dev/vda",
        "/proc/sysrq-trigger",
    ] {
        log.tried(&format!("open {device}"), write_to(Path::new(device)));
    }
}

fn world() -> Pair {
    let mut options = options!();
    options.roots = vec![("data".into(), "/roots/data".into())];
    let pair = idle(options);
    let root = pair.root(Side::B, "data");
    let beside = root.parent().expect("a directory").join("beside");
    fs::create_dir(&beside).expect("a directory");
    for name in ["secret", "spare", "more"] {
        fs::write(beside.join(name), "nobody's business").expect("a file");
    }
    fs::write(root.join("own"), "of the root").expect("a file");
    fs::write(run_dir(&pair, Side::B).join("owner.lock"), "").expect("a file");
    pair
}

#[test]
fn no_way_leads_out() {
    if apart::is_done_alone() {
        return;
    }
    if !is_root("no_way_leads_out") {
        return;
    }
    let pair = world();
    let root = pair.root(Side::B, "data");
    let beside = root.parent().expect("a directory").join("beside");
    let (state, run) = (state(&pair, Side::B), run_dir(&pair, Side::B));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let _door = UnixListener::bind(beside.join("door")).expect("a server");
    let port = listener.local_addr().expect("an address").port();
    let tried = apart::start(|log| {
        apart::confine(&pair.config());
        files(log, &root, &beside, &state, &run);
        others(log, &root, port);
    });
    let lines = tried.lines();
    let got_out: Vec<_> = lines.iter().filter(|l| l.ends_with(": done")).collect();
    assert!(got_out.is_empty(), "{got_out:#?}");
    // A refusal, not something that is missing.
    let refused = |l: &&String| {
        ["Permission denied", "not permitted", "cross-device"]
            .iter()
            .any(|w| l.contains(w))
    };
    let odd: Vec<_> = lines.iter().filter(|l| !refused(l)).collect();
    // Not every host has each of these.
    let absent = |l: &&String| l.starts_with("open /") && l.contains("No such");
    let odd: Vec<_> = odd.into_iter().filter(|l| !absent(l)).collect();
    assert!(odd.is_empty(), "{odd:#?}");
    assert!(lines.len() > 50, "{lines:#?}");
    let secret = fs::read(beside.join("secret")).expect("it is there");
    assert_eq!(secret, b"nobody's business");
    assert_eq!(fs::read_dir(&beside).expect("listed").count(), 4);
}

/// The same process, not confined, gets out: what is tried is no misprint.
#[test]
fn without_confinement_the_same_ways_lead_out() {
    if apart::is_done_alone() {
        return;
    }
    let pair = world();
    let root = pair.root(Side::B, "data");
    let beside = root.parent().expect("a directory").join("beside");
    let (state, run) = (state(&pair, Side::B), run_dir(&pair, Side::B));
    let tried = apart::start(|log| files(log, &root, &beside, &state, &run));
    let lines = tried.lines();
    let refused: Vec<_> = lines.iter().filter(|l| !l.ends_with(": done")).collect();
    // Two take a name that an earlier one has made.
    assert!(refused.iter().all(|l| l.contains("exists")), "{refused:#?}");
    assert!(lines.len() > 20, "{lines:#?}");
}
