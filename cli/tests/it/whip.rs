//! `run` and `webcam` with each other, over WebRTC.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use livediffusion_io::{Input, Next, SourceOptions, VideoSource, package_of, webrtc_missing};
use livediffusion_pipeline::frame::Size;
use serde_json::Value;

use crate::support::{Done, RUNNING, command, has_runtime, run};

/// A server that is killed when the test is done with it.
struct Server {
    child: Child,
    host: String,
}

impl Server {
    fn start(bind: &str) -> Self {
        let flags = ["webcam", "--bind", bind, "--provider", "cpu", "--size", "64x64", "--max-sessions", "1"];
        let mut child = command(flags).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let host = line.trim().strip_prefix("http://").unwrap().trim_end_matches('/').to_owned();
        Self { child, host }
    }

    fn sessions(&self) -> Value {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().timeout_global(Some(Duration::from_mins(1))).proxy(None).build().into();
        let mut answer = agent.get(format!("http://{}/api/v1/sessions", self.host)).call().unwrap();
        serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap()
    }

    fn until(&self, what: &str, is_right: impl Fn(&Value) -> bool) {
        for _ in 0..600 {
            if is_right(&self.sessions()) {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(100));
        }
        panic!("{what}: {}", self.sessions());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_run_publishes_to_our_own_server_comes_back_to_it_and_hangs_up() {
    if !has_runtime() {
        return;
    }
    if let Some(element) = webrtc_missing() {
        println!("skipped: no element {element} (apt install {})", package_of(element).unwrap_or("?"));
        return;
    }
    let server = Server::start("127.0.0.1:0");
    let output = format!("whip://{}/whip?prompt=oil%20painting", server.host);
    let flags =
        ["run", "-i", "test://ball?live&fps=15&size=64x64", "--provider", "cpu", "--size", "64x64", "--retry", "0.5"];
    let child = command(flags).args(["-o", &output]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let is_painted = |sessions: &Value| sessions[0]["frames_out"].as_u64() > Some(5);
    server.until("painted pictures", is_painted);
    assert_eq!(server.sessions()[0]["source"], "whip");
    let input = Input::parse(&format!("whep://{}/whep", server.host)).unwrap();
    let mut source = VideoSource::open(&input, &SourceOptions::new(Size::new(64, 64))).unwrap();
    for _ in 0..10 {
        let Next::Frame(frame) = source.next(Duration::from_mins(1)).unwrap() else { panic!("no picture") };
        let (least, most) = frame
            .with_picture(|picture| (*picture.rgb.iter().min().unwrap(), *picture.rgb.iter().max().unwrap()))
            .unwrap();
        assert!(most > least + 20, "a flat picture: {least} to {most}");
    }
    drop(source);
    // The server is killed, and another one comes in its place.
    let host = server.host.clone();
    drop(server);
    let server = Server::start(&host);
    server.until("painted pictures again", is_painted);
    // Ctrl-C ends the run, and the run its session.
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let done = Done::from(child.wait_with_output().unwrap());
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    server.until("no session", |sessions| sessions == &Value::Array(Vec::new()));
}

#[test]
fn a_whip_output_is_printed_and_one_that_nobody_answers_is_an_error() {
    if !has_runtime() {
        return;
    }
    let whip = "whips://key@example.org/live";
    let printed = run(["run", "-i", "wheps://example.org/cam", "-o", whip, "--print-pipeline"]);
    assert_eq!(printed.code, Some(0), "{}", printed.stderr);
    for part in [
        r#"whepsrc 'whep-endpoint="https://example.org/cam"' !"#,
        r#"whipsink 'whip-endpoint="https://example.org/live"' 'auth-token="key"'"#,
        "rtph264pay",
    ] {
        assert!(printed.stdout.contains(part), "{part}: {}", printed.stdout);
    }
    if webrtc_missing().is_none() {
        let flags = ["run", "-i", "test://?live", "--provider", "cpu", "-o", "whip://127.0.0.1:9/whip"];
        run(flags).refused(RUNNING, &["whip://127.0.0.1:9/whip", "hint:check the address"]);
    }
}
