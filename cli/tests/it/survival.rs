//! A run whose input goes away and comes back, against a real RTSP server on this machine.

#[path = "../../../io/tests/it/peers.rs"]
#[allow(dead_code, reason = "shared with the tests of io, which use all of it")]
mod peers;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use livediffusion_io::{Input, Next, SourceOptions, VideoSource};
use livediffusion_pipeline::frame::Size;

use self::peers::RtspServer;
use crate::support::{Done, command, has_runtime};

struct Running {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Running {
    fn start(input: &str, output: &Path) -> Self {
        let flags = ["--provider", "cpu", "--size", "64x64", "--retry", "0.5", "--json", "-o"];
        let mut child = command(["run", "-i", input].iter().chain(&flags))
            .arg(output)
            .args(["-o", "fakesink"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = sync_channel(1000);
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok()));
        Self { child, lines, seen: Vec::new() }
    }

    #[track_caller]
    fn until(&mut self, text: &str) {
        for _ in 0..600 {
            if let Ok(line) = self.lines.recv_timeout(Duration::from_millis(100)) {
                self.seen.push(line);
                if self.seen.last().is_some_and(|line| line.contains(text)) {
                    return;
                }
            }
        }
        let _ = self.child.kill();
        panic!("no line with {text:?} among {:#?}", self.seen);
    }

    /// Interrupts it as Ctrl-C does and gives what it says at its end.
    fn interrupt(self) -> Done {
        let sent = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        Done::from(self.child.wait_with_output().unwrap())
    }
}

fn read(path: &Path) -> Vec<u64> {
    let input = Input::parse(path.to_str().unwrap()).unwrap();
    let mut source = VideoSource::open(&input, &SourceOptions::new(Size::new(64, 64))).unwrap();
    let mut times = Vec::new();
    loop {
        match source.next(Duration::from_secs(30)).unwrap() {
            Next::Frame(frame) => times.push(frame.meta().pts_ns.unwrap()),
            Next::End => return times,
            Next::TimedOut => panic!("{} hangs", path.display()),
        }
    }
}

#[test]
fn a_server_that_goes_and_comes_back_costs_neither_the_run_nor_the_recording() {
    if !has_runtime() {
        return;
    }
    let Some(mut server) = RtspServer::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("record.mkv");
    let port = server.port;
    let mut running = Running::start(&server.url("test"), &file);
    // Once the recording has begun.
    while std::fs::read_dir(folder.path()).unwrap().next().is_none() {
        std::thread::park_timeout(Duration::from_millis(50));
    }
    std::thread::park_timeout(Duration::from_secs(2));
    server.kill();
    running.until("the last picture is shown until it is back");
    std::thread::park_timeout(Duration::from_secs(2));
    let server = RtspServer::start_on(port).unwrap();
    running.until("is back after");
    std::thread::park_timeout(Duration::from_secs(2));
    // Each change of state was told once.
    assert_eq!(running.seen.len(), 2, "{:#?}", running.seen);
    let done = running.interrupt();
    drop(server);
    assert_eq!(done.code, Some(0));
    let json: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!((&json["source_losses"], &json["stopped"]), (&1.into(), &true.into()), "{json}");
    let times = read(&file);
    // While the server was away the last picture was recorded again a few times a second.
    let longest = times.windows(2).map(|pair| pair[1].checked_sub(pair[0]).expect("times ascend")).max().unwrap();
    println!("{} frames in {:.1} s, {longest} ns apart at most", times.len(), times[times.len() - 1] as f64 / 1e9);
    assert!(times[times.len() - 1] > 3_000_000_000 && longest < 3_000_000_000, "{times:?}");
}

#[test]
fn ctrl_c_ends_a_run_that_waits_for_its_input() {
    if !has_runtime() {
        return;
    }
    let Some(mut server) = RtspServer::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("record.mkv");
    let mut running = Running::start(&server.url("test"), &file);
    while std::fs::read_dir(folder.path()).unwrap().next().is_none() {
        std::thread::park_timeout(Duration::from_millis(50));
    }
    std::thread::park_timeout(Duration::from_secs(1));
    server.kill();
    running.until("the last picture is shown until it is back");
    let done = running.interrupt();
    assert_eq!(done.code, Some(0));
    assert!(!read(&file).is_empty());
}
