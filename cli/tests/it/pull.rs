//! `models pull` against a hub on this machine: what it downloads, resumes, checks and refuses.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::hub::{COMMIT, Faults, Hub, REPO, hash_of};
use crate::support::{Done, MISSING, RUNNING, USAGE, command, has_runtime, names, packs};

/// A cache of its own and the server that it is filled from.
struct Place {
    home: tempfile::TempDir,
    hub: Hub,
}

const SECRET: &str = "hf_SecretOfTheTest";
const UNET: &str = "unet/model.onnx";

impl Place {
    fn new(faults: Faults) -> Self {
        Self::of(Hub::of(&packs().join("tiny-sd15"), faults))
    }

    fn of(hub: Hub) -> Self {
        Self { home: tempfile::tempdir().unwrap(), hub }
    }

    fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = command(args);
        command.env("HF_HOME", self.home.path()).env("HF_ENDPOINT", &self.hub.address);
        command
    }

    fn run(&self, args: &[&str]) -> Done {
        self.command(args).output().unwrap().into()
    }

    /// Pulls the repository; one retry, as pauses add up.
    fn pull(&self, args: &[&str]) -> Done {
        self.run(&[&["models", "pull", REPO, "--retries", "1"], args].concat())
    }

    #[track_caller]
    fn pulls(&self, args: &[&str]) -> String {
        let done = self.pull(args);
        assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{}", done.stdout);
        done.stdout
    }

    fn repo(&self) -> PathBuf {
        self.home.path().join("hub/models--maker--tiny")
    }

    fn blob(&self, name: &str) -> PathBuf {
        self.repo().join("blobs").join(hash_of(name, &self.hub.file(name)))
    }

    fn incomplete(&self, name: &str) -> PathBuf {
        let blob = self.blob(name);
        blob.with_file_name(format!("{}.incomplete", blob.file_name().unwrap().display()))
    }

    /// Asserts that no snapshot has a name yet: what was not pulled to its end is not there.
    #[track_caller]
    fn has_nothing_to_use(&self) {
        assert!(!self.repo().join("refs").exists() && !self.repo().join("snapshots").exists());
        self.run(&["models", "inspect", REPO]).refused(MISSING, &[REPO, "hint:livediffusion models pull maker/tiny"]);
    }
}

#[test]
fn a_pack_comes_into_the_standard_cache() {
    let place = Place::new(Faults::default());
    let said = place.pulls(&[]);
    assert!(said.contains("other (tiny-community, https://example.org/licence)"), "{said}");
    assert_eq!(std::fs::read_to_string(place.repo().join("refs/main")).unwrap(), COMMIT);
    let snapshot = place.repo().join("snapshots").join(COMMIT);
    let asked = place.hub.asked_for_files();
    for asked in &asked {
        let name = asked.path.rsplit(COMMIT).next().unwrap().trim_start_matches('/').to_owned();
        let content = place.hub.file(&name);
        assert!(std::fs::read(place.blob(&name)).unwrap() == content, "{name}");
        assert!(std::fs::read(snapshot.join(&name)).unwrap() == content, "{name}");
    }
    assert!(snapshot.join("README.md").is_file());
    assert!(snapshot.join("model_index.json").symlink_metadata().unwrap().is_symlink());
    // ONNX Runtime refuses weights behind symbolic links.
    assert!(!snapshot.join(UNET).symlink_metadata().unwrap().is_symlink());
    assert!(asked.iter().any(|asked| asked.path.ends_with(UNET)));
    assert!(!asked.iter().any(|asked| asked.path.ends_with("safetensors")), "PyTorch's weights are of no use");
    let left = names(&place.repo().join("blobs"));
    assert!(left.iter().all(|name| [40, 64].contains(&name.len())), "{left:?}");
    let left = names(&snapshot.join("unet"));
    assert!(left.iter().all(|name| !name.starts_with('.')), "{left:?}");

    // A second call, and one by address, ask for the listing alone.
    assert!(place.pulls(&[]).contains("0 to download"));
    let address = format!("{}/{REPO}/tree/main", place.hub.address);
    assert_eq!(place.run(&["models", "pull", &address]).code, Some(0));
    assert_eq!((place.hub.asked().len(), names(&snapshot.join("unet"))), (2, left));

    // Other tools make links of everything; a pull puts that right, and downloads nothing.
    std::fs::remove_file(snapshot.join(UNET)).unwrap();
    std::os::unix::fs::symlink(place.blob(UNET), snapshot.join(UNET)).unwrap();
    place.pulls(&[]);
    assert!(!snapshot.join(UNET).symlink_metadata().unwrap().is_symlink());
    assert!(place.hub.asked_for_files().is_empty());
    place.pulls(&["--force"]);
    assert!(place.hub.asked_for_files().len() >= asked.len() - 1, "--force downloads again");
}

