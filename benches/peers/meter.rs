//! What a run costs: processor time, wire bytes and peak memory of each side.
//!
//! Each side's processes live in a version 2 control group, so the kernel adds up the processor time of all of them,
//! also of those that came and went between two looks. Wire bytes are the veth's own counters. Memory is the highest
//! `VmHWM` that any one process of the tool reached (`ssh` and `sshd` carry every tool alike and are left out); the
//! marks of processes that already run are reset at the start.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::Lab;

/// Between two looks at the memory of all processes.
const SAMPLE: Duration = Duration::from_millis(50);

/// A control group of one side.
#[derive(Debug, Clone)]
pub struct Group {
    path: PathBuf,
}

/// Where version 2 control groups are mounted.
fn cgroup_mount() -> Result<PathBuf, String> {
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(|e| e.to_string())?;
    mounts
        .lines()
        .map(|l| l.split(' ').collect::<Vec<_>>())
        .find(|f| f.get(2) == Some(&"cgroup2"))
        .map(|f| PathBuf::from(f[1]))
        .ok_or_else(|| "no version 2 control groups are mounted".to_owned())
}

impl Group {
    /// Makes a group for this process's children of one side.
    pub fn new(side: &str) -> Result<Self, String> {
        let name = format!("osm-bench-{}-{side}", std::process::id());
        let path = cgroup_mount()?.join(name);
        fs::create_dir(&path).map_err(|e| format!("cannot make {}: {e}", path.display()))?;
        Ok(Self { path })
    }

    /// Words before a command that move it into the group; they exec, so the process id stays.
    pub fn prefix(&self) -> Vec<String> {
        let script = format!(
            "echo 0 > {}/cgroup.procs && exec \"$0\" \"$@\"",
            self.path.display()
        );
        vec!["sh".to_owned(), "-c".to_owned(), script]
    }

    /// Processor time that the group's processes used so far, in seconds.
    pub fn cpu(&self) -> f64 {
        let stat = fs::read_to_string(self.path.join("cpu.stat")).unwrap_or_default();
        let usec = stat
            .lines()
            .find_map(|l| l.strip_prefix("usage_usec "))
            .and_then(|n| n.parse::<f64>().ok());
        usec.unwrap_or(0.0) / 1e6
    }

    /// The processes in the group.
    pub fn pids(&self) -> Vec<i32> {
        fs::read_to_string(self.path.join("cgroup.procs"))
            .unwrap_or_default()
            .lines()
            .filter_map(|l| l.parse().ok())
            .collect()
    }

    /// Ends all processes in the group except `spare`, each by its id, until none is left.
    pub fn end_all(&self, spare: Option<u32>) {
        for _ in 0..500 {
            let mut pids = self.pids();
            pids.retain(|p| spare.is_none_or(|s| i64::from(*p) != i64::from(s)));
            if pids.is_empty() {
                return;
            }
            for pid in pids {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Removes the group; its processes must have ended.
    pub fn remove(&self) {
        for _ in 0..200 {
            if fs::remove_dir(&self.path).is_ok() || !self.path.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn peak_kib(&self) -> u64 {
        let peaks = self.pids().into_iter().filter_map(peak_of);
        peaks.max().unwrap_or(0)
    }

    fn reset_peaks(&self) {
        for pid in self.pids() {
            let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
        }
    }
}

/// `VmHWM` in KiB of a process that belongs to a tool.
fn peak_of(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let name = status.lines().next()?.strip_prefix("Name:\t")?;
    if matches!(name, "ssh" | "sshd" | "sh" | "bash" | "nsenter") {
        return None;
    }
    field_kib(&status, "VmHWM:")
}

fn field_kib(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Resident memory of a process now, in bytes.
pub fn resident(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    bytes(field_kib(&status, "VmRSS:").unwrap_or(0))
}

#[allow(clippy::cast_precision_loss)]
fn bytes(kib: u64) -> f64 {
    (kib * 1024) as f64
}

/// What a run cost.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// Bytes on the wire, both directions.
    pub wire: f64,
    /// Processor seconds of each side.
    pub cpu: [f64; 2],
    /// Peak memory in bytes of the largest process of each side.
    pub memory: [f64; 2],
}

/// A measurement under way.
pub struct Meter<'l> {
    lab: &'l Lab,
    wire: u64,
    cpu: [f64; 2],
    peaks: Arc<[AtomicU64; 2]>,
    stop: Arc<AtomicBool>,
    sampler: Option<JoinHandle<()>>,
}

impl<'l> Meter<'l> {
    /// Starts counting.
    pub fn start(lab: &'l Lab) -> io::Result<Self> {
        let peaks = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let stop = Arc::new(AtomicBool::new(false));
        let groups = lab.groups.clone();
        groups.iter().for_each(Group::reset_peaks);
        let sampler = {
            let (peaks, stop) = (Arc::clone(&peaks), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    sample(&groups, &peaks);
                    std::thread::sleep(SAMPLE);
                }
                sample(&groups, &peaks);
            })
        };
        Ok(Self {
            wire: lab.sshd.wire_bytes()?,
            cpu: [lab.groups[0].cpu(), lab.groups[1].cpu()],
            lab,
            peaks,
            stop,
            sampler: Some(sampler),
        })
    }

    /// Stops counting.
    #[allow(clippy::cast_precision_loss)]
    pub fn stop(mut self) -> io::Result<Cost> {
        let wire = self.lab.sshd.wire_bytes()?.saturating_sub(self.wire) as f64;
        let cpu = [0, 1].map(|i| self.lab.groups[i].cpu() - self.cpu[i]);
        self.stop.store(true, Ordering::Relaxed);
        if let Some(s) = self.sampler.take() {
            let _ = s.join();
        }
        let memory = [0, 1].map(|i| bytes(self.peaks[i].load(Ordering::Relaxed)));
        Ok(Cost { wire, cpu, memory })
    }
}

impl Drop for Meter<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn sample(groups: &[Group; 2], peaks: &[AtomicU64; 2]) {
    for (g, p) in groups.iter().zip(peaks) {
        p.fetch_max(g.peak_kib(), Ordering::Relaxed);
    }
}

/// Writes everything of the file system below `dir` to the disk, so that one run does not pay for another's writes.
pub fn settle_disk(dir: &Path) {
    let _ = Command::new("sync").arg("-f").arg(dir).status();
}
