//! `syncctl` as its users meet it: a process with arguments, output, exit code, and an owner process that answers,
//! fails, falls silent or is not there.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use osm_failover::cli::{client, context::Globals};
use osm_failover::wire::control::{
    Answer, Difference, Failure, MAX_LINE, Outcome, Progress, Request, ResyncReport, Status,
};

#[path = "cli/owner.rs"]
mod owner;

use owner::{Node, done, status};

#[test]
fn status_of_a_running_node() {
    let node = Node::new();
    let (ran, asked) = node.ask("status", &[status("in-sync")]);
    assert_eq!((asked, ran.code), (Request::Status, 0), "{}", ran.err);
    assert!(ran.out.starts_with(
        "osm1 is active, osm2 is in sync: nothing would be lost if osm1 died now\n\n"
    ));
    let (ran, _) = node.ask("status --json", &[status("in-sync")]);
    let s: Status = serde_json::from_str(&ran.out).expect("a status");
    assert_eq!((ran.code, s.peer.state.as_str()), (0, "in-sync"));
    assert_eq!(node.ask("status", &[status("diverged")]).0.code, 5);
    assert_eq!(node.ask("status", &[status("unreachable")]).0.code, 0);
    let (ran, _) = node.ask("status", &[done("")]);
    assert_eq!(
        (ran.code, ran.err.lines().next()),
        (1, Some("error: the answer has no status"))
    );
}

#[test]
fn watch_ends_when_nobody_reads() {
    let node = Node::new();
    let answer = serde_json::to_string(&status("in-sync")).expect("encodes") + "\n";
    let owner = node.owners(vec![answer.into_bytes()]);
    let mut child = Command::new(env!("CARGO_BIN_EXE_syncctl"))
        .args(["status", "--watch", "--json", "--node", "osm1", "--config"])
        .arg(node.config())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("syncctl runs");
    owner.join().expect("asked");
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    out.read_line(&mut line).expect("a line");
    assert!(
        serde_json::from_str::<Status>(&line).is_ok(),
        "one line, one status: {line}"
    );
    drop(out);
    assert_eq!(child.wait().expect("it ends").code(), Some(1));
}

#[test]
fn nobody_answers() {
    let node = Node::new();
    let check = || {
        let ran = node.run("status");
        assert_eq!(ran.code, 3, "{}", ran.err);
        assert!(ran.out.starts_with("osm1 is stopped: "), "{}", ran.out);
        for command in ["flush", "pause", "resume", "verify", "diff"] {
            let ran = node.run(command);
            assert_eq!(ran.code, 3, "{command}");
            assert_eq!(ran.out, "");
            assert!(
                ran.err
                    .starts_with("error: nothing runs for node osm1\nhint: "),
                "{}",
                ran.err
            );
        }
    };
    check();
    // A socket that a killed process left behind is the same as none.
    std::fs::create_dir(node.dir.path().join("run")).expect("made");
    drop(UnixListener::bind(node.dir.path().join("run/control.sock")).expect("bound"));
    check();
}

#[test]
fn what_is_asked() {
    let node = Node::new();
    for (args, wanted) in [
        ("pause", Request::Pause),
        ("resume", Request::Resume),
        ("flush", Request::Flush { timeout_ms: 30_000 }),
        ("flush --timeout 250ms", Request::Flush { timeout_ms: 250 }),
        ("verify", Request::Verify { quick: false }),
        ("verify --quick", Request::Verify { quick: true }),
        ("diff", Request::Verify { quick: true }),
        (
            "resync",
            Request::Resync {
                full: false,
                checksum: false,
                dry_run: false,
            },
        ),
        (
            "resync --full --checksum --dry-run",
            Request::Resync {
                full: true,
                checksum: true,
                dry_run: true,
            },
        ),
    ] {
        let (ran, asked) = node.ask(
            args,
            &[Answer::Progress(Progress::default()), done("well done")],
        );
        assert_eq!((asked, ran.code), (wanted, 0), "{args}: {}", ran.err);
        assert_eq!(
            (ran.out.as_str(), ran.err.as_str()),
            ("well done\n", ""),
            "{args}"
        );
    }
}

#[test]
fn differences_are_listed_as_they_come() {
    let node = Node::new();
    let difference = |path: &str| {
        Answer::Difference(Difference {
            root: "r".into(),
            path: path.into(),
            what: "mode,owner".into(),
        })
    };
    let end = Answer::Done(Outcome {
        differences: Some(2),
        ..Outcome::default()
    });
    let answers = [difference("a/b"), difference("c"), end.clone()];
    let (ran, _) = node.ask("verify", &answers);
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (1, "r:a/b  mode,owner\nr:c  mode,owner\n2 differences\n")
    );
    let (ran, _) = node.ask("diff --json", &answers);
    let lines: Vec<Answer> = ran
        .out
        .lines()
        .map(|l| serde_json::from_str(l).expect("an answer"))
        .collect();
    assert_eq!((ran.code, &lines[..]), (1, &answers[..]));
    let equal = Answer::Done(Outcome {
        differences: Some(0),
        ..Outcome::default()
    });
    let (ran, _) = node.ask("verify", &[equal]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "both trees are equal\n"));
}