#[test]
fn what_was_pulled_is_found_by_name() {
    let place = Place::new(Faults::default());
    place.pulls(&[]);
    let list = place.run(&["models", "list", "--json"]).json();
    assert!(list["models"].as_array().unwrap().iter().any(|model| model["name"] == REPO), "{list}");
    assert_eq!(place.run(&["models", "inspect", REPO]).code, Some(0));
    if has_runtime() {
        let run = [
            "run",
            "--model",
            REPO,
            "--input",
            "test://ball",
            "--output",
            "fakesink",
            "--frames",
            "2",
            "--size",
            "64x64",
            "--json",
        ];
        assert_eq!(place.run(&run).json()["frames_out"], 2);
    }
}

#[test]
fn a_branch_is_pulled_under_its_name() {
    let place = Place::new(Faults::default());
    place.pulls(&["--revision", "refs/pr/1"]);
    assert!(place.hub.asked()[0].path.contains("/revision/refs%2Fpr%2F1?"));
    assert_eq!(std::fs::read_to_string(place.repo().join("refs/refs/pr/1")).unwrap(), COMMIT);
    // The only one there is needs no name.
    assert_eq!(place.run(&["models", "inspect", REPO]).code, Some(0));
    place.run(&["models", "pull", REPO, "--revision", "../../x"]).refused(USAGE, &["../../x", "hint:branch"]);
}

#[test]
fn a_cut_connection_is_resumed() {
    let place = Place::new(Faults { cut: Some((UNET, 70_000, 1)), ..Faults::default() });
    place.pulls(&[]);
    let ranges: Vec<_> = place
        .hub
        .asked_for_files()
        .into_iter()
        .filter(|asked| asked.path.ends_with(UNET))
        .map(|asked| asked.range)
        .collect();
    assert_eq!(ranges, [None, Some("bytes=70000-".to_owned())]);
    assert!(std::fs::read(place.blob(UNET)).unwrap() == place.hub.file(UNET));
}

#[test]
fn connections_that_bring_much_are_not_counted() {
    // 1.6 MB in pieces of 600 kB: the second cut comes after more than 1 MiB, and one retry is all there is.
    let place = Place::new(Faults { cut: Some((UNET, 600_000, 2)), ..Faults::default() });
    place.pulls(&[]);
    let asked = place.hub.asked_for_files();
    let ranges = asked.iter().filter(|asked| asked.path.ends_with(UNET)).map(|asked| asked.range.as_deref());
    assert_eq!(ranges.collect::<Vec<_>>(), [None, Some("bytes=600000-"), Some("bytes=1200000-")]);
}

