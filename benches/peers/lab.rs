//! The place where everything is measured: one directory, two network namespaces, one `sshd`, a control group per side.
//!
//! All tools go through the same `sshd` with the same cipher. Whatever the benchmark starts lives in one of the two
//! groups, so ending it needs no names: on drop and on a signal each process of the groups is ended by its id, then
//! the namespaces, the groups and the directory are removed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SigSet, Signal};

use crate::common::netns::{End, NetPair, Sshd, sshd_in};
use crate::meter::Group;

/// The result of anything here; a message says what failed.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The one cipher that `sshd` offers, so that every tool uses the same.
pub const CIPHER: &str = "aes128-gcm@openssh.com";

/// Files of finished runs from this size on are removed at once: few inodes, much room.
const LARGE: u64 = 16 << 20;
/// Free bytes that a run may need.
const ROOM: u64 = 12 << 30;

/// How large the work is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Smaller trees, once each; for a look.
    Quick,
    /// The sizes of the design document.
    Normal,
    /// With the rows that take many minutes.
    Full,
}

/// The place.
pub struct Lab {
    /// Processes of the active and of the standby side.
    pub groups: [Group; 2],
    /// The server.
    pub sshd: Sshd,
    /// The network.
    pub net: NetPair,
    /// Everything on disk.
    pub dir: PathBuf,
    /// How large the work is.
    pub scale: Scale,
}

struct Emergency {
    groups: [Group; 2],
    namespaces: Vec<String>,
    dir: PathBuf,
}

static STOPPING: AtomicBool = AtomicBool::new(false);
static EMERGENCY: Mutex<Option<Emergency>> = Mutex::new(None);

/// Takes SIGINT, SIGTERM and SIGHUP: everything is ended and removed, then the process. To be called before any
/// thread starts; children are started with a clean mask by the standard library.
pub fn handle_signals() -> Result<()> {
    let mut set = SigSet::empty();
    for s in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        set.add(s);
    }
    set.thread_block()?;
    std::thread::spawn(move || {
        let _ = set.wait();
        STOPPING.store(true, Ordering::SeqCst);
        eprintln!("interrupted: ending what was started");
        if let Some(e) = EMERGENCY.lock().ok().and_then(|mut e| e.take()) {
            for g in &e.groups {
                g.end_all(None);
            }
            for name in &e.namespaces {
                let _ = Command::new("ip").args(["netns", "del", name]).status();
            }
            for g in &e.groups {
                g.end_all(None);
                g.remove();
            }
            // Whoever still writes makes the first attempt fail.
            for _ in 0..20 {
                if std::fs::remove_dir_all(&e.dir).is_ok() {
                    break;
                }
            }
        }
        std::process::exit(130);
    });
    Ok(())
}

/// Never returns once a signal came: the run fails under the hands of whoever measures, and the exit code and the
/// clearing up are the signal thread's.
pub fn yield_to_signal() {
    while STOPPING.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

impl Lab {
    /// Where the runs put their trees.
    pub fn runs(&self) -> PathBuf {
        self.dir.join("runs")
    }

    /// Makes room for another run. Trees of finished runs stay, since ext4 without a journal looks at each inode
    /// that was freed in the last minutes before it gives out another: removing a tree would make the next run's
    /// creations many times slower. Their large files go, and everything where the disk becomes full.
    pub fn make_room(&self) -> Result<()> {
        for entry in walkdir::WalkDir::new(self.runs()).max_depth(5) {
            let entry = entry?;
            if entry.file_type().is_file() && entry.metadata()?.len() >= LARGE {
                std::fs::remove_file(entry.path())?;
            }
        }
        let disk = rustix::fs::statvfs(&self.dir)?;
        if disk.f_bavail * disk.f_frsize < ROOM {
            eprintln!("removing finished runs: the disk becomes full, the next figures may suffer");
            std::fs::remove_dir_all(self.runs())?;
            std::fs::create_dir(self.runs())?;
        }
        Ok(())
    }

    /// Builds the place below `parent`.
    pub fn new(parent: &Path, scale: Scale) -> Result<Self> {
        let net = NetPair::new()?;
        let groups = [Group::new("a")?, Group::new("b")?];
        let dir = parent.join(format!("osm-bench-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("runs"))?;
        let namespaces = [End::A, End::B].map(|e| net.name(e).to_owned());
        if let Ok(mut e) = EMERGENCY.lock() {
            *e = Some(Emergency {
                groups: groups.clone(),
                namespaces: namespaces.to_vec(),
                dir: dir.clone(),
            });
        }
        let options = format!("Ciphers {CIPHER}");
        let sshd = sshd_in(&net, &dir.join("ssh"), &groups[1].prefix(), &options)?;
        Ok(Self {
            groups,
            sshd,
            net,
            dir,
            scale,
        })
    }

    /// Words before a command that put it on the active side.
    pub fn side_a(&self) -> Vec<String> {
        let mut words = self.groups[0].prefix();
        words.extend(self.net.prefix(End::A));
        words
    }

    /// A command on the active side.
    pub fn command(&self, program: &str) -> Command {
        let words = self.side_a();
        let mut c = Command::new(&words[0]);
        c.args(&words[1..]).arg(program).stdin(Stdio::null());
        c
    }

    /// `ssh` with the lab's configuration, as one shell word list.
    pub fn ssh_words(&self) -> String {
        format!("ssh -F {}", self.sshd.ssh_config.display())
    }

    /// Picks a size by scale.
    pub fn sized<T>(&self, quick: T, normal: T) -> T {
        if self.scale == Scale::Quick {
            quick
        } else {
            normal
        }
    }

    /// Ends whatever a run left behind on either side; `sshd` itself goes on.
    pub fn sweep(&self) {
        self.groups[0].end_all(None);
        self.groups[1].end_all(Some(self.sshd.pid()));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        yield_to_signal();
        self.groups[0].end_all(None);
        self.groups[1].end_all(None);
        for g in &self.groups {
            g.remove();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
        if let Ok(mut e) = EMERGENCY.lock() {
            e.take();
        }
    }
}

/// Runs a command to its end.
pub fn finish(mut c: Command) -> Result<()> {
    let out = c.stdout(Stdio::null()).stderr(Stdio::piped()).output()?;
    if out.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&out.stderr);
    Err(format!("{:?}: {}: {}", c.get_program(), out.status, said.trim()).into())
}

/// A child that is ended when it is dropped.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
