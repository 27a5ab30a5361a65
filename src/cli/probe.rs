//! What `syncctl check` looks at: roots, directories, the kernel's watch limits, the tools of the firewall, the programs
//! of hooks and of the link.
//!
//! Each probe looks once, changes nothing and bounds its work; what it finds it puts in words with a remedy.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use walkdir::WalkDir;

use super::check::Check;
use crate::config::{Config, Hook, Node, Watcher};
use crate::decide::filter::Filter;
use crate::decide::snat::RuleSet;
use crate::model::path::RelPath;
use crate::sys::addresses;
use crate::sys::nat::{self, NatError, Tool};
use crate::sys::run;

/// Most entries looked at when directories are counted.
pub const MAX_WALK: usize = 1_000_000;
/// The kernel's limit of inotify watches for each user.
const WATCH_LIMIT: &str = "/proc/sys/fs/inotify/max_user_watches";
/// Bit of CAP_NET_ADMIN in a capability set.
const CAP_NET_ADMIN: u32 = 12;
/// Bit of CAP_SYS_ADMIN in a capability set.
const CAP_SYS_ADMIN: u32 = 21;

/// A root is there and can be read and written.
pub(super) fn root(name: &str, path: &Path) -> Check {
    let title = format!("root {name}");
    let at = path.display();
    let meta = match std::fs::symlink_metadata(path) {
        Ok(m) => m,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let remedy = format!("create it, or mount its file system: mkdir -p {at}");
            return Check::fail(title, format!("{at} does not exist"), remedy);
        }
        Err(e) => {
            return Check::fail(
                title,
                format!("{at}: {e}"),
                "run as root, or correct the path",
            );
        }
    };
    let (kind, wanted) = match meta.file_type() {
        t if t.is_dir() => (
            "directory",
            Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK,
        ),
        t if t.is_file() => ("file", Access::READ_OK | Access::WRITE_OK),
        t if t.is_symlink() => {
            let remedy = "put the path it leads to into the configuration";
            return Check::fail(title, format!("{at} is a symbolic link"), remedy);
        }
        _ => {
            let remedy = "a root is a directory or a regular file";
            return Check::fail(title, format!("{at} is neither directory nor file"), remedy);
        }
    };
    match access(path, wanted) {
        Ok(()) => Check::ok(
            title,
            format!("{at} is a {kind} that can be read and written"),
        ),
        Err(e) => Check::fail(
            title,
            format!("{at} cannot be read and written: {}", io::Error::from(e)),
            "run as root, or mount the file system for writing",
        ),
    }
}

/// Another directory stands at the path of a root than the one that was replicated.
pub(super) fn other_root(name: &str, path: &Path) -> Check {
    Check::fail(
        format!("root {name}"),
        format!(
            "what stands at {} is not the directory that was replicated",
            path.display()
        ),
        format!(
            "most likely something is not mounted there: mount it. Only if this directory is to be the root from now on (a new disk), stop syncd and run \"syncctl approve {name}\", after which this node takes the other node's data"
        ),
    )
}

/// The directory of the figures for Prometheus is there and can be written; nothing where none are wanted.
pub(super) fn metrics(config: &Config) -> Option<Check> {
    let file = config.metrics.textfile.as_ref()?;
    let dir = file.parent()?;
    let at = dir.display();
    let remedy = "make it, run as root, or correct textfile in [metrics]";
    let usable = std::fs::metadata(dir).and_then(|m| match m.is_dir() {
        true => Ok(access(dir, Access::WRITE_OK | Access::EXEC_OK)?),
        false => Err(io::ErrorKind::NotADirectory.into()),
    });
    Some(match usable {
        Ok(()) if file.is_dir() => Check::warn(
            "metrics",
            format!("{} is a directory", file.display()),
            remedy,
        ),
        Ok(()) if file.extension().is_none_or(|e| e != "prom") => {
            let message = format!("node_exporter does not read {}", file.display());
            Check::warn(
                "metrics",
                message,
                "give textfile a name that ends in .prom",
            )
        }
        Ok(()) => Check::ok("metrics", format!("{} can be written", file.display())),
        Err(e) => Check::warn("metrics", format!("{at} cannot be written: {e}"), remedy),
    })
}

