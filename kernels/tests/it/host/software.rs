//! A card in software: driver.cpp in place of the driver's library. What loads that library has to be started with it, so that a test
//! starts itself again, once for each schedule of the card's streams.

use std::collections::BTreeSet;
use std::ffi::{OsStr, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use libloading::Library;
use livediffusion_kernels::cuda::{Card, Cuda, Image, ImageCache, Nvrtc, NvrtcSearch, Stream, Target};
use livediffusion_kernels::gpu::{GpuError, View};

/// Three ways for each of so many streams, in the order of their making.
pub(crate) const fn schedules(streams: u32) -> u32 {
    3_u32.pow(streams)
}

/// The name under which programs look for the driver.
const DRIVER: &str = "libcuda.so.1";

/// Its compute capability and the CUDA that it speaks, as in driver.cpp.
const CAPABILITY: u32 = 89;
const VERSION: i32 = 12_040;

/// Says in the environment of a test that it is to find a card, for which it would be skipped else.
pub(crate) const NEEDS_CARD: &str = "LIVEDIFFUSION_NEEDS_CARD";

/// Where compiled kernels are kept between the starts of a test.
const IMAGES: &str = "LIVEDIFFUSION_TEST_IMAGES";

/// Says for which compute capability NVRTC is to make PTX, which the card then runs instruction by instruction.
const PTX: &str = "LIVEDIFFUSION_TEST_PTX";

/// The card in software as a library, with NVRTC and where to keep what it compiles.
struct Setup {
    driver: PathBuf,
    nvrtc: Nvrtc,
}

impl Setup {
    /// `None`, and a line that says why, without a C++ compiler or NVRTC.
    fn find() -> Option<Self> {
        let driver = super::build("driver.cpp", DRIVER).unwrap_or_else(|error| panic!("{error}"))?;
        let found = nvrtc_search(cache().as_ref(), Some(VERSION)).load();
        let nvrtc = found.inspect_err(|error| eprintln!("skipped: {error}")).ok()?;
        Some(Self { driver, nvrtc })
    }

    fn folder(&self) -> &Path {
        self.driver.parent().unwrap()
    }

    fn images(&self) -> PathBuf {
        self.folder().join("images")
    }

    /// Compiled once for all starts of a test.
    fn image(&self, target: Target) -> Image {
        Image::cached(Some(&ImageCache::new(self.images())), &self.nvrtc, target, VERSION).unwrap()
    }

    /// Runs tests of this binary on the card.
    ///
    /// # Panics
    /// If one fails, with what it said.
    #[track_caller]
    fn start(&self, arguments: &[&str], schedule: u32, set: &[(&str, &OsStr)]) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(arguments).args(["--nocapture", "--test-threads", "1"]);
        command.env("LD_LIBRARY_PATH", self.folder()).env(NEEDS_CARD, "1").env(IMAGES, self.images());
        command.env("LIVEDIFFUSION_CARD_SCHEDULE", schedule.to_string()).envs(set.iter().copied());
        let output = command.output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "schedule {schedule}, {set:?}: {}\n{said}", output.status);
        assert!(said.contains("test result: ok") && !said.contains("running 0 tests"), "nothing was run: {said}");
        assert!(!said.contains("skipped:"), "schedule {schedule}, {set:?}: {said}");
    }
}

/// Runs tests of this binary on the card, under each of the schedules. Skips, and says why, without a C++ compiler or NVRTC.
///
/// # Panics
/// If one fails, with what it said.
#[track_caller]
pub(crate) fn under_schedules(arguments: &[&str], schedules: impl Iterator<Item = u32>) {
    let Some(setup) = Setup::find() else { return };
    setup.image(Target::Cubin(CAPABILITY));
    let ran = schedules.map(|schedule| setup.start(arguments, schedule, &[])).count();
    println!("{ran} schedules");
}

/// Runs tests of this binary on the card with what NVRTC makes for each of these compute capabilities, run instruction by instruction,
/// each text once; gives the names of the kernels that were run with every one of them. `None`, and a line that says why, without a
/// C++ compiler or NVRTC.
///
/// # Panics
/// If one fails, with what it said.
#[track_caller]
pub(crate) fn under_ptx(arguments: &[&str], capabilities: &[u32]) -> Option<BTreeSet<String>> {
    let setup = Setup::find()?;
    let mut texts: Vec<String> = Vec::new();
    let mut ran: Option<BTreeSet<String>> = None;
    for capability in capabilities.iter().filter(|known| setup.nvrtc.architectures().contains(known)) {
        let image = setup.image(Target::Ptx(*capability));
        let ptx = std::str::from_utf8(image.bytes()).unwrap();
        let text = ptx.lines().filter(|line| !line.starts_with(".target")).collect::<Vec<_>>().join("\n");
        if texts.contains(&text) {
            continue;
        }
        super::ptx::check(&text).unwrap_or_else(|what| panic!("NVRTC {:?}: {what}", setup.nvrtc.version()));
        texts.push(text);
        let notes = tempfile::NamedTempFile::new().unwrap();
        let capability = capability.to_string();
        // All streams at random.
        let set = [(PTX, OsStr::new(&capability)), (super::ptx::RAN, notes.path().as_os_str())];
        setup.start(arguments, schedules(3) / 2, &set);
        let kernels = std::fs::read_to_string(notes.path()).unwrap().lines().map(str::to_owned).collect();
        ran = Some(ran.map_or_else(|| BTreeSet::clone(&kernels), |all| &all & &kernels));
        println!("as NVRTC makes it for sm_{capability}: {} kernels", kernels.len());
    }
    assert!(ran.is_some(), "NVRTC {:?} knows none of {capabilities:?}", setup.nvrtc.version());
    ran
}

