//! Running the binary, and what a refusal has to look like.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;

/// Failed while running; usage; something missing: the exit codes.
pub(crate) const RUNNING: i32 = 1;
pub(crate) const USAGE: i32 = 2;
pub(crate) const MISSING: i32 = 3;

/// The project's folder, where the binary runs: the default pack and the bundled clip are found from there.
pub(crate) fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The golden packs.
pub(crate) fn packs() -> PathBuf {
    project().join("assets/goldens/models")
}

/// The binary with arguments, undisturbed by the environment.
pub(crate) fn command<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_livediffusion"));
    command.current_dir(project()).args(args).env_remove("RUST_LOG").env_remove("LIVEDIFFUSION_MODELS");
    command.env("LIVEDIFFUSION_CACHE", cache());
    // No models of the user's own, no token of theirs, no proxy between us and servers on this machine.
    command.env("HF_HOME", "/nosuch/huggingface");
    for name in
        ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_ENDPOINT"]
    {
        command.env_remove(name);
    }
    for name in ["HF_HUB_OFFLINE", "HF_HUB_DISABLE_IMPLICIT_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command
}

/// A cache for all tests and runs of them, so that providers are measured once for all: nothing of it goes into the user's
/// own, of which only the library is taken.
pub(crate) fn cache() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
        std::fs::create_dir_all(&cache).unwrap();
        link_libraries(&cache);
        cache
    })
}

/// Lets the library of the user's cache be found in another.
pub(crate) fn link_libraries(cache: &Path) {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let own = set("LIVEDIFFUSION_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|folder| folder.join("livediffusion")))
        .or_else(|| set("HOME").map(|folder| folder.join(".cache/livediffusion")));
    // Another process may have made it just now; where it is missing, tests that need it say that they are skipped.
    let _ = own.map(|own| std::os::unix::fs::symlink(own.join("ort"), cache.join("ort")));
}

/// What a command did.
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

/// Runs the binary to its end.
pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Done {
    command(args).output().unwrap().into()
}

impl Done {
    /// Asserts success and gives what was printed as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        assert!(!self.stderr.contains("error:") && !self.stderr.contains("panicked"), "{}", self.stderr);
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }

    /// Asserts a refusal: the exit code, one line of error that names the thing, one line of hint, and nothing else.
    #[track_caller]
    pub(crate) fn refused(&self, code: i32, names: &[&str]) {
        self.refused_after_output(code, names);
        assert!(self.stdout.is_empty(), "{}", self.stdout);
    }

    /// As `refused`, of a command that has printed results before.
    #[track_caller]
    pub(crate) fn refused_after_output(&self, code: i32, names: &[&str]) {
        let stderr = &self.stderr;
        println!("[{:?}] {}", self.code, stderr.trim_end());
        assert_eq!(self.code, Some(code), "{stderr}");
        let lines: Vec<&str> = stderr.lines().collect();
        let [error, hint] = lines.as_slice() else { panic!("not two lines: {stderr}") };
        let error = error.strip_prefix("error: ").unwrap_or_else(|| panic!("no error: {stderr}"));
        let hint = hint.strip_prefix("hint: ").unwrap_or_else(|| panic!("no hint: {stderr}"));
        assert!(!hint.is_empty() && !stderr.contains("panicked") && !error.contains("error:"), "{stderr}");
        for name in names {
            let (part, text) = name.strip_prefix("hint:").map_or((*name, error), |name| (name, hint));
            assert!(text.contains(part), "{part:?} is not named: {stderr}");
        }
    }
}

/// Whether the ONNX Runtime library is there; prints why a test is skipped if not.
pub(crate) fn has_runtime() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    let found = *FOUND.get_or_init(|| {
        let doctor = run(["doctor", "--json"]);
        let json: Value = serde_json::from_str(&doctor.stdout).unwrap();
        let checks = json["checks"].as_array().unwrap();
        checks.iter().any(|check| check["name"] == "ONNX Runtime" && check["verdict"] == "ok")
    });
    if !found {
        println!("skipped: doctor finds no ONNX Runtime library");
    }
    found
}

/// Names in a folder, hidden ones too, sorted.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Copies a golden pack so that a test can damage it.
pub(crate) fn copy_of(pack: &str) -> tempfile::TempDir {
    fn copy_all(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let (from, to) = {
                let entry = entry.unwrap();
                (entry.path(), to.join(entry.file_name()))
            };
            if from.is_dir() {
                copy_all(&from, &to);
            } else {
                std::fs::write(to, std::fs::read(from).unwrap()).unwrap();
            }
        }
    }
    let copy = tempfile::tempdir().unwrap();
    copy_all(&packs().join(pack), copy.path());
    copy
}
