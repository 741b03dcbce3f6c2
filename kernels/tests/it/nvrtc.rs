//! The kernels through the compiler that a machine with a GPU uses. It needs neither a driver nor a card.

#![allow(unsafe_code, reason = "the loader is asked whether a library is there")]

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use livediffusion_kernels::cuda::{Image, ImageCache, Nvrtc, NvrtcSearch, Target, compile};
use livediffusion_kernels::gpu::Kernel;

use crate::host::software::cache;

/// Turing to Blackwell.
pub(crate) const CAPABILITIES: [u32; 7] = [75, 80, 86, 89, 90, 100, 120];

fn nvrtc() -> Option<Nvrtc> {
    let cache = cache();
    let found = NvrtcSearch { cache: cache.as_deref(), ..NvrtcSearch::default() }.load();
    found.inspect_err(|error| eprintln!("skipped: {error} ({})", error.hint.as_deref().unwrap_or_default())).ok()
}

/// The lines of each kernel in PTX.
fn body(ptx: &str, kernel: Kernel) -> &str {
    let entry = format!(".entry {}(", kernel.name());
    let from = ptx.find(&entry).unwrap_or_else(|| panic!("no {entry}"));
    let rest = &ptx[from + entry.len()..];
    &rest[..rest.find(".entry ").unwrap_or(rest.len())]
}

#[test]
fn every_kernel_compiles_for_every_card_since_turing() {
    let Some(nvrtc) = nvrtc() else { return };
    let mut compiled = 0;
    for capability in CAPABILITIES {
        if !nvrtc.architectures().contains(&capability) {
            eprintln!("skipped: NVRTC {:?} does not know sm_{capability}", nvrtc.version());
            continue;
        }
        let image = compile(&nvrtc, Target::Ptx(capability)).unwrap();
        let ptx = std::str::from_utf8(image.bytes()).unwrap();
        assert!(ptx.contains(&format!(".target sm_{capability}")), "sm_{capability}");
        for kernel in Kernel::ALL {
            let body = body(ptx, *kernel);
            // An array that does not fit into registers goes through memory: the kernels are written so that none does.
            assert!(!body.contains(".local"), "{} for sm_{capability} has arrays in memory", kernel.name());
            // The exponential is NVRTC's own, and made of them.
            let has_exponential = matches!(kernel, Kernel::PosteriorF32 | Kernel::PosteriorF16);
            let fused = !has_exponential && body.contains("fma.rn.f32");
            assert!(!fused, "{}: a fused multiply-add is not what the CPU does", kernel.name());
        }
        compiled += 1;
    }
    assert!(compiled > 0, "NVRTC {:?} knows none of them", nvrtc.version());
    println!("PTX for {compiled} of {} by NVRTC {:?}", CAPABILITIES.len(), nvrtc.version());
}

/// ONNX Runtime's builds for CUDA 12 still take cards of these times.
#[test]
fn every_kernel_compiles_for_older_cards_too() {
    let Some(nvrtc) = nvrtc() else { return };
    for capability in [60, 61, 70] {
        if nvrtc.architectures().contains(&capability) {
            compile(&nvrtc, Target::Cubin(capability)).unwrap();
            println!("machine code for sm_{capability}");
        } else {
            println!("skipped: NVRTC {:?} does not know sm_{capability}", nvrtc.version());
        }
    }
}

#[test]
fn a_library_that_makes_nothing_for_a_card_is_passed_over() {
    let Some(known) = nvrtc() else { return };
    let cache = cache();
    let search = NvrtcSearch { cache: cache.as_deref(), card: Some((1, 0)), ..NvrtcSearch::default() };
    let error = search.load().unwrap_err();
    let objection = format!("{} makes nothing for a card as old as compute capability 1.0", known.path().display());
    assert!(error.what.contains(&objection), "{error}");
}