/// Where tools/setup/nvrtc.sh puts it.
pub(crate) fn cache() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).map(PathBuf::from);
    set("LIVEDIFFUSION_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|folder| folder.join("livediffusion")))
        .or_else(|| set("HOME").map(|folder| folder.join(".cache/livediffusion")))
}

fn nvrtc_search(cache: Option<&PathBuf>, driver: Option<i32>) -> NvrtcSearch<'_> {
    NvrtcSearch { cache: cache.map(PathBuf::as_path), driver, ..NvrtcSearch::default() }
}

/// The first card with the kernels on it; `None`, and a line that says why, where there is none. With [`NEEDS_CARD`] in the environment
/// that is a failure, so that nobody takes what was skipped for a success.
pub(crate) fn first_card() -> Option<Arc<Cuda>> {
    let open = || -> Result<Arc<Cuda>, GpuError> {
        let card = Card::open(0)?;
        let version = card.driver().version();
        let cache = cache();
        // PTX is run here, whatever the card.
        let capability = std::env::var_os(PTX).is_none().then(|| card.capability()).transpose()?;
        let nvrtc = NvrtcSearch { card: capability, ..nvrtc_search(cache.as_ref(), Some(version)) }.load()?;
        let images = std::env::var_os(IMAGES).map(ImageCache::new);
        let Some(capability) = std::env::var(PTX).ok() else {
            let target = Target::for_card(card.capability()?, &nvrtc)?;
            return card.with_kernels(Image::cached(images.as_ref(), &nvrtc, target, version)?);
        };
        let image = Image::cached(images.as_ref(), &nvrtc, Target::Ptx(capability.parse().unwrap()), version)?;
        super::ptx::install(DRIVER, std::str::from_utf8(image.bytes()).unwrap());
        card.with_kernels(image)
    };
    let found = open();
    if let (Err(error), Some(_)) = (&found, std::env::var_os(NEEDS_CARD)) {
        panic!("error: {error}");
    }
    found.inspect_err(|error| eprintln!("skipped: {error}")).ok()
}

type Work = Box<dyn FnOnce() + Send>;

type Launch = unsafe extern "C" fn(*mut c_void, extern "C" fn(*mut c_void), *mut c_void) -> c_int;

extern "C" fn run(work: *mut c_void) {
    // SAFETY: `on_host` made it of such a box, and the driver calls this once.
    let work = unsafe { Box::from_raw(work.cast::<Work>()) };
    work();
}

/// Has the host do something in its turn in a stream: `work` reads the one and writes the other. It must not call the driver.
#[allow(dead_code, reason = "tests of one of the crates need it")]
pub(crate) fn on_host(
    stream: &Stream,
    (from, to): (View<'_>, View<'_>),
    work: impl FnOnce(&[f32], &mut [f32]) + Send + 'static,
) {
    let ((from, from_len), (to, to_len)) = ((from.address(), from.len()), (to.address(), to.len()));
    let work: Work = Box::new(move || {
        // SAFETY: the card's memory is the host's, both are f32 and of that many values, and they are freed only when nothing is on
        // its way; what is before and behind this in the stream is not done meanwhile.
        let (from, to) = unsafe {
            (
                std::slice::from_raw_parts(from as *const f32, from_len),
                std::slice::from_raw_parts_mut(to as *mut f32, to_len),
            )
        };
        work(from, to);
    });
    // SAFETY: it is loaded already; the signature is cuda.h's; the box is taken over by `run`.
    let result = unsafe {
        let driver = Library::new(DRIVER).unwrap();
        let launch = driver.get::<Launch>(b"cuLaunchHostFunc\0").unwrap();
        launch(stream.handle(), run, Box::into_raw(Box::new(work)).cast())
    };
    assert_eq!(result, 0, "cuLaunchHostFunc");
}

/// What is left on the card.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) blocks: usize,
    pub(crate) streams: usize,
    pub(crate) events: usize,
    /// Operations that were done.
    pub(crate) done: usize,
    /// How often all streams were gone, so that the schedule began anew.
    pub(crate) rounds: usize,
}

/// Asks the card in software; `None` of a real one.
#[allow(dead_code, reason = "tests of one of the crates need it")]
pub(crate) fn left() -> Option<Left> {
    let mut left = [0_usize; 5];
    // SAFETY: it is loaded already; driver.cpp gives the function this signature and writes five numbers.
    unsafe {
        let driver = Library::new(DRIVER).ok()?;
        let ask = driver.get::<unsafe extern "C" fn(*mut usize)>(b"livediffusion_card_left\0").ok()?;
        ask(left.as_mut_ptr());
    }
    let [blocks, streams, events, done, rounds] = left;
    Some(Left { blocks, streams, events, done, rounds })
}