/// The programs of each hook are there and may be run.
pub(super) fn hooks(config: &Config) -> Vec<Check> {
    config.hooks.iter().enumerate().map(hook).collect()
}

fn hook((i, hook): (usize, &Hook)) -> Check {
    let title = format!("hook {}", i + 1);
    let programs = [&hook.validate, &hook.run]
        .into_iter()
        .flat_map(|w| w.first());
    let mut found = Vec::new();
    for program in programs {
        match run::find(program) {
            Ok(file) => found.push(file.display().to_string()),
            Err(e) => {
                let message = format!("{program} cannot be run: {e}");
                let remedy = "install it, make it executable, or correct the path in [[hook]]";
                return Check::fail(title, message, remedy);
            }
        }
    }
    Check::ok(title, format!("{} can be run", found.join(" and ")))
}

/// A directory of our own is there, or can be made.
pub(super) fn directory(title: &str, path: &Path) -> Check {
    let there = |p: &Path| std::fs::metadata(p).ok();
    let at = path.display();
    let remedy = "run as root, or choose another in [paths]";
    let wanted = Access::WRITE_OK | Access::EXEC_OK;
    let Some(near) = path.ancestors().find(|p| there(p).is_some()) else {
        return Check::fail(title, format!("{at} cannot be made"), remedy);
    };
    if !there(near).is_some_and(|m| m.is_dir()) {
        let message = format!("{} is not a directory", near.display());
        return Check::fail(title, message, "remove it, or choose another in [paths]");
    }
    match (access(near, wanted), near == path) {
        (Ok(()), true) => Check::ok(title, format!("{at} can be written")),
        (Ok(()), false) => Check::ok(title, format!("{at} can be made")),
        (Err(e), _) => {
            let message = format!(
                "{} cannot be written: {}",
                near.display(),
                io::Error::from(e)
            );
            Check::fail(title, message, remedy)
        }
    }
}

/// The watch that is configured can cover the roots.
pub(super) fn watch(config: &Config, node: usize) -> Check {
    match (config.sync.watcher, has_capability(CAP_SYS_ADMIN)) {
        (Watcher::Auto | Watcher::Fanotify, true) => Check::ok(
            "watch",
            "fanotify may be used: one mark for each file system, no limit to the directories",
        ),
        (Watcher::Fanotify, false) => Check::fail(
            "watch",
            "fanotify needs CAP_SYS_ADMIN, which this process does not have",
            "run as root, or set watcher = \"auto\" in [sync]",
        ),
        (Watcher::Auto | Watcher::Inotify, _) => {
            let limit = std::fs::read_to_string(WATCH_LIMIT).ok();
            let limit = limit.and_then(|s| s.trim().parse().ok());
            inotify(count_directories(config, node), limit)
        }
    }
}

/// Number of directories, and whether there may be more.
type Counted = (u64, bool);

fn inotify((directories, more): Counted, limit: Option<u64>) -> Check {
    let least = if more { "at least " } else { "" };
    let found = format!("inotify: {least}{directories} directories");
    let Some(limit) = limit else {
        return Check::warn(
            "watch",
            format!("{found}; {WATCH_LIMIT} cannot be read"),
            "see that inotify is in the kernel",
        );
    };
    // Other programs of the same user take from the same limit.
    let comfortable = directories.saturating_mul(2).max(8192);
    let remedy = format!(
        "sysctl fs.inotify.max_user_watches={comfortable}, and the same line in /etc/sysctl.d/osm-failover.conf"
    );
    let message = format!("{found}, limit {limit}");
    if directories > limit {
        Check::fail("watch", message, remedy)
    } else if more || directories > limit / 5 * 4 {
        Check::warn("watch", message, remedy)
    } else {
        Check::ok("watch", message)
    }
}

