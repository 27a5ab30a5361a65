//! The link over a real `sshd`: bytes, every way it can fail, and what is left behind.

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::pauses::until;
use common::sshd::{self, Options, Sshd};
use nix::sys::signal::Signal;
use osm_failover::sys::link::{Link, LinkError, LinkErrorKind, SshTarget, Target, begin, connect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const CHILD: &str = "OSM_TEST_LINK_CHILD";

struct Setup {
    sshd: Sshd,
    run: tempfile::TempDir,
}

impl Setup {
    /// `None` if there is no sshd; the reason is printed.
    fn new(options: &Options) -> Option<Self> {
        if sshd::skip() {
            return None;
        }
        let sshd = Sshd::start(options);
        let run = tempfile::tempdir().expect("run dir");
        Some(Self { sshd, run })
    }

    fn target(&self, remote_command: &str) -> SshTarget {
        target(self.sshd.dir(), self.sshd.port(), remote_command)
    }

    async fn dial(&self, target: SshTarget) -> Result<Link, LinkError> {
        let limit = Duration::from_secs(10);
        connect(&Target::Ssh(target), self.run.path(), limit).await
    }

    async fn error(&self, target: SshTarget) -> LinkError {
        self.dial(target).await.expect_err("must fail")
    }
}

fn target(dir: &Path, port: u16, remote_command: &str) -> SshTarget {
    SshTarget {
        port: Some(port),
        identity_file: Some(dir.join("client_key")),
        known_hosts: Some(dir.join("known_hosts")),
        remote_command: remote_command.to_owned(),
        ..SshTarget::new("127.0.0.1")
    }
}

fn control_dirs(run: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(run).expect("list");
    let paths = entries.map(|e| e.expect("entry").path());
    paths.filter(|p| p.is_dir()).collect()
}

async fn ping(link: &mut Link) {
    link.writer.write_all(b"ping").await.expect("write");
    let mut got = [0; 4];
    link.reader.read_exact(&mut got).await.expect("read");
    assert_eq!(&got, b"ping");
}

async fn at_end(link: &mut Link, limit: Duration) {
    let mut rest = Vec::new();
    let end = tokio::time::timeout(limit, link.reader.read_to_end(&mut rest));
    end.await.expect("the end comes in time").expect("read");
}

#[tokio::test]
async fn bytes_go_both_ways_and_nothing_is_left_after_close() {
    let Some(s) = Setup::new(&Options::default()) else {
        return;
    };
    let mut link = s.dial(s.target("cat")).await.expect("connect");
    ping(&mut link).await;
    latency(&mut link).await;
    throughput(&mut link).await;
    link.close(Duration::from_secs(5)).await.expect("code 0");
    let run = s.run.path().to_str().expect("utf-8").to_owned();
    assert!(until(Duration::from_secs(5), || {
        control_dirs(s.run.path()).is_empty() && sshd::processes_with(&run).is_empty()
    }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_went_ahead_serves_once_and_again_after_it_ended() {
    let Some(s) = Setup::new(&Options::default()) else {
        return;
    };
    let to = Target::Ssh(s.target("cat"));
    let ahead = || begin(&to, s.run.path(), Duration::from_secs(10));
    let logins = |n: usize| {
        let there = || s.sshd.log().matches("Accepted publickey").count() == n;
        assert!(until(Duration::from_secs(20), there), "{n} logins");
    };
    let over = || {
        let none = || s.sshd.session_pids().is_empty();
        assert!(until(Duration::from_secs(20), none), "no session");
    };
    // It has ended when it is needed: a master without a session does, or the peer closed it.
    let opening = ahead();
    logins(1);
    let socket = || {
        control_dirs(s.run.path())
            .iter()
            .any(|d| d.join("master").exists())
    };
    assert!(until(Duration::from_secs(20), socket), "logged in");
    s.sshd.signal_sessions(Signal::SIGKILL);
    over();
    let mut link = opening.finish().await.expect("dials again");
    ping(&mut link).await;
    logins(2);
    link.close(Duration::from_secs(5)).await.expect("code 0");
    // It is used as it is.
    let opening = ahead();
    logins(3);
    let mut link = opening.finish().await.expect("connect");
    ping(&mut link).await;
    logins(3);
    link.close(Duration::from_secs(5)).await.expect("code 0");
    // Nobody needed it.
    let opening = ahead();
    logins(4);
    drop(opening);
    let run = s.run.path().to_str().expect("utf-8").to_owned();
    assert!(until(Duration::from_secs(20), || {
        control_dirs(s.run.path()).is_empty() && sshd::processes_with(&run).is_empty()
    }));
}

async fn latency(link: &mut Link) {
    let start = Instant::now();
    for _ in 0..500 {
        ping(link).await;
    }
    println!("round trip: {:?}", start.elapsed() / 500);
}

async fn throughput(link: &mut Link) {
    const TOTAL: usize = 128 << 20;
    let start = Instant::now();
    let (reader, writer) = (&mut link.reader, &mut link.writer);
    let send = async {
        let block = vec![0x5au8; 256 * 1024];
        for _ in 0..TOTAL / block.len() {
            writer.write_all(&block).await.expect("write");
        }
    };
    let receive = async {
        let mut block = vec![0u8; 256 * 1024];
        let mut got = 0;
        while got < TOTAL {
            got += reader.read(&mut block).await.expect("read");
        }
        assert_eq!(got, TOTAL);
    };
    tokio::join!(send, receive);
    let mib = 128.0 / start.elapsed().as_secs_f64();
    println!("throughput through `cat`, each way: {mib:.0} MiB/s");
}

#[tokio::test]
async fn host_keys_must_be_the_pinned_ones() {
    let Some(s) = Setup::new(&Options::default()) else {
        return;
    };
    let empty = s.sshd.dir().join("empty");
    fs::write(&empty, b"").expect("write");
    let unknown = SshTarget {
        known_hosts: Some(empty.clone()),
        ..s.target("cat")
    };
    let e = s.error(unknown).await;
    assert_eq!(e.kind, LinkErrorKind::HostKeyUnknown, "{e:?}");
    assert!(e.hint.contains("ssh-keyscan") && e.hint.contains(empty.to_str().expect("utf-8")));

    // The client's key takes the place of the host's.
    let key = fs::read_to_string(s.sshd.dir().join("client_key.pub")).expect("read");
    let wrong = s.sshd.dir().join("wrong");
    fs::write(&wrong, format!("[127.0.0.1]:{} {key}", s.sshd.port())).expect("write");
    let mismatch = SshTarget {
        known_hosts: Some(wrong),
        ..s.target("cat")
    };
    let e = s.error(mismatch).await;
    assert_eq!(e.kind, LinkErrorKind::HostKeyMismatch, "{e:?}");
    assert!(control_dirs(s.run.path()).is_empty());
}

#[tokio::test]
async fn the_users_own_configuration_cannot_weaken_the_link() {
    let Some(s) = Setup::new(&Options::default()) else {
        return;
    };
    let own = s.sshd.dir().join("own_config");
    let marker = s.sshd.dir().join("marker");
    let text = format!(
        "StrictHostKeyChecking no\nPermitLocalCommand yes\nLocalCommand touch {}\nLogLevel QUIET\nHost other\n  Port 1\n",
        marker.display()
    );
    fs::write(&own, text).expect("write");
    let empty = s.sshd.dir().join("empty");
    fs::write(&empty, b"").expect("write");
    let with_own = SshTarget {
        ssh_config: Some(own),
        ..s.target("cat")
    };
    let mut link = s.dial(with_own.clone()).await.expect("connect");
    ping(&mut link).await;
    assert!(!marker.exists());
    let e = s
        .error(SshTarget {
            known_hosts: Some(empty),
            ..with_own
        })
        .await;
    assert_eq!(e.kind, LinkErrorKind::HostKeyUnknown, "{e:?}");
    assert_eq!(control_dirs(s.run.path()).len(), 1, "the living link's");
    ping(&mut link).await;
}

#[tokio::test]
async fn a_foreign_user_key_is_refused_with_the_line_to_add() {
    let Some(s) = Setup::new(&Options::default()) else {
        return;
    };
    let other = s.sshd.dir().join("other_key");
    sshd::keygen(&other);
    let public = fs::read_to_string(s.sshd.dir().join("other_key.pub")).expect("read");
    let e = s
        .error(SshTarget {
            identity_file: Some(other),
            ..s.target("cat")
        })
        .await;
    assert_eq!(e.kind, LinkErrorKind::PermissionDenied, "{e:?}");
    let line = format!("restrict,command=\"syncd serve\" {}", public.trim());
    assert!(e.hint.contains(&line), "{}", e.hint);
}

#[tokio::test]
async fn a_port_where_nothing_listens_is_refused_and_a_silent_one_times_out() {
    let Some(s) = Setup::new(&Options::default()) else {
        return;
    };
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = silent.local_addr().expect("address").port();
    let limit = Duration::from_millis(1500);
    let to = Target::Ssh(target(s.sshd.dir(), port, "cat"));
    let start = Instant::now();
    let e = connect(&to, s.run.path(), limit).await.expect_err("silent");
    assert_eq!(e.kind, LinkErrorKind::TimedOut, "{e:?}");
    assert!(start.elapsed() < Duration::from_secs(4));
    drop(silent);
    let e = s.error(target(s.sshd.dir(), port, "cat")).await;
    assert_eq!(e.kind, LinkErrorKind::Refused, "{e:?}");
    let run = s.run.path().to_str().expect("utf-8").to_owned();
    assert!(until(Duration::from_secs(5), || {
        sshd::processes_with(&run).is_empty()
    }));
    assert!(control_dirs(s.run.path()).is_empty());
}

#[tokio::test]
async fn a_missing_or_failing_remote_command_is_explained_at_the_end() {
    let Some(s) = Setup::new(&Options::default()) else {
        return;
    };
    let mut link = s
        .dial(s.target("no-such-syncd serve"))
        .await
        .expect("connect");
    at_end(&mut link, Duration::from_secs(5)).await;
    let e = link.explain_eof().await;
    assert_eq!(e.kind, LinkErrorKind::CommandNotFound, "{e:?}");
    assert!(e.message.contains("no-such-syncd") && e.hint.contains("remote_command"));

    let mut link = s
        .dial(s.target("echo out of order >&2; exit 3"))
        .await
        .expect("connect");
    at_end(&mut link, Duration::from_secs(5)).await;
    let e = link.explain_eof().await;
    assert_eq!(e.kind, LinkErrorKind::RemoteExited, "{e:?}");
    assert!(e.message.contains("code 3: out of order"), "{e}");
}

#[tokio::test]
async fn a_forced_command_takes_the_place_of_ours() {
    let options = Options {
        key_options: Some("restrict,command=\"echo forced; cat\"".to_owned()),
        ..Options::default()
    };
    let Some(s) = Setup::new(&options) else {
        return;
    };
    let mut link = s.dial(s.target("echo ours; cat")).await.expect("connect");
    let mut got = [0; 7];
    link.reader.read_exact(&mut got).await.expect("read");
    assert_eq!(&got, b"forced\n");
    ping(&mut link).await;
    link.close(Duration::from_secs(5)).await.expect("code 0");
}

#[tokio::test]
async fn a_frozen_peer_and_a_killed_one_end_the_stream() {
    let Some(s) = Setup::new(&Options::default()) else {
        return;
    };
    let mut link = s.dial(s.target("cat")).await.expect("connect");
    ping(&mut link).await;
    assert!(s.sshd.signal_sessions(Signal::SIGSTOP) > 0);
    let start = Instant::now();
    at_end(&mut link, Duration::from_secs(5)).await;
    println!("frozen peer noticed after {:?}", start.elapsed());
    let e = link.explain_eof().await;
    assert_eq!(e.kind, LinkErrorKind::Lost);
    assert!(e.message.contains("not responding"), "{e}");
    drop(link);
    s.sshd.signal_sessions(Signal::SIGKILL);

    let mut link = s.dial(s.target("cat")).await.expect("connect again");
    ping(&mut link).await;
    assert!(s.sshd.signal_sessions(Signal::SIGKILL) > 0);
    at_end(&mut link, Duration::from_secs(2)).await;
    assert_eq!(link.explain_eof().await.kind, LinkErrorKind::Lost);
}

/// Body of the process that is killed: connects, says so, waits.
#[tokio::test]
async fn child_connects() {
    let Ok(spec) = std::env::var(CHILD) else {
        return;
    };
    let words: Vec<&str> = spec.split(' ').collect();
    let port = words[1].parse().expect("port");
    let to = Target::Ssh(target(Path::new(words[0]), port, "cat"));
    let limit = Duration::from_secs(10);
    let mut link = connect(&to, Path::new(words[2]), limit)
        .await
        .expect("connect");
    ping(&mut link).await;
    println!("\nCONNECTED");
    at_end(&mut link, Duration::from_secs(60)).await;
}

#[tokio::test]
async fn a_killed_process_leaves_nothing_for_long() {
    let Some(s) = Setup::new(&Options::default()) else {
        return;
    };
    let (dir, run) = (s.sshd.dir().display(), s.run.path().display().to_string());
    let mut child = Command::new(std::env::current_exe().expect("exe"))
        .args(["--exact", "child_connects", "--nocapture"])
        .env(CHILD, format!("{dir} {} {run}", s.sshd.port()))
        .stdout(Stdio::piped())
        .spawn()
        .expect("spawn");
    let out = BufReader::new(child.stdout.take().expect("stdout"));
    assert!(
        out.lines()
            .map_while(Result::ok)
            .any(|l| l.contains("CONNECTED"))
    );
    child.kill().expect("kill");
    child.wait().expect("reap");
    assert_eq!(control_dirs(s.run.path()).len(), 1, "the dead process's");
    assert_eq!(
        sshd::processes_with(&run).len(),
        1,
        "its ssh lives on at first"
    );

    let start = Instant::now();
    let gone = until(Duration::from_secs(14), || {
        sshd::processes_with(&run).is_empty()
    });
    assert!(gone, "the ssh of a killed process must end by itself");
    println!("ssh ended {:?} after the kill", start.elapsed());
    let mut link = s.dial(s.target("cat")).await.expect("connect");
    ping(&mut link).await;
    assert_eq!(control_dirs(s.run.path()).len(), 1, "only the new one");
}
