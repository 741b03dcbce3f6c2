//! Keys in the terminal while a stream runs, through a terminal of its own that `script` makes.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use crate::support::{command, has_runtime, names, project};

/// A shell in a terminal that runs the binary on an endless picture and then shows whether its terminal is as before.
struct Session {
    child: Child,
    keys: ChildStdin,
    output: Receiver<String>,
    seen: String,
}

impl Session {
    /// Starts it in `folder`; `None` where there is no `script`.
    fn start(folder: &Path, before: &str, flags: &str) -> Option<Self> {
        if !has_runtime() {
            return None;
        }
        if Command::new("script").arg("--version").output().is_err() {
            println!("skipped: no `script` (apt install bsdutils)");
            return None;
        }
        let binary = env!("CARGO_BIN_EXE_livediffusion");
        let model = project().join("models/default");
        let line = format!(
            "trap : INT; stty -a > before; {before} {binary} run -v -i 'test://ball?live' --provider cpu --size 64x64 -m {} -o fakesink {flags}; \
             echo \"code $?\"; stty -a > after; cmp before after && echo 'terminal as before'",
            model.display()
        );
        // The environment of the other tests, the current folder not.
        let like = command([""; 0]);
        let mut script = Command::new("script");
        script.args(["-qec", &line, "/dev/null"]).current_dir(folder).env("SHELL", "/bin/sh").env("TERM", "xterm");
        for (name, value) in like.get_envs() {
            match value {
                Some(value) => script.env(name, value),
                None => script.env_remove(name),
            };
        }
        let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let keys = child.stdin.take().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let (sender, output) = sync_channel(1000);
        std::thread::spawn(move || {
            let mut block = [0; 4096];
            while let Ok(len) = stdout.read(&mut block) {
                if len == 0 || sender.send(String::from_utf8_lossy(&block[..len]).into_owned()).is_err() {
                    return;
                }
            }
        });
        let mut session = Self { child, keys, output, seen: String::new() };
        session.until("keys: ? lists them");
        Some(session)
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// Waits until `text` is shown, after what was waited for before.
    #[track_caller]
    fn until(&mut self, text: &str) {
        for _ in 0..300 {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            if let Ok(more) = self.output.recv_timeout(Duration::from_millis(100)) {
                self.seen.push_str(&more);
            }
        }
        panic!("no {text:?} in {:?}", self.seen);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Killing `script` would leave what runs in its terminal behind.
        let _ = self.keys.write_all(b"q\x03\x03");
        for _ in 0..100 {
            if self.child.try_wait().is_ok_and(|code| code.is_some()) {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn keys_act_and_the_terminal_is_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut session) = Session::start(folder.path(), "", "") else { return };
    for (key, answer) in [
        ("?", "space freeze"),
        (" ", "frozen"),
        (" ", "going on"),
        ("b", "showing the input"),
        ("b", "showing the painted picture"),
        ("s", "livediffusion-"),
        ("s", "livediffusion-"),
        ("]", "strength 0."),
        ("[", "strength 0."),
        ("2", "preset "),
    ] {
        session.press(key);
        session.until(answer);
    }
    // What the preset changed arrives from the thread that encodes prompts.
    session.until("prompt = ");
    session.press("s");
    session.until(".png");
    session.press("q");
    session.until("code 0");
    session.until("terminal as before");
    let pictures: Vec<_> = names(folder.path()).into_iter().filter(|name| name.starts_with("livediffusion-")).collect();
    assert_eq!(pictures.len(), 3, "{pictures:?}");
    let reader = |name: &str| {
        let file = std::fs::File::open(folder.path().join(name)).unwrap();
        png::Decoder::new(std::io::BufReader::new(file)).read_info().unwrap()
    };
    let prompts: Vec<String> = pictures
        .iter()
        .map(|name| {
            let reader = reader(name);
            assert_eq!((reader.info().width, reader.info().height), (64, 64));
            let text = reader.info().utf8_text[0].get_text().unwrap();
            let values: serde_json::Value = serde_json::from_str(&text).unwrap();
            values["prompt"].as_str().unwrap().to_owned()
        })
        .collect();
    // Two of before the preset and one of after it; their names may not be in that order within a second.
    assert_eq!(prompts.iter().filter(|prompt| prompt.is_empty()).count(), 2, "{prompts:?}");
}

#[test]
fn ctrl_c_and_a_signal_give_the_terminal_back() {
    for (before, end) in [("", "\x03"), ("(sleep 3; kill -TERM $(cat pid)) & sh -c 'echo $$ > pid; exec \"$@\"' -", "")]
    {
        let folder = tempfile::tempdir().unwrap();
        let Some(mut session) = Session::start(folder.path(), before, "") else { return };
        session.press(end);
        session.until("code 0");
        session.until("terminal as before");
    }
}

#[test]
fn a_failure_gives_the_terminal_back() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut session) = Session::start(folder.path(), "", "-o 'identity error-after=20 ! fakesink' -o x.mp4")
    else {
        return;
    };
    session.until("the other outputs go on");
    session.press("q");
    session.until("code 1");
    session.until("terminal as before");
}
