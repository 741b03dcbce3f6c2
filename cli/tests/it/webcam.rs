//! `livediffusion webcam` as a process: what it refuses, and the page in a browser.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::{USAGE, command, has_runtime, project, run};

/// The exit code by which the page's test says that it was skipped.
const SKIPPED: i32 = 77;

#[test]
fn what_cannot_be_served_is_refused_with_a_hint() {
    if !has_runtime() {
        return;
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    // Of a named provider nothing is measured, which would be said.
    let webcam = |flags: &[&str]| run(["webcam", "--provider", "cpu"].iter().chain(flags));
    webcam(&["--bind", &address]).refused(USAGE, &[&address, "hint:--bind"]);
    webcam(&["--bind", "nonsense"]).refused(USAGE, &["nonsense"]);
    webcam(&["--token", "short"]).refused(USAGE, &["8 to 256"]);
    webcam(&["--stun-server", "example.org"]).refused(USAGE, &["stun://host:3478"]);
    webcam(&["--max-sessions", "0"]).refused(USAGE, &["1..=64"]);
    webcam(&["--max-size", "128"]).refused(USAGE, &["256x256", "hint:256"]);
    webcam(&["--max-size", "9000"]).refused(USAGE, &["8..=8192"]);
    webcam(&["--tls-cert", "/nosuch.pem"]).refused(USAGE, &["--tls-key"]);
    let tls = ["--bind", "127.0.0.1:0", "--tls-cert", "/nosuch.pem", "--tls-key", "/nosuch.key"];
    webcam(&tls).refused(USAGE, &["/nosuch.pem", "hint:PEM"]);
    webcam(&["--t-index", "5,200"]).refused(USAGE, &["200"]);
}

#[test]
fn beyond_this_machine_a_token_is_made_printed_once_and_needed() {
    if !has_runtime() {
        return;
    }
    let mut server = command(["webcam", "--bind", "0.0.0.0:0", "-vv"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let (address, token) = line.trim().split_once("/?token=").unwrap();
    // 0.0.0.0 is no address to go to: this machine's own are told, its loopback first.
    assert!(token.len() == 32 && address.starts_with("http://127.0.0.1:"), "{line}");
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_mins(1)))
        .proxy(None)
        .build()
        .into();
    let status = |path: &str| agent.get(format!("{address}{path}")).call().unwrap().status().as_u16();
    assert_eq!(status("/api/v1/stats"), 401);
    assert_eq!(status(&format!("/api/v1/stats?token={token}")), 200);
    server.kill().unwrap();
    let mut log = String::new();
    server.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    server.wait().unwrap();
    assert!(!log.contains(token), "the token is in the log");
}

/// The page in Chromium, with a clip for a camera; screenshots land in out/web.
#[test]
fn the_page_does_what_people_expect_of_it() {
    in_the_browser("page.test.mjs");
}

/// Chromium publishes its fake camera by WHIP and plays what comes back by WHEP.
#[test]
fn a_browser_publishes_and_plays_over_webrtc() {
    if let Some(element) = livediffusion_io::webrtc_missing() {
        let package = livediffusion_io::package_of(element).unwrap_or("?");
        println!("skipped: no element {element} (apt install {package})");
        return;
    }
    in_the_browser("webrtc.test.mjs");
}

fn in_the_browser(test: &str) {
    if !has_runtime() {
        return;
    }
    let node = Command::new("node")
        .arg(project().join("web/tests/browser").join(test))
        .arg(env!("CARGO_BIN_EXE_livediffusion"))
        .arg(project().canonicalize().unwrap())
        .arg(project().join("out/web"))
        .output();
    let output = match node {
        Ok(output) => output,
        Err(error) => {
            println!("skipped: node: {error}");
            return;
        }
    };
    println!("{}", String::from_utf8_lossy(&output.stdout));
    if output.status.code() != Some(SKIPPED) {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
