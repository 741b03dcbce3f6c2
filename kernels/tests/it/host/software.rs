//! A card in software: driver.cpp in place of the driver's library. What loads that library has to be started with it, so that a test
//! starts itself again, once for each schedule of the card's streams.

use std::ffi::{c_int, c_void};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use libloading::Library;
use livediffusion_kernels::cuda::{Card, Cuda, Image, ImageCache, NvrtcSearch, Stream, Target};
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

/// Runs tests of this binary on the card, under each of the schedules. Skips, and says why, without a C++ compiler or NVRTC.
///
/// # Panics
/// If one fails, with what it said.
#[track_caller]
pub(crate) fn under_schedules(arguments: &[&str], schedules: impl Iterator<Item = u32>) {
    let driver = super::build("driver.cpp", DRIVER).unwrap_or_else(|error| panic!("{error}"));
    let Some(driver) = driver else { return };
    let nvrtc = match nvrtc_search(cache().as_ref(), Some(VERSION)).load() {
        Ok(nvrtc) => nvrtc,
        Err(error) => return eprintln!("skipped: {error}"),
    };
    let folder = driver.parent().unwrap();
    let images = folder.join("images");
    // Once for all schedules.
    Image::cached(Some(&ImageCache::new(&images)), &nvrtc, Target::Cubin(CAPABILITY), VERSION).unwrap();
    let mut ran = 0;
    for schedule in schedules {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(arguments).args(["--nocapture", "--test-threads", "1"]);
        command.env("LD_LIBRARY_PATH", folder).env(NEEDS_CARD, "1").env(IMAGES, &images);
        let output = command.env("LIVEDIFFUSION_CARD_SCHEDULE", schedule.to_string()).output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "schedule {schedule}: {}\n{said}", output.status);
        assert!(said.contains("test result: ok") && !said.contains("running 0 tests"), "nothing was run: {said}");
        assert!(!said.contains("skipped:"), "schedule {schedule}: {said}");
        ran += 1;
    }
    println!("{ran} schedules");
}

/// Where tools/setup/nvrtc.sh puts it.
pub(crate) fn cache() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).map(PathBuf::from);
    set("LIVEDIFFUSION_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|folder| folder.join("livediffusion")))
        .or_else(|| set("HOME").map(|folder| folder.join(".cache/livediffusion")))
}

fn nvrtc_search(cache: Option<&PathBuf>, driver: Option<i32>) -> NvrtcSearch<'_> {
    NvrtcSearch { cache: cache.map(PathBuf::as_path), driver, explicit: None }
}

/// The first card with the kernels on it; `None`, and a line that says why, where there is none. With [`NEEDS_CARD`] in the environment
/// that is a failure, so that nobody takes what was skipped for a success.
pub(crate) fn first_card() -> Option<Arc<Cuda>> {
    let open = || -> Result<Arc<Cuda>, GpuError> {
        let card = Card::open(0)?;
        let version = card.driver().version();
        let nvrtc = nvrtc_search(cache().as_ref(), Some(version)).load()?;
        let target = Target::for_card(card.capability()?, &nvrtc)?;
        let images = std::env::var_os(IMAGES).map(ImageCache::new);
        card.with_kernels(Image::cached(images.as_ref(), &nvrtc, target, version)?)
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
