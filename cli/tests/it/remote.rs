//! `livediffusion unet-server` as a process, and streams whose U-Net it runs.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::{Done, MISSING, USAGE, command, has_runtime, names, packs, run};

/// What every stream of these tests is of.
fn stream(flags: &[&str], output: &Path) -> Command {
    let pack = packs().join("tiny-sd15");
    let mut command = command(["run", "--provider", "cpu", "--precision", "f32", "--lanes", "1", "--model"]);
    command.arg(pack).args(flags).arg("--output").arg(output).args([
        "--json",
        "--prompt",
        "a fox",
        "--t-index",
        "20,32,45",
    ]);
    command
}

struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(flags: &[&str]) -> Self {
        Self::start_on("127.0.0.1:0", flags)
    }

    fn start_on(bind: &str, flags: &[&str]) -> Self {
        let mut child = command(["unet-server", "--provider", "cpu", "--precision", "f32", "--bind", bind, "--model"])
            .arg(packs().join("tiny-sd15"))
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, address: line.trim().to_owned() }
    }

    fn interrupt(&mut self) -> (Option<i32>, String) {
        signal(&self.child);
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (self.child.wait().unwrap().code(), log)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Until a run has written something into its file.
fn wait_for_a_picture(folder: &Path) {
    let has_begun = || std::fs::read_dir(folder).unwrap().any(|file| file.unwrap().metadata().unwrap().len() > 0);
    for _ in 0..600 {
        if has_begun() {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(100));
    }
    panic!("no picture is written");
}

/// As Ctrl-C does.
fn signal(child: &Child) {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn pictures_are_those_of_the_network_here() {
    if !has_runtime() {
        return;
    }
    let mut server = Server::start(&["--token", "s3cret-of-ours", "-v"]);
    assert!(server.address.starts_with("grpc://s3cret-of-ours@127.0.0.1:"), "{}", server.address);
    let folder = tempfile::tempdir().unwrap();
    let (here, there) = (folder.path().join("here/"), folder.path().join("there/"));
    let input = ["--input", "test://ball", "--frames", "5", "--cfg", "full", "--guidance", "1.3"];
    let own = Done::from(stream(&input, &here).output().unwrap()).json();
    let given = server.address.clone();
    let with = [&input[..], &["--unet-server", &given, "-vv"]].concat();
    let done = Done::from(stream(&with, &there).output().unwrap());
    assert!(!done.stderr.contains("s3cret"), "{}", done.stderr);
    let json = done.json();
    assert_eq!((&own["provider"], &json["provider"]), (&"cpu".into(), &"cpu+remote".into()));
    assert_eq!((json["frames_out"].as_u64(), names(&here)), (Some(5), names(&there)));
    for name in names(&here) {
        assert!(std::fs::read(here.join(&name)).unwrap() == std::fs::read(there.join(&name)).unwrap(), "{name}");
    }
    let address = server.address.replace("s3cret-of-ours@", "");
    let mut doctor = command(["doctor", "--unet-server", &server.address, "--model"]);
    let doctor = Done::from(doctor.arg(packs().join("tiny-sd15")).output().unwrap());
    let line = doctor.stdout.lines().find(|line| line.contains("U-Net's servers")).unwrap();
    assert!(line.starts_with("ok") && line.contains(&address) && line.contains("livediffusion"), "{line}");
    // A client without the token.
    stream(&[&input[..], &["--unet-server", &address]].concat(), &there)
        .output()
        .map(Done::from)
        .unwrap()
        .refused(USAGE, &[&address, "hint:TOKEN@"]);
    let (code, log) = server.interrupt();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("s3cret") && log.contains("calls of clients"), "{log}");
    // Nobody is there any more.
    let gone = stream(&[&input[..], &["--unet-server", &address]].concat(), &there).output().map(Done::from).unwrap();
    gone.refused(MISSING, &[&address, "refused"]);
}

#[test]
fn ctrl_c_keeps_what_was_painted_whether_the_server_is_there_or_not() {
    if !has_runtime() {
        return;
    }
    for (input, is_there) in [("videotestsrc is-live=true", false), ("test://ball", false), ("test://ball", true)] {
        let mut server = Server::start(&[]);
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("painted.mkv");
        let flags = ["--input", input, "--unet-server", &server.address];
        let mut running = stream(&flags, &output).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(running.stderr.take().unwrap()).lines();
        wait_for_a_picture(folder.path());
        if !is_there {
            server.child.kill().unwrap();
            assert!(log.any(|line| line.unwrap().contains("is away")), "{input}: it is not missed");
        }
        signal(&running);
        let done = Done::from(running.wait_with_output().unwrap()).json();
        assert_eq!(done["stopped"], true, "{done}");
        // With the server the frames in flight are painted too.
        assert!(!is_there || done["frames_in"] == done["frames_out"], "{done}");
        assert_eq!(names(folder.path()), ["painted.mkv"]);
    }
}

#[test]
fn what_was_recorded_is_kept_where_the_network_fails_for_good() {
    if !has_runtime() {
        return;
    }
    let mut server = Server::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("painted.mkv");
    let flags = ["--input", "videotestsrc is-live=true", "--size", "128x128", "--unet-server", &server.address];
    let mut running = stream(&flags, &output).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(running.stderr.take().unwrap()).lines().map(Result::unwrap);
    wait_for_a_picture(folder.path());
    server.child.kill().unwrap();
    assert!(log.any(|line| line.contains("is away")), "it is not missed");
    // Another one takes no pictures of that size.
    let host = server.address.strip_prefix("grpc://").unwrap().strip_suffix("/unet").unwrap();
    let _other = Server::start_on(host, &["--max-size", "64"]);
    let last: Vec<String> = log.collect();
    let code = running.wait().unwrap().code();
    let error = last.iter().find(|line| line.starts_with("error: ")).unwrap();
    assert!(code == Some(1) && error.contains("refuses") && error.contains("kept"), "{code:?} {last:?}");
    assert_eq!(names(folder.path()), ["painted.mkv"]);
}

#[test]
fn a_page_on_a_server_ends_as_any_does() {
    if !has_runtime() {
        return;
    }
    let server = Server::start(&[]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let webcam = |bind: &str| {
        let mut page =
            command(["webcam", "--provider", "cpu", "--bind", bind, "--unet-server", &server.address, "--model"]);
        page.arg(packs().join("tiny-sd15")).stdout(Stdio::piped()).stderr(Stdio::piped());
        page
    };
    let address = taken.local_addr().unwrap().to_string();
    Done::from(webcam(&address).output().unwrap()).refused(USAGE, &[&address, "hint:--bind"]);
    let mut page = webcam("127.0.0.1:0").spawn().unwrap();
    let mut line = String::new();
    BufReader::new(page.stdout.take().unwrap()).read_line(&mut line).unwrap();
    signal(&page);
    let done = Done::from(page.wait_with_output().unwrap());
    assert!(done.code == Some(0) && !done.stderr.contains("panicked"), "{}", done.stderr);
}

#[test]
fn what_cannot_be_is_refused_with_a_hint() {
    let wrong = |flags: &[&str]| run(["run", "--input", "test://ball", "--output", "fakesink"].iter().chain(flags));
    wrong(&["--unet-server", "gpu"]).refused(USAGE, &["\"gpu\"", "hint:grpc://HOST:PORT/MODEL"]);
    let secret = wrong(&["--unet-server", "http://s3cret@gpu"]);
    secret.refused(USAGE, &["http://gpu"]);
    assert!(!secret.stderr.contains("s3cret"));
    let server = |flags: &[&str]| run(["unet-server", "--provider", "cpu"].iter().chain(flags));
    server(&["--unet-server", "grpc://gpu"]).refused(USAGE, &["pass calls on", "hint:--unet-server"]);
    server(&["--token", "short"]).refused(USAGE, &["8 to 256"]);
    server(&["--name", "a/b"]).refused(USAGE, &["letters"]);
    server(&["--tls-cert", "/nosuch.pem"]).refused(USAGE, &["--tls-key"]);
    if !has_runtime() {
        return;
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    server(&["--bind", &address]).refused(USAGE, &[&address, "hint:--bind"]);
    let tls = ["--bind", "127.0.0.1:0", "--tls-cert", "/nosuch.pem", "--tls-key", "/nosuch.key"];
    server(&tls).refused(USAGE, &["/nosuch.pem", "hint:PEM"]);
    let tls = ["--bind", "127.0.0.1:0", "--tls-cert", "Cargo.toml", "--tls-key", "Cargo.toml"];
    server(&tls).refused(USAGE, &["Cargo.toml", "hint:PEM"]);
}

/// A certificate authority, and a certificate of it for this machine with its key, as files.
fn certificates(folder: &Path) -> [String; 3] {
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let root = authority.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(authority, key);
    let own_key = rcgen::KeyPair::generate().unwrap();
    let own =
        rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&own_key, &issuer).unwrap();
    [("root.pem", root.pem()), ("own.pem", own.pem()), ("own.key", own_key.serialize_pem())].map(|(name, text)| {
        let file = folder.join(name);
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    })
}

#[test]
fn over_tls_the_server_shows_a_certificate_that_is_known_here() {
    if !has_runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let [root, own, key] = certificates(folder.path());
    let server = Server::start(&["--tls-cert", &own, "--tls-key", &key]);
    assert!(server.address.starts_with("grpcs://"), "{}", server.address);
    let flags = ["--input", "test://ball", "--frames", "2", "--unet-server", &server.address];
    let known =
        stream(&flags, Path::new("fakesink")).env("SSL_CERT_FILE", &root).output().map(Done::from).unwrap().json();
    assert_eq!(known["frames_out"], 2);
    let strange = tempfile::tempdir().unwrap();
    let [other, ..] = certificates(strange.path());
    let refused = stream(&flags, Path::new("fakesink")).env("SSL_CERT_FILE", &other).output().map(Done::from).unwrap();
    refused.refused(MISSING, &["certificate"]);
    // Without TLS nobody is understood.
    let plain = server.address.replace("grpcs", "grpc");
    let flags = ["--input", "test://ball", "--frames", "2", "--unet-server", &plain];
    stream(&flags, Path::new("fakesink")).output().map(Done::from).unwrap().refused(MISSING, &[&plain]);
}
