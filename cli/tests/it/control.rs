//! Parameters that change while a stream runs: by OSC, and by the config file.

use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use rosc::{OscBundle, OscMessage, OscPacket, OscTime, OscType};

use crate::support::{USAGE, command, has_runtime, run};

/// A run on an endless live picture, and the lines that it logs.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    fn start(flags: &[&str]) -> Self {
        let fixed = ["run", "-v", "--provider", "cpu", "--size", "64x64", "-i", "test://ball?live", "-o", "fakesink"];
        let mut child =
            command(fixed.iter().chain(flags)).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = sync_channel(1000);
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok()));
        Self { child, lines }
    }

    /// Waits for a line with `text`, doing something now and then until it comes.
    #[track_caller]
    fn until(&self, text: &str, mut now_and_then: impl FnMut()) {
        let mut seen = Vec::new();
        for _ in 0..600 {
            match self.lines.recv_timeout(Duration::from_millis(100)) {
                Ok(line) if line.contains(text) => return,
                Ok(line) => seen.push(line),
                Err(_) => now_and_then(),
            }
        }
        panic!("no line with {text:?} among {seen:#?}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn message(address: &str, args: Vec<OscType>) -> OscPacket {
    OscPacket::Message(OscMessage { addr: address.into(), args })
}

#[test]
fn osc_changes_a_running_stream_and_nonsense_does_not_stop_it() {
    if !has_runtime() {
        return;
    }
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    // A port that is free now; whoever took it in between would make the test fail, not pass.
    let to = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let running = Running::start(&["--control", &format!("osc://{to}")]);
    running.until("listening on osc://", || {});
    let send = |packet: &OscPacket| drop(sender.send_to(&rosc::encoder::encode(packet).unwrap(), to));
    let again = |packet: OscPacket| move || send(&packet);

    running.until("that is no OSC", || drop(sender.send_to(b"nonsense", to)));
    running.until("guidance", again(message("/guidance", vec![OscType::Float(-3.0)])));
    running.until("cannot change while", again(message("/frame_buffer", vec![OscType::Int(2)])));
    running.until(r#"prompt = "a fox""#, again(message("/prompt", vec![OscType::String("a fox".into())])));
    running.until(r#"strength = "0.25""#, again(message("/livediffusion/strength", vec![OscType::Float(0.25)])));
    let content = vec![
        message("/t-index", vec![OscType::Int(20), OscType::Int(40)]),
        OscPacket::Bundle(OscBundle {
            timetag: OscTime { seconds: 0, fractional: 1 },
            content: vec![message("/cfg", vec![OscType::String("self".into())])],
        }),
    ];
    let bundle = OscPacket::Bundle(OscBundle { timetag: OscTime { seconds: 0, fractional: 1 }, content });
    running.until(r#"t-index = "20,40""#, again(bundle.clone()));
    running.until(r#"cfg = "self""#, again(bundle));
    let text = |text: &str| vec![OscType::String(text.into())];
    running.until("the networks work at 128x64", again(message("/size", text("128x64"))));
    running.until("the networks stay at 128x64", again(message("/size", text("100x100"))));
    running.until(r#"there is no preset "none""#, again(message("/preset", text("none"))));
    running.until(r#"prompt = "neon lights""#, again(message("/preset", text("neon-lights"))));
    running.until(r#"transition = "300ms""#, again(message("/transition", text("300ms"))));
    running.until(r#"seeds = "2:0.5+9:0.5""#, again(message("/seeds", text("2:0.5+9:0.5"))));
}

#[test]
fn a_changed_config_file_takes_effect_and_flags_still_win_over_it() {
    if !has_runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("look.toml");
    let write = |text: &str| {
        // As editors save: a new file in the place of the old one.
        let fresh = folder.path().join("look.toml.new");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(fresh, &file).unwrap();
    };
    write("prompt = \"a fox\"\nguidance = 1.1\n");
    let running = Running::start(&["--config", file.to_str().unwrap(), "--delta", "0.7"]);
    // The watch may begin after a change: a change is made again until it is seen.
    let mut number = 0;
    running.until(r#"prompt = "a cat"#, || {
        number += 1;
        write(&format!("prompt = \"a cat {number}\"\nguidance = 1.1\ndelta = 0.2\n"));
    });
    running.until("the old settings stay", || write("prompt = \"half"));
    running.until("cannot change while", || write("frame-buffer = 2\n"));
    running.until(r#"prompt = "a dog""#, || write("prompt = \"a dog\"\ndelta = 0.3\n"));
    running.until("model, threads: taken at the next start", || write("model = \"other\"\nthreads = 1\n"));
    running.until(r#"guidance = "1.3"#, || write("guidance = 1.3\n"));
    running.until(r#"prompt = "neon lights""#, || write("preset = \"neon-lights\"\nguidance = 1.3\n"));
    assert!(running.lines.try_iter().all(|line| !line.contains("delta =")), "a flag lost to the file");
}

/// What the command line said wins while it runs as it does at the start, and nothing else does.
#[test]
fn a_config_file_that_begins_with_a_preset_may_change_it() {
    if !has_runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("look.toml");
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    write("preset = \"oil-painting\"\nthreads = 1\n");
    let running = Running::start(&["--config", file.to_str().unwrap(), "--threads", "2"]);
    let mut number = 0;
    running.until(r#"prompt = "neon lights""#, || {
        number += 1;
        // It may have been read after the first change.
        write(&format!("preset = \"{}\"\n", ["oil-painting", "neon-lights"][number % 2]));
    });
    // A flag stands in the place of the number of threads, whatever the file says.
    running.until("lanes: taken at the next start", || {
        number += 1;
        write(&format!("preset = \"neon-lights\"\nseed = {number}\nthreads = 3\nlanes = 2\n"));
    });
}

#[test]
fn only_this_machine_may_send() {
    for address in ["osc://0.0.0.0:9000", "osc://10.0.0.1:9000", "http://127.0.0.1:9000", "osc://127.0.0.1:99999"] {
        run(["run", "-i", "test://ball", "-o", "fakesink", "--control", address]).refused(USAGE, &["--control"]);
    }
}