#[test]
fn a_resync_that_could_not_do_everything_has_failed() {
    let node = Node::new();
    let report = ResyncReport {
        direction: "receive".into(),
        puts: 2,
        problems: 1,
        ..ResyncReport::default()
    };
    let (ran, _) = node.ask(
        "resync",
        &[Answer::Done(Outcome {
            resync: Some(report),
            ..Outcome::default()
        })],
    );
    assert_eq!(ran.code, 1);
    assert_eq!(
        ran.out,
        "received 2 paths (0 B), 0 deleted, 1 could not be done (see syncctl status), in 0 ms\n"
    );
}

#[test]
fn failures_of_the_owner_keep_their_code_message_and_hint() {
    let node = Node::new();
    let f = Failure {
        code: 5,
        message: "resync: both changed\x07".into(),
        hint: "choose".into(),
    };
    let (ran, _) = node.ask("resync", &[Answer::Error(f.clone())]);
    assert_eq!((ran.code, ran.out.as_str()), (5, ""));
    assert_eq!(ran.err, "error: resync: both changed\\u{7}\nhint: choose\n");
    let (ran, _) = node.ask("resync --json", &[Answer::Error(f.clone())]);
    assert_eq!((ran.code, ran.err.as_str()), (5, ""));
    assert_eq!(
        serde_json::from_str::<Failure>(&ran.out).expect("a failure"),
        f
    );
    let lying = Failure { code: 0, ..f };
    assert_eq!(
        node.ask("pause", &[Answer::Error(lying)]).0.code,
        1,
        "a failure never looks like success"
    );
}

#[test]
fn answers_that_break() {
    let node = Node::new();
    let broken = |answer: &[u8], code: i32, words: &str| {
        let owner = node.owners(vec![answer.to_vec()]);
        let ran = node.run("pause");
        owner.join().expect("asked");
        assert_eq!(ran.code, code);
        assert!(ran.err.contains(words), "{}", ran.err);
        assert!(ran.err.contains("\nhint: "), "{}", ran.err);
    };
    broken(b"", 3, "it ended before it answered");
    broken(b"{\"done\":{\"mess", 3, "it ended before it answered");
    broken(b"hello\n", 1, "expected value");
    broken(b"{\"finished\":{}}\n", 1, "unknown variant `finished`");
    broken(&vec![b' '; MAX_LINE + 1], 1, "the answer is too long");
}

/// Somebody asks a process that is just ending; what it wants of the node is done by the next one, or said of none.
#[test]
fn an_owner_that_ends_before_it_answers_is_asked_once_more() {
    let node = Node::new();
    let done = serde_json::to_vec(&done("replication is paused")).expect("encodes");
    let owners = node.owners(vec![Vec::new(), [done, b"\n".to_vec()].concat()]);
    let ran = node.run("pause");
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let asked = owners.join().expect("both were asked");
    assert_eq!(asked, [Request::Pause, Request::Pause]);

    let owners = node.owners(vec![Vec::new(), Vec::new()]);
    let ran = node.run("status --json");
    assert_eq!((ran.code, ran.err.as_str()), (3, ""));
    let status: Status = serde_json::from_str(&ran.out).expect("a status");
    assert_eq!(status.role, "stopped");
    owners.join().expect("both were asked");
}

/// What was told already would be told twice, and be counted twice.
#[test]
fn an_owner_that_breaks_off_is_not_asked_again() {
    let node = Node::new();
    let found = Answer::Difference(Difference {
        root: "data".into(),
        path: "f".into(),
        what: "content".into(),
    });
    let found = serde_json::to_vec(&found).expect("encodes");
    let owners = node.owners(vec![[found, b"\n".to_vec()].concat()]);
    let ran = node.run("verify");
    assert_eq!((ran.code, ran.out.lines().count()), (3, 1), "{}", ran.out);
    assert!(ran.err.contains("this is not all"), "{}", ran.err);
    owners.join().expect("asked once");
}

