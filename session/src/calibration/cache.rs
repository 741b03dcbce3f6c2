//! Where measurements are kept: one JSON file for each machine, library, pack and question.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use livediffusion_bench::machine;
use livediffusion_onnx::{Pack, Runtime, has_bf16};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::choice::{Candidate, Finding, Measured};

/// Grows with every change of what is measured or how it is written: older files are then measured anew.
const FORMAT: u32 = 1;

/// Files that are kept. Each is under 1 kB; nobody uses as many packs and settings on one machine.
const MOST_FILES: usize = 64;

/// The file of one measurement. It need not exist.
#[derive(Clone, Debug)]
pub(super) struct Entry(PathBuf);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: u32,
    candidates: Vec<Row>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    provider: String,
    precision: String,
    ms: Option<f64>,
    difference: Option<f64>,
    failed: Option<String>,
}

impl Row {
    fn of(measured: &Measured) -> Self {
        let Candidate { provider, precision } = measured.candidate;
        let (ms, difference, failed) = match &measured.finding {
            Finding::Ran { ms, difference } => (Some(*ms), *difference, None),
            Finding::Failed(reason) => (None, None, Some(reason.clone())),
        };
        Self { provider: provider.to_string(), precision: precision.to_string(), ms, difference, failed }
    }

    /// Whether it is what was found of `candidate`.
    fn finding(self, candidate: Candidate) -> Option<Measured> {
        let Self { provider, precision, ms, difference, failed } = self;
        let same = provider == candidate.provider.to_string() && precision == candidate.precision.to_string();
        let finding = match (ms, failed) {
            (Some(ms), None) if ms > 0.0 => Finding::Ran { ms, difference },
            (None, Some(reason)) => Finding::Failed(reason),
            _ => return None,
        };
        same.then_some(Measured { candidate, finding })
    }
}

impl Entry {
    /// The file in `folder` for that key.
    pub(super) fn new(folder: &Path, key: &str) -> Self {
        Self(folder.join(format!("{key}.json")))
    }

    /// What was measured of these candidates; `None` where nothing was, or the file is damaged or of another format.
    pub(super) fn read(&self, candidates: &[Candidate]) -> Option<Vec<Measured>> {
        let File { format, candidates: rows } = serde_json::from_str(&std::fs::read_to_string(&self.0).ok()?).ok()?;
        if format != FORMAT || rows.len() != candidates.len() {
            return None;
        }
        rows.into_iter().zip(candidates).map(|(row, candidate)| row.finding(*candidate)).collect()
    }

    /// Keeps a measurement, and forgets the oldest where there are too many. The file is whole at any moment.
    ///
    /// # Errors
    /// A folder that cannot be made or written.
    pub(super) fn write(&self, measured: &[Measured]) -> io::Result<()> {
        let Self(path) = self;
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        let file = File { format: FORMAT, candidates: measured.iter().map(Row::of).collect() };
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        std::fs::write(&temporary, serde_json::to_vec_pretty(&file)?)?;
        std::fs::rename(&temporary, path)?;
        forget_oldest(folder);
        Ok(())
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

/// Removes what is too much; a file that another process removed first is no loss.
fn forget_oldest(folder: &Path) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let mut files: Vec<(SystemTime, PathBuf)> =
        entries.filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()))).collect();
    files.sort();
    for (_, path) in files.iter().rev().skip(MOST_FILES) {
        let _ = std::fs::remove_file(path);
    }
}

/// What the speed of networks depends on besides the pack.
#[derive(Clone)]
pub(super) struct Machine {
    pub(super) cpu: String,
    pub(super) threads: usize,
    pub(super) bf16: bool,
    /// Path, size, version and flavour of the library.
    pub(super) library: String,
    /// The card, where it is of one.
    pub(super) card: Option<String>,
}

impl Machine {
    /// This machine, with networks on `threads` threads of that library, or on that card.
    pub(super) fn here(runtime: &Runtime, threads: usize, card: Option<String>) -> Self {
        let bytes = runtime.path().metadata().map_or(0, |file| file.len());
        let (path, version, flavour) = (runtime.path().display(), runtime.version(), runtime.flavour());
        Self {
            cpu: machine::cpu_model().unwrap_or_default(),
            threads,
            bf16: has_bf16(),
            library: format!("{path} {bytes} {version} {flavour}"),
            card,
        }
    }
}

