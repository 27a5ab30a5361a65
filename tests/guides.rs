//! The guides and the README say what the programs do: every configuration they show in full loads, every command and
//! option of ours that they name is there, every link leads somewhere, and every promise has its tests.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use osm_failover::config::Config;

/// The fenced blocks of a page with their languages, and the code spans of what is around them.
fn code(text: &str) -> (Vec<(String, String)>, Vec<String>) {
    let (mut blocks, mut spans) = (Vec::new(), Vec::new());
    let mut open: Option<(String, String)> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(language), None) => open = Some((language.to_owned(), String::new())),
            (Some(_), Some(block)) => blocks.push(block),
            (None, Some((language, body))) => open = Some((language, body + line + "\n")),
            (None, None) => spans.extend(line.split('`').skip(1).step_by(2).map(str::to_owned)),
        }
    }
    assert!(open.is_none(), "a block is not closed");
    (blocks, spans)
}

/// Pages that also speak of what was, or is still to come.
const OTHERS: [&str; 2] = ["decisions.md", "roadmap.md"];

/// README and the guides, and what is said of security, with their texts.
fn pages() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs")).expect("docs can be read");
    let files = docs.map(|f| f.expect("docs can be read").path());
    let mut files: Vec<_> = files
        .filter(|f| f.extension().is_some_and(|e| e == "md"))
        .filter(|f| !OTHERS.iter().any(|o| f.ends_with(o)))
        .collect();
    files.extend(["README.md", "SECURITY.md"].map(|f| root.join(f)));
    files.sort();
    let read = |f: PathBuf| (f.clone(), fs::read_to_string(f).expect("a page is text"));
    files.into_iter().map(read).collect()
}

#[test]
fn every_whole_configuration_loads() {
    let mut loaded = 0;
    for (page, text) in pages() {
        for (language, body) in code(&text).0 {
            if language != "toml" || !body.contains("[cluster]") {
                continue;
            }
            let parsed = Config::parse(&body, &page);
            assert!(parsed.is_ok(), "{}: {:?}", page.display(), parsed.err());
            loaded += 1;
        }
    }
    assert!(loaded >= 4, "only {loaded} configurations were found");
}

/// The words of each command line in `text` that runs `syncctl` or `syncd`, from the program on.
fn calls(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.split(" #").next().unwrap_or_default();
        for part in line.split(['|', ';', '&', '(', ')', '"', '>']) {
            let words: Vec<_> = part.split_whitespace().collect();
            let program = words.iter().position(|w| {
                let name = w.rsplit('/').next().unwrap_or(w);
                name == "syncctl" || name == "syncd"
            });
            if let Some(at) = program {
                found.push(words[at..].iter().map(|w| (*w).to_owned()).collect());
            }
        }
    }
    found
}

/// The help of a program with subcommands.
fn help(words: &[&str]) -> Option<String> {
    let program = match words[0] {
        "syncctl" => env!("CARGO_BIN_EXE_syncctl"),
        _ => env!("CARGO_BIN_EXE_syncd"),
    };
    let out = Command::new(program)
        .args(&words[1..])
        .arg("--help")
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    out.status.success().then_some(text)
}

/// What each command says of itself, once it was asked; nothing where there is no such command.
#[derive(Default)]
struct Helps(BTreeMap<Vec<String>, Option<String>>);

impl Helps {
    fn of(&mut self, path: &[&str]) -> Option<&str> {
        let key = path.iter().map(|w| (*w).to_owned()).collect();
        let text = self.0.entry(key).or_insert_with(|| help(path));
        text.as_deref()
    }

    /// What is wrong with one call.
    fn fault(&mut self, call: &[String]) -> Option<String> {
        let mut path = vec![call[0].rsplit('/').next().unwrap_or_default()];
        for word in &call[1..] {
            // A subcommand is a lower-case word behind a command that has some; anything else is an argument.
            let has_some = self.of(&path).is_some_and(|t| t.contains("\nCommands:"));
            if !has_some || !word.chars().all(|c| c.is_ascii_lowercase()) {
                break;
            }
            path.push(word);
        }
        let name = path.join(" ");
        let Some(text) = self.of(&path) else {
            return Some(format!("there is no `{name}`"));
        };
        let options = call.iter().filter(|w| w.starts_with("--"));
        let mut missing = options.filter(|o| {
            let option = o.split('=').next().unwrap_or_default();
            let option = option.trim_end_matches([',', '.']);
            let mut words = text.split(|c: char| c.is_whitespace() || c == ',');
            !words.any(|w| w == option)
        });
        missing.next().map(|o| format!("`{name}` has no {o}"))
    }
}

