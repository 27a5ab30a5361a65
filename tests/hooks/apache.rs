//! A web server on the standby: it reloads its configuration once that has arrived and is one that it can use.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::node::{Pair, Side};
use crate::common::steps::{LONG, flushed_equal, idle, is_root, said, start, until};
use crate::options;
use crate::{Desk, hook};

const APACHE: &str = "/usr/sbin/apache2";

/// The web server of the test; it ends with it.
struct Server {
    pid_file: std::path::PathBuf,
    port: u16,
}

impl Server {
    /// What it answers to a request.
    fn get(&self, path: &str) -> String {
        let answer = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        answer().unwrap_or_else(|e| e.to_string())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = fs::read_to_string(&self.pid_file).unwrap_or_default();
        let pid = pid.trim();
        if !pid.is_empty() {
            let _ = Command::new("kill").arg(pid).stderr(Stdio::null()).status();
            until(LONG, || !Path::new("/proc").join(pid).exists());
        }
    }
}

/// The main configuration file; everything in it is relative to the root that is replicated.
fn main_file(port: u16) -> String {
    let modules = "/usr/lib/apache2/modules";
    format!(
        "LoadModule mpm_event_module {modules}/mod_mpm_event.so\n\
         LoadModule authz_core_module {modules}/mod_authz_core.so\n\
         LoadModule alias_module {modules}/mod_alias.so\n\
         ServerName localhost\nListen 127.0.0.1:{port}\nUser www-data\nGroup www-data\n\
         DocumentRoot htdocs\nIncludeOptional sites/*.conf\n"
    )
}

#[test]
fn a_web_server_reloads_what_it_can_use() {
    if !is_root("a_web_server_reloads_what_it_can_use") {
        return;
    }
    if !Path::new(APACHE).exists() {
        println!("skipped: a_web_server_reloads_what_it_can_use: no {APACHE}");
        return;
    }
    let desk = Desk::new();
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    // The same words on both nodes; on each they mean its own root.
    let control = desk.program(
        "apache",
        &format!(r#"exec {APACHE} -d "$OSM_ROOTS" -f httpd.conf -C "PidFile $DESK/pid" -C "ErrorLog $DESK/errors" "$@""#),
    );
    let mut options = options!();
    let validate = format!("paths = ['*.conf']\nvalidate = ['{control}', '-t']");
    options.tables = hook(&validate, &[&control, "-k", "graceful"]);
    let mut pair = idle(options);
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    for dir in [pair.dir(), b.parent().expect("a parent"), &b] {
        fs::set_permissions(dir, Permissions::from_mode(0o755)).expect("for the server");
    }
    for root in [&a, &b] {
        fs::create_dir(root.join("htdocs")).expect("a directory");
        fs::create_dir(root.join("sites")).expect("a directory");
        fs::write(root.join("htdocs/index.html"), "hello").expect("a page");
        fs::write(root.join("httpd.conf"), main_file(port)).expect("the configuration");
    }
    // What is known when it does not answer as it should.
    let story = |pair: &Pair| {
        let told = pair.status_of(Side::B).map(|s| s["problems"].to_string());
        format!("{told:?}\n{}\n{}", desk.read("errors"), pair.log(Side::A))
    };
    let server = Server {
        pid_file: desk.at("pid"),
        port,
    };
    let started = Command::new(&control)
        .env("OSM_ROOTS", &b)
        .args(["-k", "start"])
        .output()
        .expect("it runs");
    let up = until(LONG, || server.get("/index.html").ends_with("hello"));
    assert!(
        up,
        "{:?} {}\n{}",
        said(&started),
        server.get("/index.html"),
        story(&pair)
    );
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    fs::write(
        a.join("sites/one.conf"),
        "Redirect /old http://one.example/\n",
    )
    .expect("a site");
    flushed_equal(&pair, "data");
    let reloaded = until(LONG, || server.get("/old").contains("http://one.example/"));
    assert!(reloaded, "{}\n{}", server.get("/old"), story(&pair));
    // A file that breaks it as a whole arrives, and the server goes on with what it has.
    fs::write(a.join("sites/two.conf"), "NoSuchDirective on\n").expect("a site");
    flushed_equal(&pair, "data");
    let kept = until(LONG, || {
        pair.status_of(Side::B)
            .is_ok_and(|s| s["problems"].to_string().contains("NoSuchDirective"))
    });
    assert!(kept, "{}", story(&pair));
    let old = server.get("/old");
    assert!(
        old.contains("http://one.example/"),
        "{old}\n{}",
        story(&pair)
    );
    fs::write(
        a.join("sites/two.conf"),
        "Redirect /new http://new.example/\n",
    )
    .expect("mended");
    flushed_equal(&pair, "data");
    let reloaded = until(LONG, || server.get("/new").contains("http://new.example/"));
    assert!(reloaded, "{}\n{}", server.get("/new"), story(&pair));
}