#[test]
fn the_next_call_resumes_too() {
    let place = Place::new(Faults { cut: Some((UNET, 10_000, 9)), ..Faults::default() });
    let done = place.pull(&[]);
    done.refused_after_output(RUNNING, &[UNET, "cut", "hint:goes on where it stopped"]);
    assert_eq!(std::fs::read(place.incomplete(UNET)).unwrap(), place.hub.file(UNET)[..20_000]);
    place.has_nothing_to_use();
    place.hub.behave(Faults::default());
    place.hub.asked();
    place.pulls(&[]);
    let asked = place.hub.asked_for_files();
    let unet = asked.iter().find(|asked| asked.path.ends_with(UNET)).unwrap();
    assert_eq!(unet.range.as_deref(), Some("bytes=20000-"));
    assert!(std::fs::read(place.blob(UNET)).unwrap() == place.hub.file(UNET));
}

#[test]
fn a_server_without_ranges_begins_anew() {
    let place = Place::new(Faults { cut: Some((UNET, 10_000, 1)), knows_no_ranges: true, ..Faults::default() });
    place.pulls(&[]);
    assert!(std::fs::read(place.blob(UNET)).unwrap() == place.hub.file(UNET));
}

#[test]
fn a_busy_server_is_asked_again() {
    let place = Place::new(Faults { busy: 1, ..Faults::default() });
    place.pulls(&[]);
    place.hub.behave(Faults { busy: 99, ..Faults::default() });
    place.pull(&[]).refused(RUNNING, &["503", "hint:run the command again"]);
}

#[test]
fn damaged_files_are_removed() {
    for name in [UNET, "model_index.json"] {
        let place = Place::new(Faults { damaged: Some(name), ..Faults::default() });
        place.pull(&[]).refused_after_output(RUNNING, &[name, "hash", "hint:run the command again"]);
        assert!(!place.blob(name).exists() && !place.incomplete(name).exists());
        place.has_nothing_to_use();
        place.hub.behave(Faults::default());
        place.pulls(&[]);
    }
    // What lies there from before is checked with the rest.
    let place = Place::new(Faults::default());
    std::fs::create_dir_all(place.repo().join("blobs")).unwrap();
    std::fs::write(place.incomplete(UNET), [7; 100]).unwrap();
    place.pull(&[]).refused_after_output(RUNNING, &[UNET, "hash"]);
    place.pulls(&[]);
    // More than the whole file cannot be its beginning.
    std::fs::rename(place.blob(UNET), place.incomplete(UNET)).unwrap();
    std::fs::OpenOptions::new().write(true).open(place.incomplete(UNET)).unwrap().set_len(9_000_000).unwrap();
    place.pulls(&[]);
}

#[test]
fn refusals_say_what_to_do() {
    for (begin, status, word, code, named) in [
        ("/api", 401, "GatedRepo", MISSING, vec![REPO, "gated", "hint:HF_TOKEN", "hint:/maker/tiny"]),
        ("/api", 401, "RepoNotFound", MISSING, vec![REPO, "private", "hint:HF_TOKEN"]),
        ("/api", 403, "GatedRepo", MISSING, vec![REPO, "gated", "403"]),
        ("/api", 404, "RepoNotFound", USAGE, vec![REPO, "404"]),
        ("/api", 404, "RevisionNotFound", USAGE, vec![REPO, "no revision main"]),
        ("/api", 400, "", RUNNING, vec![REPO, "400"]),
    ] {
        let place = Place::new(Faults { refuses: Some((begin, status, word)), ..Faults::default() });
        place.pull(&[]).refused(code, &named);
        assert!(!place.repo().exists(), "a refused pull left something");
    }
    let place = Place::new(Faults { refuses: Some(("/maker", 403, "GatedRepo")), ..Faults::default() });
    place.pull(&[]).refused_after_output(MISSING, &[REPO, "gated"]);
    let done: Done = place.command(&["models", "pull", REPO]).env("HF_TOKEN", SECRET).output().unwrap().into();
    done.refused_after_output(MISSING, &["your token", "hint:ask for access"]);
}