#[test]
fn every_command_and_option_exists() {
    let (mut faults, mut seen, mut helps) = (Vec::new(), 0, Helps::default());
    for (page, text) in pages() {
        let (blocks, spans) = code(&text);
        let shell = blocks.into_iter().filter(|(l, _)| l == "sh");
        for text in shell.map(|(_, body)| body).chain(spans) {
            for call in calls(&text) {
                seen += 1;
                if let Some(why) = helps.fault(&call) {
                    faults.push(format!("{}: {why}", page.display()));
                }
            }
        }
    }
    assert!(seen > 100, "only {seen} calls were found");
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// A heading as the name of its anchor.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = kept
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut faults = Vec::new();
    for (page, text) in pages() {
        let targets = text.split("](").skip(1).filter_map(|t| t.split(')').next());
        for target in targets.filter(|t| !t.contains("://")) {
            let (file, name) = target.split_once('#').unwrap_or((target, ""));
            let file = match file {
                "" => page.clone(),
                other => page.parent().expect("a directory").join(other),
            };
            let there = match fs::read_to_string(&file) {
                Ok(there) if name.is_empty() => Some(there),
                Ok(there) => there
                    .lines()
                    .any(|l| l.starts_with('#') && anchor(l) == name)
                    .then_some(there),
                Err(_) => None,
            };
            if there.is_none() {
                faults.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// Sections of the README that a line of a message names: what stands in quotes right before or behind its name.
fn named(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in line.match_indices("README.md") {
        let (before, behind) = (&line[..at], &line[at + "README.md".len()..]);
        let ahead = before
            .strip_suffix("\\\" in ")
            .and_then(|t| t.rsplit("\\\"").next());
        let after = behind
            .strip_prefix(", \\\"")
            .and_then(|t| t.split("\\\"").next());
        found.extend([ahead, after].into_iter().flatten().map(str::to_owned));
    }
    found
}

#[test]
fn every_section_that_a_message_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).expect("the README");
    let (mut faults, mut seen) = (Vec::new(), 0);
    for file in walkdir::WalkDir::new(root.join("src")) {
        let file = file.expect("sources can be walked");
        if file.path().extension().is_none_or(|e| e != "rs") {
            continue;
        }
        let text = fs::read_to_string(file.path()).expect("sources are text");
        for name in text.lines().flat_map(named) {
            seen += 1;
            let is = |l: &str| l.starts_with('#') && l.trim_start_matches('#').trim() == name;
            if !readme.lines().any(is) {
                faults.push(format!("{}: \"{name}\"", file.path().display()));
            }
        }
    }
    assert!(seen >= 3, "only {seen} were found");
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// Every source below a directory, with the words of its module.
fn sources(dirs: &[&str]) -> Vec<(Vec<String>, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    for dir in dirs {
        for file in walkdir::WalkDir::new(root.join(dir)) {
            let file = file.expect("sources can be walked").into_path();
            let below = file.strip_prefix(root.join(dir)).expect("below it");
            if below.extension().is_none_or(|e| e != "rs") {
                continue;
            }
            let below = below.with_extension("");
            let words = below.iter().map(|w| w.to_string_lossy().into_owned());
            let module: Vec<_> = words.filter(|w| w != "mod").collect();
            sources.push((module, fs::read_to_string(&file).expect("text")));
        }
    }
    sources
}

/// The code spans of two pages that have several words joined by `::`.
fn told() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = ["docs/guarantees.md", "docs/limits.md"];
    let spans = pages.map(|p| code(&fs::read_to_string(root.join(p)).expect("the page")).1);
    let named = spans.into_iter().flatten();
    named.filter(|span| span.contains("::")).collect()
}

/// A promise whose test was renamed or removed is one that nobody looks after.
#[test]
fn every_test_that_a_promise_names_is_there() {
    let sources = sources(&["src", "tests"]);
    let (mut seen, mut missing) = (0, Vec::new());
    for span in told().into_iter().filter(|s| !s.contains(" = ")) {
        let words: Vec<_> = span.split("::").collect();
        let Some((name, module)) = words.split_last() else {
            continue;
        };
        seen += 1;
        let test = format!("fn {name}(");
        // A module may stand in a file of its own, or in the one of the module above it.
        let there = sources.iter().any(|(at, text)| {
            let within = module.iter().zip(at).all(|(a, b)| a == b) && at.len() <= module.len();
            within && (text.contains(&test) || matches!(*name, "*" | "..."))
        });
        if !there {
            missing.push(span);
        }
    }
    assert!(seen > 90, "only {seen} tests are named");
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_bound_that_is_told_is_that_of_the_source() {
    let sources = sources(&["src"]);
    let (mut seen, mut wrong) = (0, Vec::new());
    for span in told() {
        let Some((constant, value)) = span.split_once(" = ") else {
            continue;
        };
        seen += 1;
        let words: Vec<_> = constant.split("::").collect();
        let (name, module) = words.split_last().expect("a word");
        let is = sources
            .iter()
            .filter(|(at, _)| at == module)
            .any(|(_, text)| {
                let begin = format!("const {name}: ");
                let mut lines = text.lines().filter_map(|l| l.split_once(&begin));
                lines.any(|(_, rest)| {
                    rest.split_once(" = ")
                        .is_some_and(|(_, v)| v == format!("{value};"))
                })
            });
        if !is {
            wrong.push(span);
        }
    }
    assert!(seen > 15, "only {seen} bounds are told");
    assert!(wrong.is_empty(), "{wrong:?}");
}
