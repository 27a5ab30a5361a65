//! The owner's side against the asking side, and against clients that break the rules.

use super::super::ControlClient;
use super::*;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as Blocking;

fn done(message: &str) -> Answer {
    Answer::Done(crate::wire::control::Outcome {
        message: message.to_owned(),
        ..Default::default()
    })
}

fn server() -> (tempfile::TempDir, ControlServer) {
    let dir = tempfile::tempdir().expect("tempdir");
    let server = ControlServer::bind(dir.path()).expect("bind");
    (dir, server)
}

fn raw(dir: &tempfile::TempDir) -> Blocking {
    Blocking::connect(dir.path().join(SOCKET_NAME)).expect("connect")
}

#[tokio::test]
async fn a_request_is_answered_line_by_line() {
    let (dir, server) = server();
    let path = dir.path().to_path_buf();
    let client = std::thread::spawn(move || {
        let mut c = ControlClient::connect(&path).expect("connect");
        c.set_read_timeout(Some(Duration::from_secs(5)))
            .expect("timeout");
        c.send(&Request::Flush { timeout_ms: 7 }).expect("send");
        [(); 3].map(|()| c.next_answer())
    });
    let mut conn = server.accept().await;
    let got = conn.request().await.expect("request");
    assert_eq!(got.request, Request::Flush { timeout_ms: 7 });
    assert!(got.stream.is_none());
    conn.answer(&Answer::Progress(Default::default()))
        .await
        .expect("progress");
    conn.answer(&done("flushed")).await.expect("done");
    drop(conn);
    let [progress, end, closed] = client.join().expect("client");
    assert!(matches!(progress.expect("first"), Answer::Progress(_)));
    assert_eq!(end.expect("second"), done("flushed"));
    assert_eq!(
        closed.expect_err("third").kind(),
        io::ErrorKind::UnexpectedEof
    );
}

#[tokio::test]
async fn the_socket_is_private_replaces_a_stale_one_and_goes_with_its_server() {
    let (dir, old) = server();
    let path = dir.path().join(SOCKET_NAME);
    let mode = std::fs::metadata(&path).expect("stat").mode();
    assert_eq!(mode & 0o777, 0o600);
    let new = ControlServer::bind(dir.path()).expect("over the old one");
    drop(old);
    assert!(path.exists(), "the successor's socket stays");
    drop(new);
    assert!(!path.exists());
    let e = ControlClient::connect(dir.path()).expect_err("nobody there");
    assert!(ControlClient::not_running(&e));
}

#[tokio::test]
async fn descriptors_come_with_serve_and_carry_bytes() {
    let (dir, server) = server();
    let mut c = ControlClient::connect(dir.path()).expect("connect");
    let (to_us, mut input) = std::io::pipe().expect("pipe");
    let (mut output, from_us) = std::io::pipe().expect("pipe");
    c.send_with_fds(&Request::Serve, &[to_us.as_fd(), from_us.as_fd()])
        .expect("send");
    drop((to_us, from_us));
    let mut conn = server.accept().await;
    let got = conn.request().await.expect("request");
    assert_eq!(got.request, Request::Serve);
    let (read, write) = got.stream.expect("two descriptors");
    input.write_all(b"in").expect("write");
    drop(input);
    let mut text = String::new();
    std::fs::File::from(read)
        .read_to_string(&mut text)
        .expect("read");
    assert_eq!(text, "in");
    std::fs::File::from(write).write_all(b"out").expect("write");
    text.clear();
    output
        .read_to_string(&mut text)
        .expect("the only writer is gone");
    assert_eq!(text, "out");
}

#[tokio::test]
async fn too_few_too_many_and_unasked_descriptors_are_refused() {
    let (dir, server) = server();
    let null = std::fs::File::open("/dev/null").expect("open");
    for (request, n, got) in [
        (Request::Serve, 0, 0),
        (Request::Serve, 1, 1),
        (Request::Serve, 3, 3),
        (Request::Status, 2, 2),
    ] {
        let mut c = ControlClient::connect(dir.path()).expect("connect");
        c.send_with_fds(&request, &vec![null.as_fd(); n])
            .expect("send");
        let e = server.accept().await.request().await.expect_err("refused");
        assert!(
            matches!(e, ControlError::Descriptors { got: g, .. } if g == got),
            "{request:?} {n}: {e}"
        );
    }
}

#[test]
fn only_root_and_the_own_user_may_ask() {
    for (client, own, may) in [
        (0, 0, true),
        (0, 7, true),
        (7, 7, true),
        (7, 0, false),
        (8, 7, false),
    ] {
        assert_eq!(may_ask(client, own), may, "{client} asks {own}");
    }
    assert!(matches!(
        ControlError::Forbidden(7).answer(),
        Answer::Error(Failure { code: 6, .. })
    ));
}

