//! Whatever arrives on the stream of `syncd serve`: it ends with a message, without a panic and without an effect.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::kinds::noise;
use crate::common::node::{Pair, Side};
use crate::common::steps::{feed, idle, start, wait_equal};
use crate::common::tree;
use crate::options;

fn serve(pair: &Pair, input: &[u8]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_syncd"));
    command
        .arg("serve")
        .arg("--config")
        .arg(pair.config())
        .args(["--node", "osm2"]);
    feed(command, input)
}

#[test]
fn garbage_on_the_stream_has_no_effect() {
    let mut pair = idle(options!());
    let b = pair.root(Side::B, "data");
    fs::write(b.join("f"), "stays").expect("a file");
    // The private directory is made by whoever opens the root first.
    serve(&pair, b"");
    let before = tree::snapshot(&b).expect("B can be read");
    let mut four_gib = u32::MAX.to_be_bytes().to_vec();
    four_gib.extend(noise(4096, 7));
    let mut truncated = 300u32.to_be_bytes().to_vec();
    truncated.extend([0; 20]);
    let mut wrong_tag = 40u32.to_be_bytes().to_vec();
    wrong_tag.extend([0xee; 40]);
    let zeros = vec![0u8; 64];
    let mut deep = 60u32.to_be_bytes().to_vec();
    deep.extend([0xff; 60]);
    let cases: [(&str, Vec<u8>); 8] = [
        ("nothing", Vec::new()),
        ("random bytes", noise(100_000, 5)),
        ("a frame of 4 GiB", four_gib),
        ("a truncated hello", truncated),
        ("an unknown message", wrong_tag),
        ("empty frames", zeros),
        ("lengths beyond the frame", deep),
        (
            "a shell's greeting",
            b"Last login: Mon Jan 1 00:00:00\nmotd\n".to_vec(),
        ),
    ];
    for (name, bytes) in cases {
        let began = Instant::now();
        let (code, said) = serve(&pair, &bytes);
        assert!(!said.contains("panicked"), "{name}: {said}");
        assert!(code >= 0, "{name}: ended by a signal: {said}");
        assert!(!said.trim().is_empty(), "{name}: it ended without a word");
        assert!(
            began.elapsed() < Duration::from_secs(15),
            "{name}: {:?}",
            began.elapsed()
        );
        let after = tree::snapshot(&b).expect("B can be read");
        assert!(tree::diff(&before, &after).is_empty(), "{name}: B changed");
    }
    // The node is as good as before.
    fs::write(pair.root(Side::A, "data").join("g"), "works").expect("a file");
    start(&mut pair, Side::A);
    wait_equal(&pair, "data");
}

#[test]
fn garbage_from_the_peer_is_said_and_survived() {
    let mut pair = idle(options!());
    let wrapper = pair.dir().join("serve-b.sh");
    let script = fs::read_to_string(&wrapper).expect("the wrapper");
    fs::write(&wrapper, "#!/bin/sh\nhead -c 100000 /dev/urandom\nexit 0\n").expect("the wrapper");
    fs::write(pair.root(Side::A, "data").join("f"), "unharmed").expect("a file");
    start(&mut pair, Side::A);
    pair.wait_status(Duration::from_secs(40), "unreachable", |s| {
        s["peer"]["state"] == "unreachable"
            && s["peer"]["reason"]
                .as_str()
                .unwrap_or("")
                .contains("the peer")
    })
    .expect("the reason");
    assert!(pair.ended(Side::A).is_none());
    fs::write(&wrapper, script).expect("the wrapper");
    wait_equal(&pair, "data");
}