/// Whether this process has a capability, by its bit.
fn has_capability(bit: u32) -> bool {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|s| effective_capabilities(&s))
        .is_some_and(|set| set >> bit & 1 == 1)
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Directories below all roots that are not excluded, in at most [`MAX_WALK`] entries.
fn count_directories(config: &Config, node: usize) -> Counted {
    let (mut directories, mut left) = (0, MAX_WALK);
    for (i, root) in config.roots.iter().enumerate() {
        let (Ok(filter), top) = (Filter::new(&root.exclude), config.root_path(node, i)) else {
            continue;
        };
        let inside = |e: &walkdir::DirEntry| {
            let below = e.path().strip_prefix(&top).unwrap_or(e.path());
            let is_dir = e.file_type().is_dir();
            // What is no safe path is the private directory, which is never watched.
            RelPath::parse(below.as_os_str().as_bytes())
                .is_ok_and(|p| !filter.excluded_here(&p, is_dir))
        };
        let walk = WalkDir::new(&top).into_iter().filter_entry(inside);
        for entry in walk.filter_map(Result::ok) {
            if left == 0 {
                return (directories, true);
            }
            left -= 1;
            directories += u64::from(entry.file_type().is_dir());
        }
    }
    (directories, false)
}

/// What the SNAT rules and the takeover of the virtual IP need; nothing where none of it is configured.
pub(super) fn snat(config: &Config) -> Vec<Check> {
    let mut checks = Vec::new();
    let rules = RuleSet::of(config);
    if !rules.is_empty() {
        let tool = Tool::find().and_then(|tool| tool.suffices(&rules).map(|()| tool));
        checks.push(match tool {
            Err(e) => Check::fail("snat", e.to_string(), e.hint()),
            Ok(_) if !has_capability(CAP_NET_ADMIN) => Check::warn(
                "snat",
                "rules need CAP_NET_ADMIN, which this process does not have",
                "run as root",
            ),
            Ok(tool) => Check::ok("snat", format!("rules are installed by {}", tool.name())),
        });
    }
    let names = rules
        .translations()
        .filter_map(|s| s.out_interface.as_deref());
    for name in names.collect::<BTreeSet<_>>() {
        if !addresses::has_interface(name) {
            let message = format!("this host has no interface {name}");
            let remedy = "correct out_interface in [[snat]]; \"ip link\" shows the names";
            checks.push(Check::warn("snat", message, remedy));
        }
    }
    if config.vip.is_some_and(|v| v.flush_conntrack) && nat::find("conntrack").is_none() {
        let e = NatError::Missing("conntrack");
        checks.push(Check::warn("vip", e.to_string(), e.hint()));
    }
    checks
}

/// The program that carries the stream to the peer is there.
pub(super) fn link_program(peer: &Node) -> Check {
    let (program, remedy) = match peer.command.first() {
        Some(own) => (
            own.as_str(),
            "correct the command of this node in the configuration",
        ),
        None => ("ssh", "install the OpenSSH client"),
    };
    match find_program(program, &std::env::var_os("PATH").unwrap_or_default()) {
        Some(path) => Check::ok("link", format!("{} reaches {}", path.display(), peer.name)),
        None => Check::fail("link", format!("there is no program {program}"), remedy),
    }
}

