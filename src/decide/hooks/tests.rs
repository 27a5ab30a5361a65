use std::time::Duration;

use super::*;

fn hook(paths: &[&str], on: &[HookEvent]) -> Hook {
    Hook {
        paths: paths.iter().map(ToString::to_string).collect(),
        on: on.to_vec(),
        run: vec!["x".into()],
        timeout: Duration::from_secs(1),
        validate: Vec::new(),
    }
}

fn at(root: u16, path: &str) -> TreePath {
    TreePath::new(
        RootId(root),
        RelPath::parse(path.as_bytes()).expect("a safe path"),
    )
}

fn bases() -> Vec<PathBuf> {
    vec!["/etc/apache2".into(), "/srv/data".into()]
}

/// The pattern, the change as `kind:root:path`, whether the hook is about it.
const TABLE: &[(&str, &str, u16, &str, bool)] = &[
    ("/etc/apache2/", "path", 0, "sites/a.conf", true),
    ("/etc/apache2/", "path", 1, "sites/a.conf", false),
    ("/etc/apache2/", "dir", 0, "", true),
    ("/etc/apache2/*.conf", "path", 0, "a.conf", true),
    ("/etc/apache2/*.conf", "path", 0, "sites/a.conf", false),
    ("/etc/apache2/**/*.conf", "path", 0, "sites/a.conf", true),
    ("*.conf", "path", 1, "deep/er/a.conf", true),
    ("*.conf", "path", 1, "deep/er/a.txt", false),
    ("/srv/data/keys/", "path", 1, "keys/x", true),
    ("/srv/data/keys/", "path", 1, "keysx", false),
    // A directory as a whole: what is in it may be meant.
    ("/srv/data/keys/*.pem", "subtree", 1, "keys", true),
    ("/srv/data/keys/*.pem", "subtree", 1, "keys/sub", true),
    ("/srv/data/keys/*.pem", "subtree", 1, "", true),
    ("/srv/data/keys/*.pem", "subtree", 1, "other", false),
    ("/srv/data/keys/*.pem", "dir", 1, "keys", false),
    ("*.pem", "subtree", 0, "anything", true),
    ("/srv/*/keys/*.pem", "subtree", 1, "other", true),
    ("/srv/*/keys/*.pem", "subtree", 0, "other", false),
];

#[test]
fn what_a_hook_is_about() {
    for (pattern, kind, root, path, about) in TABLE {
        let rules = Rules::new(&[hook(&[pattern], &[HookEvent::Applied])], &bases());
        let path = at(*root, path);
        let touched = match *kind {
            "path" => Touched::Path(path),
            "dir" => Touched::Dir(path),
            _ => Touched::Subtree(path),
        };
        let rules = rules.expect("good patterns");
        assert_eq!(rules.is_about(0, &touched), *about, "{pattern} {touched:?}");
    }
    let all = Rules::new(&[hook(&[], &[HookEvent::Applied])], &bases()).expect("none");
    assert!(all.is_about(0, &Touched::Path(at(1, "x"))));
    assert!(!all.is_about(1, &Touched::Path(at(1, "x"))), "no such hook");
}

#[test]
fn when_a_hook_runs() {
    use HookEvent::{Activated, Applied, Deactivated, Problem};
    let hooks = [
        hook(&[], &[Applied]),
        hook(&[], &[Applied]),
        hook(&[], &[Activated, Deactivated]),
        hook(&[], &[Problem, Applied]),
    ];
    let rules = Rules::new(&hooks, &bases()).expect("good");
    let on = |e| rules.on(e).collect::<Vec<_>>();
    assert_eq!(on(Applied), [0, 1, 3]);
    assert_eq!(on(Activated), [2]);
    assert_eq!(on(Deactivated), [2]);
    assert_eq!(on(Problem), [3]);
    let bad = Rules::new(&[hook(&["[x"], &[Applied])], &bases());
    assert_eq!(bad.map(|_| ()).map_err(|e| e.0), Err(0));
}

