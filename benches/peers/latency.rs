//! One 4 KiB change at a time among 10,000 files, and the floor below which no tool can be.
//!
//! The clock starts just before the active side closes the file, and stops when the standby's file reads back whole;
//! both sides are on one machine, so there is one clock. The floor is the least that does the same: inotify, the same
//! ssh, a write and a rename, without any durability.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::common::kinds::noise;
use crate::data::{fill, moved};
use crate::figure::{Figure, Sample, quantile};
use crate::lab::{Lab, Result, Running};
use crate::meter::Meter;
use crate::tool::{Session, Tool};

/// Longest that one change may take.
const ONE_CHANGE: Duration = Duration::from_secs(20);

/// The row.
pub fn run(lab: &Lab, tool: Tool) -> Result<Sample> {
    let mut s = Session::new(lab, tool, &["data"])?;
    let files = fill(&s.a(), 100, 10_000, 4096)?;
    s.mirror()?;
    s.start()?;
    let _floor = match tool {
        Tool::Base => Some(start_floor(lab, &s)?),
        _ => None,
    };
    s.calm();
    let watch = watch_dirs(&s.b(), CreateFlags::NONBLOCK)?.0;
    let changes = if tool == Tool::Lsyncd {
        lab.sized(20, 200)
    } else {
        200
    };
    let meter = Meter::start(lab)?;
    let mut took = Vec::new();
    for i in 0..changes {
        let a = &files[i * 7919 % files.len()];
        let content = noise(4096, 1_000_000 + u64::try_from(i)?);
        took.push(one_change(a, &moved(a, &s.a(), &s.b()), &content, &watch)?);
        // Apart, and not in step with any timer of the tool: lsyncd works by the second.
        let spread = if tool == Tool::Lsyncd {
            1_000_000
        } else {
            40_000
        };
        let gap = 20_000 + (u64::try_from(i)? * 611_953) % spread;
        std::thread::sleep(Duration::from_micros(gap));
    }
    let cost = meter.stop()?;
    s.stop();
    let p50 = (Figure::P50, quantile(&took, 0.5));
    Ok(Sample::new(
        &[p50, (Figure::P99, quantile(&took, 0.99))],
        cost,
    ))
}

fn one_change(a: &Path, b: &Path, content: &[u8], watch: &OwnedFd) -> Result<f64> {
    let mut file = File::create(a)?;
    file.write_all(content)?;
    let start = Instant::now();
    drop(file);
    loop {
        drain(watch)?;
        if fs::read(b).is_ok_and(|c| c == content) {
            return Ok(start.elapsed().as_secs_f64());
        }
        if start.elapsed() > ONE_CHANGE {
            return Err(format!("{} did not arrive in {ONE_CHANGE:?}", b.display()).into());
        }
        let second = Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&second))?;
    }
}

fn drain(watch: &OwnedFd) -> Result<()> {
    let mut buf = [0u8; 16 * 1024];
    loop {
        match rustix::io::read(watch, &mut buf) {
            Ok(_) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
    }
}

fn watch_dirs(root: &Path, flags: CreateFlags) -> Result<(OwnedFd, HashMap<i32, PathBuf>)> {
    let fd = inotify::init(flags | CreateFlags::CLOEXEC)?;
    let mut dirs = HashMap::new();
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        if path.is_dir() {
            let events = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO;
            dirs.insert(inotify::add_watch(&fd, &path, events)?, path);
        }
    }
    Ok((fd, dirs))
}

fn start_floor(lab: &Lab, s: &Session<'_>) -> Result<Running> {
    let this = std::env::current_exe()?;
    let mut child = lab
        .command(&this.display().to_string())
        .arg("--floor-send")
        .arg(s.a())
        .arg(s.b())
        .arg(&lab.sshd.ssh_config)
        .arg(lab.sshd.address.to_string())
        .stdout(Stdio::piped())
        .spawn()?;
    let out = child.stdout.take().ok_or("no output")?;
    let running = Running(child);
    let mut ready = String::new();
    io::BufReader::new(out).read_line(&mut ready)?;
    if ready.trim() != "ready" {
        return Err("the floor's sender did not start".into());
    }
    Ok(running)
}

/// The floor's sender: what was closed below `root` goes through ssh as it is. Ends when its parent ends it.
pub fn floor_send(args: &[String]) -> Result<()> {
    let [root, target, ssh_config, address] = args else {
        return Err("--floor-send ROOT TARGET SSH_CONFIG ADDRESS".into());
    };
    let root = PathBuf::from(root);
    let this = std::env::current_exe()?;
    let mut ssh = Command::new("ssh")
        .args(["-F", ssh_config, address])
        .arg(format!("'{}' --floor-recv '{target}'", this.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut to = ssh.stdin.take().ok_or("no input")?;
    let mut ready = [0; 1];
    ssh.stdout
        .take()
        .ok_or("no output")?
        .read_exact(&mut ready)?;
    let (fd, dirs) = watch_dirs(&root, CreateFlags::empty())?;
    println!("ready");
    let mut buf = [MaybeUninit::uninit(); 64 * 1024];
    let mut events = inotify::Reader::new(fd, &mut buf);
    loop {
        let event = events.next()?;
        let (Some(dir), Some(name)) = (dirs.get(&event.wd()), event.file_name()) else {
            continue;
        };
        let path = dir.join(OsStr::from_bytes(name.to_bytes()));
        let content = fs::read(&path)?;
        let name = path.strip_prefix(&root)?.as_os_str().as_bytes();
        let mut frame = Vec::with_capacity(content.len() + 300);
        frame.extend_from_slice(&u32::try_from(name.len())?.to_le_bytes());
        frame.extend_from_slice(&u32::try_from(content.len())?.to_le_bytes());
        frame.extend_from_slice(name);
        frame.extend_from_slice(&content);
        to.write_all(&frame)?;
    }
}

/// The floor's receiver: writes beside and renames. Ends when its input does.
pub fn floor_recv(args: &[String]) -> Result<()> {
    let root = PathBuf::from(args.first().ok_or("--floor-recv TARGET")?);
    let temporary = root.join(".floor");
    let mut from = io::stdin().lock();
    let mut out = io::stdout();
    out.write_all(b"r")?;
    out.flush()?;
    let mut lengths = [0u8; 8];
    while from.read_exact(&mut lengths).is_ok() {
        let n = u32::from_le_bytes([lengths[0], lengths[1], lengths[2], lengths[3]]);
        let m = u32::from_le_bytes([lengths[4], lengths[5], lengths[6], lengths[7]]);
        let mut name = vec![0; usize::try_from(n)?];
        let mut content = vec![0; usize::try_from(m)?];
        from.read_exact(&mut name)?;
        from.read_exact(&mut content)?;
        fs::write(&temporary, &content)?;
        fs::rename(&temporary, root.join(OsStr::from_bytes(&name)))?;
    }
    Ok(())
}
