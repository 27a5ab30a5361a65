//! Runs a program whose n-th system call fails, or at whose n-th system call it is killed.
//!
//! The program is the real one: a seccomp filter, installed between the fork of its parent and its own exec, hands the
//! calls of [`super::calls`] to a supervisor, which lets them pass, answers them itself, or kills the caller. The filter
//! covers all threads and descendants. The process id, standard input and output stay those of the program. Calls on
//! files outside of the node's own directory do not count, nor what other nodes' processes do, so the count is the
//! same in every run as far as the program's own threads are.

use std::ffi::CString;
use std::fs;
use std::io::{IoSlice, IoSliceMut, Write as _};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

use super::calls::CALLS;
use super::supervisor::Supervisor;

/// Environment variable that tells the launcher which [`Plan`] directory to use.
pub(crate) const PLAN: &str = "OSM_FAULT_PLAN";
/// Environment variable: name of the node whose calls count.
pub(crate) const NODE: &str = "OSM_FAULT_NODE";
/// Environment variable: directory below which files count.
pub(crate) const HOME: &str = "OSM_FAULT_HOME";

/// The files by which a test and the supervisors of its processes speak to each other.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    dir: PathBuf,
}

impl Plan {
    pub(crate) fn at(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }

    /// While this file exists, calls count.
    pub(crate) fn armed(&self) -> PathBuf {
        self.dir.join("armed")
    }

    /// The [`super::calls::Order`]; without it calls are only counted.
    pub(crate) fn order(&self) -> PathBuf {
        self.dir.join("order")
    }

    /// One line for each call that counted: its name, `stream` or `file`, its object.
    pub(crate) fn calls(&self) -> PathBuf {
        self.dir.join("calls")
    }

    /// What was hit; from then on everything passes.
    pub(crate) fn fired(&self) -> PathBuf {
        self.dir.join("fired")
    }

    /// A file to be made before a crash, so that nobody speaks to what comes after it.
    pub(crate) fn cut(&self) -> PathBuf {
        self.dir.join("cut")
    }
}

/// Words before a program that has it run under a plan.
pub(crate) fn words(plan: &Path, node: &str, home: &Path) -> Vec<String> {
    let this = std::env::current_exe().expect("the path of this test");
    let text = |p: &Path| p.display().to_string();
    // The harness of the tests prints to standard output before it comes to the launcher, which is to be the program's own.
    let script = "exec 8<&0 9>&1 </dev/null >/dev/null; exec \"$0\" \"$@\"";
    [
        "env",
        &format!("{PLAN}={}", text(plan)),
        &format!("{NODE}={node}"),
        &format!("{HOME}={}", text(home)),
        "/bin/sh",
        "-c",
        script,
        &text(&this),
        "--exact",
        "--ignored",
        "--nocapture",
        "--",
        "launcher::becomes_a_program_under_a_plan",
    ]
    .map(str::to_owned)
    .to_vec()
}

#[test]
#[ignore = "it is the launcher of the other tests, which run it"]
fn becomes_a_program_under_a_plan() {
    let Ok(plan) = std::env::var(PLAN) else {
        return;
    };
    let mut args = std::env::args().skip_while(|a| a != "--").skip(2);
    let plan = Plan::at(Path::new(&plan));
    let supervised = !plan.fired().exists();
    if supervised {
        supervise(plan);
    }
    for (from, to) in [(8, 0), (9, 1)] {
        // SAFETY: both are descriptors of this process, and nobody in it uses these.
        unsafe {
            libc::dup2(from, to);
            libc::close(from);
        }
    }
    let program = args.next().expect("a program");
    let words: Vec<CString> = std::iter::once(program)
        .chain(args)
        .map(|w| CString::new(w).expect("no NUL"))
        .collect();
    for name in [PLAN, NODE, HOME] {
        // SAFETY: the other threads of the harness only wait for this one.
        unsafe { std::env::remove_var(name) };
    }
    let failed = nix::unistd::execvp(&words[0], &words).expect_err("exec returns");
    let _ = writeln!(std::io::stderr(), "cannot run {:?}: {failed}", words[0]);
    std::process::exit(127);
}