/// The name of a measurement: whatever would change its figures changes it.
pub(super) fn key(machine: &Machine, pack: &Pack, candidates: &[Candidate]) -> String {
    let Machine { cpu, threads, bf16, library, card } = machine;
    let mut text = format!("{FORMAT} {} {cpu:?} {threads} {bf16} {library:?}\n", env!("CARGO_PKG_VERSION"));
    let folder = pack.dir.canonicalize().unwrap_or_else(|_| pack.dir.clone());
    let mut line = |line: std::fmt::Arguments<'_>| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{line}");
    };
    line(format_args!("{}", folder.display()));
    if let Some(card) = card {
        line(format_args!("{card:?}"));
    }
    for part in &pack.parts {
        // Weights and configs lie beside the graphs.
        let beside = part.file.parent().and_then(|folder| std::fs::read_dir(folder).ok());
        let mut files: Vec<PathBuf> = beside.into_iter().flatten().filter_map(|e| Some(e.ok()?.path())).collect();
        files.sort();
        for file in files {
            let found = file.metadata().ok();
            let changed = found.as_ref().and_then(|m| m.modified().ok()?.duration_since(UNIX_EPOCH).ok());
            let name = file.file_name().unwrap_or_default().display();
            line(format_args!("{} {name} {:?} {changed:?}", part.name, found.map(|m| m.len())));
        }
    }
    line(format_args!("{:?}", std::fs::read_to_string(pack.dir.join("pack.toml")).ok()));
    for candidate in candidates {
        line(format_args!("{candidate}"));
    }
    Sha256::digest(text).iter().take(16).fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use livediffusion_onnx::{Precision, Provider};

    use super::*;

    const BF16: Candidate = Candidate { provider: Provider::OpenVino, precision: Precision::Bf16 };
    const F32: Candidate = Candidate { provider: Provider::OpenVino, precision: Precision::F32 };
    const CPU: Candidate = Candidate { provider: Provider::Cpu, precision: Precision::F32 };

    fn measured() -> Vec<Measured> {
        vec![
            Measured { candidate: BF16, finding: Finding::Ran { ms: 24.1, difference: Some(0.41) } },
            Measured { candidate: F32, finding: Finding::Ran { ms: 43.0, difference: None } },
            Measured { candidate: CPU, finding: Finding::Failed("no memory".into()) },
        ]
    }

    #[test]
    fn what_is_written_is_read_again_for_the_same_candidates_alone() {
        let folder = tempfile::tempdir().unwrap();
        let entry = Entry::new(&folder.path().join("not/yet/made"), "key");
        assert_eq!(entry.read(&[BF16, F32, CPU]), None);
        entry.write(&measured()).unwrap();
        assert_eq!(entry.read(&[BF16, F32, CPU]), Some(measured()));
        assert_eq!(entry.read(&[F32, BF16, CPU]), None);
        assert_eq!(entry.read(&[BF16, F32]), None);
        let left: Vec<_> = std::fs::read_dir(entry.path().parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn a_broken_file_or_one_of_another_format_is_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let entry = Entry::new(folder.path(), "key");
        entry.write(&measured()).unwrap();
        let whole = std::fs::read_to_string(entry.path()).unwrap();
        for broken in [
            String::new(),
            whole[..whole.len() / 2].to_owned(),
            whole.replace("\"format\": 1", "\"format\": 0"),
            whole.replace("24.1", "-24.1"),
            whole.replace("43.0", "\"fast\""),
        ] {
            assert_ne!(broken, whole);
            std::fs::write(entry.path(), &broken).unwrap();
            assert_eq!(entry.read(&[BF16, F32, CPU]), None, "{broken}");
        }
        entry.write(&measured()).unwrap();
        assert_eq!(entry.read(&[BF16, F32, CPU]), Some(measured()));
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_an_error_and_no_panic() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(Entry::new(&file.path().join("calibration"), "key").write(&measured()).is_err());
    }

    #[test]
    fn the_newest_files_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        for index in 0..MOST_FILES {
            let path = folder.path().join(format!("{index}.json"));
            let file = std::fs::File::create(path).unwrap();
            file.set_modified(UNIX_EPOCH + std::time::Duration::from_secs(index as u64)).unwrap();
        }
        let entry = Entry::new(folder.path(), "new");
        entry.write(&measured()).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), MOST_FILES);
        assert!(entry.path().exists() && !folder.path().join("0.json").exists());
    }

    fn copy_all(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
            let (from, to) = (entry.path(), to.join(entry.file_name()));
            if from.is_dir() {
                copy_all(&from, &to);
            } else {
                std::fs::copy(from, to).unwrap();
            }
        }
    }

    #[test]
    fn whatever_changes_the_figures_changes_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let packs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/goldens/models");
        let source = std::fs::read_dir(packs).unwrap().map(|e| e.unwrap().path()).find(|p| p.join("unet").is_dir());
        copy_all(&source.unwrap(), folder.path());
        let pack = Pack::open(folder.path()).unwrap();
        let machine = Machine { cpu: "one".into(), threads: 2, bf16: true, library: "lib 1".into(), card: None };
        let both = [BF16, F32];
        let first = key(&machine, &pack, &both);
        assert_eq!(first, key(&machine, &pack, &both));
        let others = [
            key(&Machine { cpu: "other".into(), ..machine.clone() }, &pack, &both),
            key(&Machine { threads: 4, ..machine.clone() }, &pack, &both),
            key(&Machine { bf16: false, ..machine.clone() }, &pack, &both),
            key(&Machine { library: "lib 2".into(), ..machine.clone() }, &pack, &both),
            key(&Machine { card: Some("card 1".into()), ..machine.clone() }, &pack, &both),
            key(&Machine { card: Some("card 2".into()), ..machine.clone() }, &pack, &both),
            key(&machine, &pack, &[F32]),
        ];
        assert!(!others.contains(&first), "{others:?}");
        let unet = &pack.part(livediffusion_onnx::PartName::Unet).unwrap().file;
        std::fs::File::options().append(true).open(unet).unwrap().set_modified(UNIX_EPOCH).unwrap();
        let touched = key(&machine, &pack, &both);
        std::fs::write(folder.path().join("pack.toml"), "[defaults]\nsize = \"64x64\"\n").unwrap();
        let configured = key(&machine, &pack, &both);
        assert!(touched != first && configured != touched, "{first} {touched} {configured}");
    }
}