#[test]
fn what_is_gathered_is_bounded() {
    let mut due = Due::default();
    assert!(due.is_empty());
    for i in 0..MAX_PATHS {
        due.add(&at(1, &format!("f{i}")));
        due.add(&at(1, &format!("f{i}")));
    }
    let told = due.told(&bases(), &bases());
    assert_eq!((told.paths.len(), told.exact), (MAX_PATHS, true));
    due.add(&at(0, "one more"));
    let told = due.told(&bases(), &bases());
    assert!(!told.exact);
    assert_eq!(
        told.paths,
        bases(),
        "both roots in the place of their paths"
    );
    due.add(&at(0, "and more"));
    assert_eq!(due.told(&bases(), &bases()).paths, bases());
    let long = "d/".repeat(30_000) + "x";
    let mut due = Due::default();
    for i in 0..MAX_BYTES / long.len() + 2 {
        due.add(&at(1, &format!("{long}{i}")));
    }
    let told = due.told(&bases(), &bases());
    assert_eq!(told.paths, [PathBuf::from("/srv/data")]);
}

#[test]
fn what_was_not_done_is_taken_out_and_what_failed_is_added_again() {
    let mut due = Due::default();
    ["a", "b"].iter().for_each(|p| due.add(&at(1, p)));
    due.remove(&at(1, "b"));
    due.remove(&at(1, "never there"));
    let mut later = Due::default();
    later.add(&at(0, "c"));
    due.merge(&later);
    let wanted = ["/etc/apache2/c", "/srv/data/a"].map(PathBuf::from);
    assert_eq!(due.told(&bases(), &bases()).paths, wanted);
    due.remove(&at(0, "c"));
    due.remove(&at(1, "a"));
    assert!(due.is_empty());
    // Where a root stands in the place of its paths, nobody knows which of them.
    later.add_root(RootId(0));
    due.merge(&later);
    due.remove(&at(0, "c"));
    assert_eq!(due.told(&bases(), &bases()).paths, bases()[..1]);
}

#[test]
fn the_words_of_a_run() {
    let run = ["prog", "-a", "{paths}", "-z"].map(str::to_owned);
    let mut due = Due::default();
    due.add(&TreePath::new(
        RootId(1),
        RelPath::parse(b"a\n\xff").expect("safe"),
    ));
    due.add(&at(0, "-rf"));
    let told = due.told(&bases(), &bases());
    let words = told.words(&run);
    let bytes: Vec<&[u8]> = words.iter().map(|w| w.as_bytes()).collect();
    assert_eq!(
        bytes,
        [
            &b"prog"[..],
            b"-a",
            b"/etc/apache2/-rf",
            b"/srv/data/a\n\xff",
            b"-z"
        ]
    );
    assert_eq!(told.list(), b"/etc/apache2/-rf\0/srv/data/a\n\xff\0");
    for i in 0..MAX_ARGUMENTS {
        due.add(&at(1, &format!("f{i}")));
    }
    let told = due.told(&bases(), &bases());
    let words = told.words(&run);
    assert_eq!(words[2..4], ["/etc/apache2", "/srv/data"], "too many");
    assert!(
        told.exact && told.paths.len() > MAX_ARGUMENTS,
        "in a file they fit"
    );
}

#[test]
fn a_root_that_is_one_file() {
    // Its paths are relative to the directory that holds it; the root itself is the file.
    let hooks = [hook(&["/etc/one.conf"], &[HookEvent::Applied])];
    let rules = Rules::new(&hooks, &["/etc".into()]).expect("good");
    assert!(rules.is_about(0, &Touched::Path(at(0, "one.conf"))));
    let mut due = Due::default();
    due.add_root(RootId(0));
    let told = due.told(&["/etc".into()], &["/etc/one.conf".into()]);
    assert_eq!(told.paths, [PathBuf::from("/etc/one.conf")]);
}