/// Forks the supervisor and puts this thread, and what it will exec, under the filter.
fn supervise(plan: Plan) {
    let (mine, its) = UnixStream::pair().expect("a socket pair");
    let node = std::env::var(NODE).expect("the node");
    let home = PathBuf::from(std::env::var(HOME).expect("the node's directory"));
    // SAFETY: the child makes no use of what other threads may hold; they only wait.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork");
    if child == 0 {
        drop(mine);
        // Once more, so that the program has no child it did not make; and in a session that no terminal ends.
        // SAFETY: as above.
        unsafe {
            if libc::fork() != 0 {
                libc::_exit(0);
            }
            libc::setsid();
        }
        let listener = receive(&its);
        leave_descriptors(listener.as_raw_fd());
        Supervisor::new(listener, plan, node, home).run();
        // SAFETY: nothing of the harness is to run in this process.
        unsafe { libc::_exit(0) };
    }
    // SAFETY: it is the child made above.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    drop(its);
    let listener = filter();
    let fds = [listener.as_raw_fd()];
    // sendmsg is not in the filter: nobody listens yet.
    sendmsg::<()>(
        mine.as_raw_fd(),
        &[IoSlice::new(b"l")],
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::empty(),
        None,
    )
    .expect("the listener is sent");
}

fn receive(socket: &UnixStream) -> OwnedFd {
    let mut byte = [0u8; 1];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let mut slices = [IoSliceMut::new(&mut byte)];
    let got = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut slices,
        Some(&mut space),
        MsgFlags::empty(),
    );
    let fd = got.ok().and_then(|m| {
        let mut all = m.cmsgs().ok()?;
        all.find_map(|c| match c {
            ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
            _ => None,
        })
    });
    let Some(fd) = fd else {
        // The filter cannot be had here; the program ended with a message.
        // SAFETY: as in `supervise`.
        unsafe { libc::_exit(0) }
    };
    // SAFETY: it came with the message and is nobody else's.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Lets go of everything but one descriptor: the program's streams must end when the program does.
fn leave_descriptors(keep: RawFd) {
    for fd in (0..64).filter(|fd| *fd != keep) {
        // SAFETY: nothing in this process uses them any more.
        unsafe { libc::close(fd) };
    }
    let null = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null");
    if let Ok(null) = null {
        for fd in 0..3 {
            // SAFETY: the descriptor is open.
            unsafe { libc::dup2(null.as_raw_fd(), fd) };
        }
        std::mem::forget(null);
    }
}

/// Installs the filter on this thread; what listens to it.
fn filter() -> OwnedFd {
    let code = |c: u32| u16::try_from(c).expect("a small number");
    let statement = |c: u32, k: u32| libc::sock_filter {
        code: code(c),
        jt: 0,
        jf: 0,
        k,
    };
    let mut program = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0)];
    for (i, call) in CALLS.iter().enumerate() {
        program.push(libc::sock_filter {
            code: code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K),
            jt: u8::try_from(CALLS.len() - i).expect("fewer calls than a jump can pass"),
            jf: 0,
            k: u32::try_from(call.number).expect("a number of a system call"),
        });
    }
    program.push(statement(
        libc::BPF_RET | libc::BPF_K,
        libc::SECCOMP_RET_ALLOW,
    ));
    program.push(statement(
        libc::BPF_RET | libc::BPF_K,
        libc::SECCOMP_RET_USER_NOTIF,
    ));
    let all = libc::sock_fprog {
        len: u16::try_from(program.len()).expect("a short program"),
        filter: program.as_mut_ptr(),
    };
    let flags =
        libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    // SAFETY: the program outlives the call.
    let fd = unsafe {
        if !rustix::process::geteuid().is_root() {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        }
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const all,
        )
    };
    let fd = i32::try_from(fd).expect("a descriptor");
    assert!(
        fd >= 0,
        "no seccomp notification: {}",
        std::io::Error::last_os_error()
    );
    // SAFETY: it was just made.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