#[test]
fn what_lies_side_by_side_is_read_and_written_16_bytes_at_a_time() {
    let Some(nvrtc) = nvrtc() else { return };
    let image = compile(&nvrtc, Target::Ptx(80)).unwrap();
    let ptx = std::str::from_utf8(image.bytes()).unwrap();
    for kernel in Kernel::ALL.iter().copied().filter(|kernel| *kernel != Kernel::Similarity) {
        let body = body(ptx, kernel);
        let wide = |access: &str| {
            body.lines().any(|line| line.contains(access) && (line.contains(".v4.f32") || line.contains(".v4.u32")))
        };
        let reads_bytes =
            kernel.name().contains("8_to_chw") || kernel == Kernel::Nv12ToF32 || kernel == Kernel::Nv12ToF16;
        assert!(reads_bytes || wide("ld.global"), "{}", kernel.name());
        let writes_bytes = matches!(kernel, Kernel::F32ToRgb8 | Kernel::F16ToRgb8);
        assert!(writes_bytes || wide("st.global"), "{}", kernel.name());
    }
}

#[test]
fn compiled_kernels_are_kept_for_each_target_and_driver() {
    let Some(nvrtc) = nvrtc() else { return };
    let capability = *nvrtc.architectures().last().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let cache = ImageCache::new(folder.path());
    let files = || std::fs::read_dir(folder.path()).unwrap().count();
    let first = Image::cached(Some(&cache), &nvrtc, Target::Cubin(capability), 12_040).unwrap();
    // Machine code is an ELF file.
    assert!(first.bytes().starts_with(b"\x7fELF"));
    assert_eq!(files(), 1);
    let again = Image::cached(Some(&cache), &nvrtc, Target::Cubin(capability), 12_040).unwrap();
    assert_eq!((again.bytes(), files()), (first.bytes(), 1));
    Image::cached(Some(&cache), &nvrtc, Target::Cubin(capability), 12_080).unwrap();
    Image::cached(Some(&cache), &nvrtc, Target::Ptx(capability), 12_080).unwrap();
    assert_eq!(files(), 3);
}

/// A library with these functions of no arguments that matter, each of which gives 0.
fn library(folder: &Path, name: &str, functions: &str) {
    let source = folder.join("library.c");
    std::fs::write(&source, functions).unwrap();
    let mut command = Command::new("cc");
    command.args(["-shared", "-fPIC", "-w", &format!("-Wl,-soname,{name}"), "-o"]).arg(folder.join(name)).arg(source);
    assert!(command.status().unwrap().success());
}

/// NVRTC 13.0 as pip has it does not find it by itself.
#[test]
fn what_nvrtc_loads_when_it_compiles_is_found_beside_it() {
    if Command::new("cc").arg("--version").output().is_err() {
        return eprintln!("skipped: no C compiler (apt-get install gcc)");
    }
    let folder = tempfile::tempdir().unwrap();
    let mut source = String::from("int nvrtcVersion(int *a, int *b) { return *a = 77, *b = 3, 0; }");
    for function in ["nvrtcGetNumSupportedArchs", "nvrtcGetSupportedArchs"] {
        write!(source, "int {function}(int *a) {{ return 0; }}").unwrap();
    }
    library(folder.path(), "libnvrtc.so.77", &source);
    library(folder.path(), "libnvrtc-builtins.so.77.3", "int builtins;");
    let is_loaded = || {
        use libloading::os::unix::{Library, RTLD_LAZY};
        const RTLD_NOLOAD: i32 = 4;
        // SAFETY: nothing is loaded that is not there already.
        unsafe { Library::open(Some("libnvrtc-builtins.so.77.3"), RTLD_LAZY | RTLD_NOLOAD) }.is_ok()
    };
    assert!(!is_loaded());
    let nvrtc = Nvrtc::load(&folder.path().join("libnvrtc.so.77")).unwrap();
    assert_eq!(nvrtc.version(), (77, 3));
    assert!(is_loaded(), "it would be looked for by its name");
}