#[tokio::test]
async fn lines_too_long_garbled_double_or_cut_off_are_refused() {
    let (dir, server) = server();
    let cases: [(Vec<u8>, &str); 5] = [
        (
            [vec![b' '; MAX_LINE + 1], b"\n".to_vec()].concat(),
            "longer",
        ),
        (b"{\"command\":\"nonsense\"}\n".to_vec(), "understand"),
        (b"\xff\xfe\n".to_vec(), "understand"),
        (
            b"{\"command\":\"status\"}\n{\"command\":\"stop\"}\n".to_vec(),
            "more than one",
        ),
        (b"{\"command\":".to_vec(), "before its request"),
    ];
    for (bytes, says) in cases {
        let mut c = raw(&dir);
        let writer = std::thread::spawn(move || {
            // The server may hang up first.
            let _ = c.write_all(&bytes);
        });
        let mut conn = server.accept().await;
        let e = conn.request().await.expect_err(says).to_string();
        assert!(e.contains(says), "{e}");
        drop(conn);
        writer.join().expect("writer");
    }
    // The longest line is still heard.
    let mut c = raw(&dir);
    let mut line = b"{\"command\":\"status\"}".to_vec();
    line.resize(MAX_LINE, b' ');
    line.push(b'\n');
    let writer = std::thread::spawn(move || c.write_all(&line).expect("write"));
    let got = server.accept().await.request().await.expect("fits");
    assert_eq!(got.request, Request::Status);
    writer.join().expect("writer");
}

#[tokio::test]
async fn a_silent_client_times_out_and_holds_up_nobody() {
    let (dir, mut server) = server();
    server.patience = Duration::from_millis(300);
    let mut half = raw(&dir);
    half.write_all(b"{\"command\"").expect("write");
    let mut silent = server.accept().await;
    let waiting = tokio::spawn(async move { silent.request().await });
    let mut c = ControlClient::connect(dir.path()).expect("connect");
    c.send(&Request::Status).expect("send");
    let got = server
        .accept()
        .await
        .request()
        .await
        .expect("heard at once");
    assert_eq!(got.request, Request::Status);
    assert!(!waiting.is_finished());
    let e = waiting.await.expect("join").expect_err("late");
    assert!(matches!(e, ControlError::Late), "{e}");
}

/// Somebody reads in a pager: longer than a request may take.
#[tokio::test]
async fn who_reads_slowly_is_waited_for_and_who_never_reads_is_not() {
    let (dir, mut server) = server();
    server.patience = Duration::from_millis(20);
    let long = done(&"x".repeat(MAX_LINE / 2));
    let mut c = ControlClient::connect(dir.path()).expect("connect");
    c.send(&Request::Status).expect("send");
    let mut conn = server.accept().await;
    conn.request().await.expect("heard");
    let line = long.clone();
    let answering = tokio::spawn(async move { conn.answer(&line).await });
    tokio::time::sleep(10 * server.patience).await;
    assert!(!answering.is_finished(), "more than a socket holds");
    let read = tokio::task::spawn_blocking(move || c.next_answer());
    assert_eq!(read.await.expect("join").expect("all of it"), long);
    answering.await.expect("join").expect("taken");

    server.taking = Duration::from_millis(50);
    let mut c = ControlClient::connect(dir.path()).expect("connect");
    c.send(&Request::Status).expect("send");
    let mut conn = server.accept().await;
    conn.request().await.expect("heard");
    let e = conn.answer(&long).await.expect_err("nobody reads");
    assert_eq!(e.kind(), io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let (dir, server) = server();
    let mut open = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        open.push((raw(&dir), server.accept().await));
    }
    let mut c = ControlClient::connect(dir.path()).expect("connect");
    let (accepted, told) = tokio::join!(
        tokio::time::timeout(Duration::from_millis(200), server.accept()),
        tokio::task::spawn_blocking(move || c.next_answer())
    );
    assert!(accepted.is_err(), "it must not be given out");
    let told = told.expect("join").expect("answer");
    assert!(matches!(told, Answer::Error(f) if f.message.contains("64")));
    open.pop();
    let _c = raw(&dir);
    server.accept().await;
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed() {
    let (dir, server) = server();
    let mut c = ControlClient::connect(dir.path()).expect("connect");
    c.send(&Request::Verify { quick: true }).expect("send");
    let mut conn = server.accept().await;
    conn.request().await.expect("request");
    let still = tokio::time::timeout(Duration::from_millis(20), conn.gone()).await;
    assert!(still.is_err(), "it is still there");
    drop(c);
    tokio::time::timeout(Duration::from_secs(5), conn.gone())
        .await
        .expect("noticed");
    conn.answer(&done("")).await.expect_err("nobody reads it");
}