#[test]
fn a_silent_owner_is_not_waited_for_without_end() {
    let node = Node::new();
    let globals = Globals {
        config: node.config(),
        node: Some("osm1".into()),
        json: false,
    };
    let ctx = globals.load().expect("good");
    std::fs::create_dir(node.dir.path().join("run")).expect("made");
    let listener = UnixListener::bind(node.dir.path().join("run/control.sock")).expect("bound");
    let wait = std::time::Duration::from_millis(20);
    let ask =
        || client::ask(&ctx, &Request::Status, wait, &mut client::ignore).expect_err("no answer");
    let f = ask();
    assert_eq!(f.code, 7);
    assert!(f.message.contains("no answer within"), "{}", f.message);
    // The kernel takes connections until the queue of one that never accepts is full; then it must not hang either.
    rustix::net::listen(&listener, 0).expect("a short queue");
    let f = (ask(), ask()).1;
    assert_eq!(f.code, 7);
}

#[test]
fn usage_and_configuration_errors_end_with_2() {
    let node = Node::new();
    for args in [
        "",
        "fly",
        "flush --timeout soon",
        "status --node osm3",
        "status --config /none",
    ] {
        let ran = node.run(args);
        assert_eq!(ran.code, 2, "{args}: {}", ran.err);
        assert!(!ran.err.is_empty());
    }
    let ran = node.run("status --node osm3");
    let file = node.config();
    assert_eq!(
        ran.err,
        format!(
            "error: {}: there is no node \"osm3\"\nhint: the nodes are osm1 and osm2\n",
            file.display()
        )
    );
    let ran = node.run("status --json --node osm3");
    assert_eq!(
        serde_json::from_str::<Failure>(&ran.out)
            .expect("a failure")
            .code,
        2
    );
}

#[test]
fn check_reports_everything_it_looked_at() {
    let node = Node::new();
    let ran = node.run("check --json");
    let report: serde_json::Value = serde_json::from_str(&ran.out).expect("a report");
    let names: Vec<_> = report["checks"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|c| c["name"].as_str())
        .collect();
    let wanted = [
        "configuration",
        "node",
        "root r",
        "state directory",
        "run directory",
        "watch",
        "receiver",
        "link",
        "peer",
    ];
    assert_eq!(names, wanted.map(Some));
    assert_eq!(
        (ran.code, report["ok"].as_bool()),
        (1, Some(false)),
        "the peer's command is /bin/false"
    );
    assert_eq!(report["checks"][8]["state"], "fail");
    let ran = node.run("check");
    assert!(ran.out.contains("\nnot ready: "), "{}", ran.out);
    let hooks = "[[hook]]\nrun = ['sh', '-c', 'true']\n\
                 [[hook]]\nrun = ['sh']\nvalidate = ['/no/such/program']\n";
    let mut text = std::fs::read_to_string(node.config()).expect("read");
    text.push_str(hooks);
    std::fs::write(node.config(), text).expect("written");
    let ran = node.run("check --json");
    let report: serde_json::Value = serde_json::from_str(&ran.out).expect("a report");
    let states = ["hook 1", "hook 2"].map(|name| {
        let checks = report["checks"].as_array().expect("a list");
        let check = checks.iter().find(|c| c["name"] == name);
        check.expect("looked at")["state"].to_string()
    });
    assert_eq!(states, ["\"ok\"", "\"fail\""], "{}", ran.out);
    assert!(
        ran.out
            .contains("/no/such/program cannot be run: No such file"),
        "{}",
        ran.out
    );
    std::fs::write(node.config(), "[clutser]\n").expect("written");
    let ran = node.run("check");
    assert_eq!(ran.code, 1);
    assert!(
        ran.out
            .contains("unknown key \"clutser\" at the top; did you mean [cluster]?"),
        "{}",
        ran.out
    );
}

#[test]
fn pages_and_completions_need_no_configuration() {
    let node = Node::new();
    std::fs::remove_file(node.config()).expect("removed");
    for shell in ["bash", "zsh", "fish"] {
        let ran = node.run(&format!("completions {shell}"));
        assert!(ran.code == 0 && ran.out.contains("resync"), "{shell}");
    }
    let ran = node.run("man");
    assert!(
        ran.code == 0 && ran.out.contains(".TH syncctl 1"),
        "{}",
        ran.out
    );
    let dir = node.dir.path().join("man1");
    std::fs::create_dir(&dir).expect("made");
    assert_eq!(node.run(&format!("man {}", dir.display())).code, 0);
    for page in ["syncctl.1", "syncctl-resync.1", "syncd.1", "syncd-serve.1"] {
        let mut text = String::new();
        std::fs::File::open(dir.join(page))
            .expect(page)
            .read_to_string(&mut text)
            .expect("text");
        assert!(text.contains(".SH NAME"), "{page}");
    }
    let ran = node.run("man /none");
    assert!(
        ran.code == 1 && ran.err.contains("hint: name a directory"),
        "{}",
        ran.err
    );
}
