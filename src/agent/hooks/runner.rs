//! The process that runs the hooks of a confined receiver.
//!
//! Programs of hooks are anybody's: they reload a service, they write where they like. What a process gave up its children
//! do not get back, so a receiver that confines itself has another process run them, which is made before anything of the
//! peer was read. That one knows the configuration and takes from the receiver what happened and nothing else: which hook,
//! by the stream that it asks on, and the paths, which are checked names in known roots. It ends with the receiver,
//! whatever ends that one.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::unistd::{ForkResult, fork};
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

use super::bench::{Bench, Notice, Task};
use crate::config::{Config, Hook, HookEvent};
use crate::decide::hooks::Due;
use crate::sys::run;
use crate::wire::control::Failure;
use crate::wire::errand::{self, Answer, Errand};

/// The name of the process, as `ps -o comm` shows it.
const NAME: &std::ffi::CStr = c"syncd-hooks";

/// The way to the process that runs hooks: a stream for each.
#[derive(Debug)]
pub struct Runner {
    pub(super) streams: Vec<UnixStream>,
}

impl Runner {
    /// Makes the process; `None` where there are no hooks. To be called as long as this process has one thread.
    ///
    /// # Errors
    /// A failure where there can be no further process.
    pub fn start(config: &Config, node: usize) -> Result<Option<Self>, Failure> {
        if config.hooks.is_empty() {
            return Ok(None);
        }
        let made = || -> io::Result<Self> {
            crate::sys::confine::is_alone()?;
            let pairs = config.hooks.iter().map(|_| UnixStream::pair());
            let pairs = pairs.collect::<io::Result<Vec<_>>>()?;
            let (ours, theirs) = pairs.into_iter().unzip();
            let parent = getpid();
            // SAFETY: no other thread could hold a lock that the child needs: this process has one thread.
            match unsafe { fork() }? {
                ForkResult::Parent { .. } => Ok(Self { streams: ours }),
                ForkResult::Child => {
                    drop(ours);
                    become_runner(config, node, theirs, parent);
                }
            }
        };
        let runner = made().map_err(|e| Failure {
            code: 1,
            message: format!("cannot start the process that runs hooks: {e}"),
            hint: "see ulimit -u".into(),
        })?;
        Ok(Some(runner))
    }
}

/// What the new process does, to its end.
fn become_runner(
    config: &Config,
    node: usize,
    streams: Vec<UnixStream>,
    parent: rustix::process::Pid,
) -> ! {
    let done = prepare();
    // It may have ended before this one asked to be told.
    if done.is_ok() && getppid() == Some(parent) {
        serve(&Bench::new(config, node), streams);
    }
    if let Err(e) = &done {
        tracing::error!("the process that runs hooks ends: {e}");
    }
    std::process::exit(i32::from(done.is_err()))
}

/// Ends with the receiver, and keeps nothing of the peer's stream.
fn prepare() -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    rustix::thread::set_name(NAME)?;
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    rustix::stdio::dup2_stdin(null.as_fd())?;
    rustix::stdio::dup2_stdout(null.as_fd())?;
    Ok(())
}

/// Runs every hook that is asked for, each on a thread of its own, until nobody can ask any more.
fn serve(bench: &Bench, streams: Vec<UnixStream>) {
    std::thread::scope(|threads| {
        for (hook, mut stream) in streams.into_iter().enumerate() {
            threads.spawn(move || {
                if let Err(e) = serve_one(bench, hook, &mut stream) {
                    tracing::error!("{}: the receiver cannot be heard: {e}", bench.title(hook));
                }
            });
        }
    });
}

fn serve_one(bench: &Bench, hook: usize, stream: &mut UnixStream) -> io::Result<()> {
    let apart = run::apart();
    while let Some(wanted) = errand::read::<Errand>(stream)? {
        let ready = apart.as_ref().map_err(|e| format!("it cannot be run: {e}"));
        let done = ready
            .and_then(|()| task(wanted, bench.hooks.get(hook), bench.roots.len()))
            .and_then(|task| bench.run(hook, &task));
        let answer: Answer = done.map_err(|why| errand::shortened(&why));
        errand::write(stream, &answer)?;
    }
    Ok(())
}

/// What is asked for, where the configuration has this hook run for that.
fn task(wanted: Errand, hook: Option<&Hook>, roots: usize) -> Result<Task, String> {
    let task = match wanted {
        Errand::Changes { paths, roots: all } => {
            let known = |root: usize| root < roots;
            if !paths.iter().all(|p| known(p.root.0.into()))
                || !all.iter().all(|r| known(r.0.into()))
            {
                return Err("it was asked for with a root that there is not".into());
            }
            let mut due = Due::default();
            all.into_iter().for_each(|r| due.add_root(r));
            paths.iter().for_each(|p| due.add(p));
            Task::Changes(due)
        }
        Errand::Notice { event, text } => {
            let known = HookEvent::ALL.into_iter().find(|e| e.word() == event);
            let event = known.filter(|e| *e != HookEvent::Applied);
            let event = event.ok_or("it was asked for with an event that there is not")?;
            Task::Notice(Notice { event, text })
        }
    };
    match hook {
        Some(hook) if hook.on.contains(&task.event()) => Ok(task),
        _ => Err(format!("it does not run on {}", task.event().word())),
    }
}

/// Has the other process run a hook.
pub(super) fn ask(stream: &mut UnixStream, task: &Task) -> Result<(), String> {
    let wanted = match task {
        Task::Changes(due) => Errand::changes(due),
        Task::Notice(notice) => Errand::notice(notice.event, &notice.text),
    };
    let asked = errand::write(stream, &wanted).and_then(|()| errand::read::<Answer>(stream));
    match asked {
        Ok(Some(answer)) => answer,
        Ok(None) => Err("it cannot be run: the process that runs hooks has ended".into()),
        Err(e) => Err(format!(
            "it cannot be run: the process that runs hooks does not answer: {e}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::path::{RelPath, RootId, TreePath};

    fn hook(on: HookEvent) -> Hook {
        Hook {
            paths: vec![],
            on: vec![on],
            run: vec!["true".into()],
            timeout: Hook::TIMEOUT,
            validate: vec![],
        }
    }

    fn changes(root: u16) -> Errand {
        let path = RelPath::parse(b"a").expect("a path");
        Errand::Changes {
            paths: vec![TreePath::new(RootId(root), path)],
            roots: vec![],
        }
    }

    #[test]
    fn only_what_the_configuration_has_it_run_for_is_taken() {
        let applied = hook(HookEvent::Applied);
        let problem = hook(HookEvent::Problem);
        let wrong = |event: &str| Errand::Notice {
            event: event.into(),
            text: String::new(),
        };
        assert!(task(changes(0), Some(&applied), 1).is_ok());
        assert!(task(wrong("problem"), Some(&problem), 1).is_ok());
        for (wanted, hook) in [
            (changes(1), Some(&applied)),
            (changes(0), Some(&problem)),
            (changes(0), None),
            (wrong("problem"), Some(&applied)),
            (wrong("applied"), Some(&applied)),
            (wrong("anything"), Some(&problem)),
            (
                Errand::Changes {
                    paths: vec![],
                    roots: vec![RootId(1)],
                },
                Some(&applied),
            ),
        ] {
            let shown = format!("{wanted:?}");
            assert!(task(wanted, hook, 1).is_err(), "{shown}");
        }
    }
}