#[test]
fn repositories_that_are_no_packs() {
    for (files, missing) in [
        (vec!["model_index.json", "unet/diffusion_pytorch_model.safetensors"], "ONNX files"),
        (vec!["unet/model.onnx"], "model_index.json"),
        (vec!["model_index.json", "unet/model.onnx", "text_encoder/model.onnx"], "vae_decoder/model.onnx"),
        (vec!["model_index.json", "unet/a.onnx", "unet/b.onnx"], "unet/model.onnx"),
    ] {
        let files: BTreeMap<_, _> = files.into_iter().map(|name| (name.to_owned(), b"{}".to_vec())).collect();
        let place = Place::of(Hub::with(files, Faults::default()));
        place.pull(&[]).refused(USAGE, &[REPO, missing, "hint:optimum-cli export onnx --model maker/tiny"]);
        assert!(place.hub.asked_for_files().is_empty() && !place.repo().exists());
    }
}

#[test]
fn the_token_goes_to_the_endpoint_alone() {
    let elsewhere = Hub::of(&packs().join("tiny-sd15"), Faults::default());
    let place = Place::new(Faults { elsewhere: Some(elsewhere.address.clone()), ..Faults::default() });
    std::fs::write(place.home.path().join("token"), format!("{SECRET}\n")).unwrap();
    let output = place.command(&["-vv", "models", "pull", REPO]).env("RUST_LOG", "trace").output().unwrap();
    let done = Done::from(output);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(!done.stdout.contains(SECRET) && !done.stderr.contains(SECRET), "the token was printed");
    let asked = place.hub.asked();
    assert!(asked.len() > 5 && asked.iter().all(|asked| asked.authorization == Some(format!("Bearer {SECRET}"))));
    let asked = elsewhere.asked();
    assert!(asked.len() > 5 && asked.iter().all(|asked| asked.authorization.is_none()), "{asked:?}");
}

#[test]
fn redirects_without_end_are_left() {
    let place = Place::new(Faults::default());
    place.hub.behave(Faults { elsewhere: Some(place.hub.address.clone()), ..Faults::default() });
    place.pull(&[]).refused_after_output(RUNNING, &["redirects without end"]);
}

#[test]
fn offline_asks_nobody() {
    let place = Place::new(Faults::default());
    place.pull(&["--offline"]).refused(MISSING, &[REPO, "not in the cache", "hint:without --offline"]);
    let offline = |place: &Place| {
        Done::from(place.command(&["models", "pull", REPO]).env("HF_HUB_OFFLINE", "1").output().unwrap())
    };
    offline(&place).refused(MISSING, &["not in the cache"]);
    assert!(place.hub.asked().is_empty());
    place.pulls(&[]);
    place.hub.asked();
    assert_eq!(offline(&place).code, Some(0));
    place.pulls(&["--offline"]);
    place.pull(&["--offline", "--revision", "v2"]).refused(MISSING, &["v2"]);
    assert!(place.hub.asked().is_empty());
}

#[test]
fn a_disk_that_is_too_small_is_not_begun_to_fill() {
    let place = Place::new(Faults { announced: Some((UNET, u64::MAX / 2)), ..Faults::default() });
    place.pull(&[]).refused_after_output(RUNNING, &["too full", "hint:HF_HOME"]);
    assert!(place.hub.asked_for_files().is_empty() && !place.repo().exists());
}

#[test]
fn two_downloads_of_one_file_keep_apart() {
    let place = Place::new(Faults::default());
    let locks = place.home.path().join("hub/.locks/models--maker--tiny");
    std::fs::create_dir_all(&locks).unwrap();
    let name = format!("{}.lock", hash_of(UNET, &place.hub.file(UNET)));
    let lock = std::fs::File::create(locks.join(name)).unwrap();
    lock.lock().unwrap();
    place.pull(&[]).refused_after_output(RUNNING, &[UNET, "another program", "hint:wait"]);
    drop(lock);
    place.pulls(&[]);
}

