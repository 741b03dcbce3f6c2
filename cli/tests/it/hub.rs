//! A server that speaks the hub's API on this machine, and misbehaves where a test wants it to.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The repository that it has, and its commit.
pub(crate) const REPO: &str = "maker/tiny";
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) authorization: Option<String>,
}

/// What the server does other than its best.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// Sends only so many bytes of each answer about this file, this often.
    pub(crate) cut: Option<(&'static str, usize, u32)>,
    /// Changes a byte of this file.
    pub(crate) damaged: Option<&'static str>,
    /// Announces this size of this file.
    pub(crate) announced: Option<(&'static str, u64)>,
    /// Answers requests that begin so with this status and this word.
    pub(crate) refuses: Option<(&'static str, u16, &'static str)>,
    /// Redirects files to this server.
    pub(crate) elsewhere: Option<String>,
    /// Answers requests for a part with the whole.
    pub(crate) knows_no_ranges: bool,
    /// Is busy for so many requests.
    pub(crate) busy: u32,
}

struct State {
    files: BTreeMap<String, Vec<u8>>,
    faults: Faults,
    asked: Vec<Asked>,
}

/// The server; it ends with the test's process.
pub(crate) struct Hub {
    pub(crate) address: String,
    state: Arc<Mutex<State>>,
}

impl Hub {
    /// Serves the files of a folder.
    pub(crate) fn of(folder: &Path, faults: Faults) -> Self {
        let mut files = BTreeMap::new();
        read_all(folder, "", &mut files);
        // What a pack does not need.
        files.insert("unet/diffusion_pytorch_model.safetensors".into(), vec![0; 1000]);
        files.insert("README.md".into(), b"# A tiny model\n".to_vec());
        Self::with(files, faults)
    }

    pub(crate) fn with(files: BTreeMap<String, Vec<u8>>, faults: Faults) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State { files, faults, asked: Vec::new() }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // A client that goes away in the middle is part of the tests.
                let _ = answer(&stream.unwrap(), &shared);
            }
        });
        Self { address, state }
    }

    pub(crate) fn behave(&self, faults: Faults) {
        self.state.lock().unwrap().faults = faults;
    }

    /// What was asked since the last call.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }

    /// Those of them that were about files.
    pub(crate) fn asked_for_files(&self) -> Vec<Asked> {
        self.asked().into_iter().filter(|asked| asked.path.contains("/resolve/")).collect()
    }

    pub(crate) fn file(&self, path: &str) -> Vec<u8> {
        self.state.lock().unwrap().files[path].clone()
    }
}

fn read_all(folder: &Path, prefix: &str, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().into_string().unwrap());
        if entry.path().is_dir() {
            read_all(&entry.path(), &format!("{name}/"), files);
        } else {
            files.insert(name, std::fs::read(entry.path()).unwrap());
        }
    }
}

fn answer(stream: &TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let path = lines.next().and_then(|line| Some(line.split(' ').nth(1)?.to_owned())).unwrap_or_default();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned())))
        .collect();
    let header = |name: &str| headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    let (range, authorization) = (header("range"), header("authorization"));

    let mut state = state.lock().unwrap();
    state.asked.push(Asked { path: path.clone(), range: range.clone(), authorization });
    let mut stream = stream;
    let mut head = |status: u16, more: &str, length: usize| {
        write!(stream, "HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: {length}\r\n{more}\r\n")
    };
    if state.faults.busy > 0 {
        state.faults.busy -= 1;
        return head(503, "Retry-After: 0\r\n", 0);
    }
    if let Some((begin, status, word)) = state.faults.refuses.filter(|(begin, ..)| path.starts_with(begin)) {
        let _ = begin;
        return head(status, &format!("X-Error-Code: {word}\r\n"), 0);
    }
    if path.starts_with(&format!("/api/models/{REPO}/revision/")) {
        let text = listing(&state).to_string();
        head(200, "Content-Type: application/json\r\n", text.len())?;
        return stream.write_all(text.as_bytes());
    }
    let Some(name) = path.strip_prefix(&format!("/{REPO}/resolve/{COMMIT}/")) else {
        return head(404, "X-Error-Code: RepoNotFound\r\n", 0);
    };
    if let Some(elsewhere) = &state.faults.elsewhere {
        return head(302, &format!("Location: {elsewhere}{path}\r\n"), 0);
    }
    let Some(mut content) = state.files.get(name).cloned() else {
        return head(404, "X-Error-Code: EntryNotFound\r\n", 0);
    };
    if state.faults.damaged == Some(name) {
        content[0] ^= 1;
    }
    let from = range.as_deref().and_then(|text| text.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let from = from.filter(|_| !state.faults.knows_no_ranges);
    let part = &content[from.unwrap_or(0).min(content.len())..];
    let (status, range) = match from {
        Some(from) => (206, format!("Content-Range: bytes {from}-{}/{}\r\n", content.len() - 1, content.len())),
        None => (200, String::new()),
    };
    head(status, &range, part.len())?;
    let part = match &mut state.faults.cut {
        Some((cut, bytes, times)) if *cut == name && *times > 0 => {
            *times -= 1;
            &part[..part.len().min(*bytes)]
        }
        _ => part,
    };
    stream.write_all(part)
}

fn listing(state: &State) -> Value {
    let file = |(name, content): (&String, &Vec<u8>)| {
        let size = match state.faults.announced {
            Some((which, size)) if which == name => size,
            _ => content.len() as u64,
        };
        if is_large(name) {
            let hash = hash_of(name, content);
            json!({ "rfilename": name, "size": size, "blobId": "0".repeat(40), "lfs": { "sha256": hash, "size": size, "pointerSize": 134 } })
        } else {
            json!({ "rfilename": name, "size": size, "blobId": hash_of(name, content) })
        }
    };
    let files: Vec<Value> = state.files.iter().map(file).collect();
    let card =
        json!({ "license": "other", "license_name": "tiny-community", "license_link": "https://example.org/licence" });
    json!({ "id": REPO, "sha": COMMIT, "private": false, "gated": false, "cardData": card, "siblings": files })
}

/// Whether the hub keeps it as a large file.
pub(crate) fn is_large(name: &str) -> bool {
    [".onnx", ".safetensors"].iter().any(|end| name.ends_with(end))
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from_digit(digit.into(), 16).unwrap())
        .collect()
}

/// A file's name in `blobs/`.
pub(crate) fn hash_of(name: &str, content: &[u8]) -> String {
    if is_large(name) {
        hex(&Sha256::digest(content))
    } else {
        let blob = [format!("blob {}\0", content.len()).as_bytes(), content].concat();
        hex(&Sha1::digest(blob))
    }
}