fn find_program(name: &str, search: &OsStr) -> Option<PathBuf> {
    let usable = |p: &PathBuf| p.is_file() && access(p, Access::EXEC_OK).is_ok();
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(usable);
    }
    std::env::split_paths(search)
        .map(|dir| dir.join(name))
        .find(usable)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::super::check::State;
    use super::*;

    #[test]
    fn roots() {
        let dir = tempfile::tempdir().expect("a folder");
        let at = |n: &str| dir.path().join(n);
        std::fs::create_dir(at("dir")).expect("made");
        std::fs::write(at("file"), b"").expect("made");
        symlink("dir", at("link")).expect("made");
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("made");
        for (name, state, word) in [
            ("dir", State::Ok, "is a directory"),
            ("file", State::Ok, "is a file"),
            ("none", State::Fail, "does not exist"),
            ("file/x", State::Fail, "Not a directory"),
            ("link", State::Fail, "symbolic link"),
            ("fifo", State::Fail, "neither directory nor file"),
        ] {
            let c = root(name, &at(name));
            assert_eq!(c.state, state, "{c:?}");
            assert!(c.message.contains(word), "{c:?}");
            assert_eq!(c.remedy.is_empty(), state == State::Ok, "{c:?}");
        }
    }

    #[test]
    fn own_directories() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("file"), b"").expect("made");
        for (path, state, word) in [
            (dir.path().to_owned(), State::Ok, "can be written"),
            (dir.path().join("a/b"), State::Ok, "can be made"),
            (dir.path().join("file"), State::Fail, "is not a directory"),
            (dir.path().join("file/x"), State::Fail, "is not a directory"),
        ] {
            let c = directory("d", &path);
            assert_eq!(c.state, state, "{c:?}");
            assert!(c.message.contains(word), "{c:?}");
        }
        assert!(!dir.path().join("a").exists(), "nothing is made");
    }

    #[test]
    fn the_directory_of_the_figures() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(dir.path().join("d.prom")).expect("made");
        std::fs::write(dir.path().join("file"), b"").expect("made");
        let found = |file: &str| {
            let at = dir.path().join(file);
            let text = format!(
                "[cluster]\nname='c'\n[[node]]\nname='a'\naddress='x'\n[[node]]\nname='b'\naddress='y'\n\
                 [[root]]\nname='r'\npath='/r'\n[metrics]\ntextfile='{}'\n",
                at.display()
            );
            let config = Config::parse(&text, Path::new("c.toml")).expect("good");
            metrics(&config).expect("wanted")
        };
        for (file, state, word) in [
            ("x.prom", State::Ok, "can be written"),
            ("x.txt", State::Warn, "does not read"),
            ("d.prom", State::Warn, "is a directory"),
            ("none/x.prom", State::Warn, "No such file"),
            ("file/x.prom", State::Warn, "cannot be written"),
        ] {
            let c = found(file);
            assert_eq!(c.state, state, "{c:?}");
            assert!(c.message.contains(word), "{c:?}");
        }
    }

    #[test]
    fn the_watch_limit() {
        for (directories, more, limit, state) in [
            (10, false, Some(8192), State::Ok),
            (80, false, Some(100), State::Ok),
            (81, false, Some(100), State::Warn),
            (100, false, Some(100), State::Warn),
            (101, false, Some(100), State::Fail),
            (10, true, Some(100), State::Warn),
            (10, false, None, State::Warn),
        ] {
            assert_eq!(
                inotify((directories, more), limit).state,
                state,
                "{directories} of {limit:?}"
            );
        }
        let c = inotify((10_000, false), Some(8192));
        assert_eq!(c.message, "inotify: 10000 directories, limit 8192");
        assert!(
            c.remedy
                .starts_with("sysctl fs.inotify.max_user_watches=20000,"),
            "{}",
            c.remedy
        );
    }

    #[test]
    fn directories_are_counted_without_what_is_excluded_and_private() {
        let dir = tempfile::tempdir().expect("a folder");
        let top = dir.path().display();
        for d in ["r/a/b", "r/cache/x/y", "r/.osm-failover/z"] {
            std::fs::create_dir_all(dir.path().join(d)).expect("made");
        }
        let text = format!(
            "[cluster]\nname='c'\n[[node]]\nname='a'\naddress='x'\nroot_prefix='{top}'\n[[node]]\nname='b'\naddress='y'\n\
             [[root]]\nname='r'\npath='/r'\nexclude=['/cache/']\n"
        );
        let config = Config::parse(&text, Path::new("c.toml")).expect("good");
        assert_eq!(count_directories(&config, 0), (3, false), "r, r/a, r/a/b");
    }

    #[test]
    fn capabilities() {
        assert_eq!(
            effective_capabilities("Name:\tx\nCapEff:\t0000000000200000\n"),
            Some(1 << CAP_SYS_ADMIN)
        );
        assert_eq!(effective_capabilities("Name:\tx\n"), None);
    }

    #[test]
    fn programs() {
        let dir = tempfile::tempdir().expect("a folder");
        let tool = dir.path().join("tool");
        std::fs::write(&tool, b"#!/bin/sh\n").expect("made");
        let search = dir.path().as_os_str();
        assert_eq!(find_program("tool", search), None, "not executable");
        std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).expect("set");
        assert_eq!(find_program("tool", search), Some(tool.clone()));
        assert_eq!(find_program("none", search), None);
        assert_eq!(
            find_program(tool.to_str().expect("text"), OsStr::new("")),
            Some(tool)
        );
    }
}