#[test]
fn folders_that_cannot_be_written() {
    let place = Place::new(Faults::default());
    std::fs::write(place.home.path().join("hub"), "no folder").unwrap();
    place.pull(&[]).refused_after_output(RUNNING, &["hub", "hint:HF_HOME"]);
}

#[test]
fn nobody_there() {
    let place = Place::new(Faults::default());
    let with = |endpoint: &str, token: &str| -> Done {
        let mut command = place.command(&["models", "pull", REPO, "--retries", "0"]);
        command.env("HF_ENDPOINT", endpoint).env("HF_TOKEN", token).output().unwrap().into()
    };
    // Port 1 of this machine: nothing listens there.
    with("http://127.0.0.1:1", "").refused(RUNNING, &[REPO, "127.0.0.1", "hint:connection"]);
    with("ftp://example.org", "").refused(USAGE, &["HF_ENDPOINT"]);
    with("http://user:secret@127.0.0.1", "").refused(USAGE, &["HF_ENDPOINT"]);
    let done = with(&place.hub.address, "two\nlines");
    done.refused(USAGE, &["token", "hint:HF_TOKEN"]);
    assert!(!done.stderr.contains("lines\"") && place.hub.asked().is_empty());
    // A server that is no hub.
    let other = Hub::with(BTreeMap::new(), Faults { refuses: Some(("/api", 200, "")), ..Faults::default() });
    with(&other.address, "").refused(RUNNING, &["does not answer as a hub", "hint:HF_ENDPOINT"]);
}

#[test]
fn names_that_mean_nothing() {
    let place = Place::new(Faults::default());
    for name in ["nosuch", "a/b/c", "../x", "a/..", "https://example.org/a/b"] {
        place.run(&["models", "pull", name]).refused(USAGE, &[name, "hint:"]);
    }
    for name in ["sdxs", "taesd"] {
        place.run(&["models", "pull", name]).refused(USAGE, &[name, "hint:optimum-cli"]);
        place.run(&["models", "inspect", name]).refused(USAGE, &[name, "hint:optimum-cli"]);
    }
    place
        .run(&["models", "inspect", "sd-turbo"])
        .refused(MISSING, &["sd-turbo", "hint:livediffusion models pull sd-turbo"]);
    assert!(place.hub.asked().is_empty() && names(place.home.path()).is_empty());
}

#[test]
fn a_store_that_refuses_is_asked_again_through_the_hub() {
    let store = Hub::of(&packs().join("tiny-sd15"), Faults { refuses: Some(("/maker", 403, "")), ..Faults::default() });
    let place = Place::new(Faults { elsewhere: Some(store.address.clone()), ..Faults::default() });
    place.pull(&[]).refused_after_output(RUNNING, &["403", "hint:run the command again"]);
    assert_eq!((store.asked().len(), place.hub.asked_for_files().len()), (2, 2));
}

/// A path that a repository gives must not lead out of its folder.
#[test]
fn a_hostile_listing_writes_nothing_outside() {
    let evil = ["../evil.json", "unet/../../../evil.json", "/evil.json", "unet/..", "tokenizer/a/b.json"];
    let mut files: BTreeMap<String, Vec<u8>> = evil.iter().map(|name| ((*name).to_owned(), b"{}".to_vec())).collect();
    for name in [
        "model_index.json",
        "unet/model.onnx",
        "vae_decoder/model.onnx",
        "text_encoder/model.onnx",
        "tokenizer/vocab.json",
    ] {
        files.insert(name.to_owned(), name.as_bytes().to_vec());
    }
    let place = Place::of(Hub::with(files, Faults::default()));
    place.pull(&[]).refused_after_output(USAGE, &[]);
    let asked = place.hub.asked_for_files();
    assert_eq!(asked.len(), 5, "{asked:?}");
    assert_eq!(names(Path::new(place.home.path())), ["hub"]);
    assert_eq!(names(&place.home.path().join("hub")), [".locks", "models--maker--tiny"]);
}
