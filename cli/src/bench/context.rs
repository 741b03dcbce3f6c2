//! What a measurement ran on and with.

use std::path::Path;
use std::process::Command;
use std::time::UNIX_EPOCH;

use livediffusion_bench::machine;
use livediffusion_bench::record::{Context, utc};
use livediffusion_kernels::cuda::{Card, dotted};
use livediffusion_onnx::{Provider, physical_cores};
use livediffusion_pipeline::frame::Size;
use livediffusion_session::{ModelOptions, Session};

use crate::failure::Outcome;

/// The context of what runs on `session`.
pub(crate) fn context(session: &Session, model: &ModelOptions, size: Size) -> Outcome<Context> {
    let provider = session.runs_on();
    let precision = session.reckons_in().to_string();
    context_of(model, &session.open.folder, &provider, &precision, size)
}

/// As [`context`], of networks that another process holds.
pub(crate) fn context_of(
    model: &ModelOptions,
    pack: &Path,
    provider: &str,
    precision: &str,
    size: Size,
) -> Outcome<Context> {
    let runtime = model.runtime()?;
    let name = pack.canonicalize().ok().and_then(|folder| Some(folder.file_name()?.display().to_string()));
    let (card, driver) = card(provider, model.gpu.unwrap_or(0)).unwrap_or_default();
    Ok(Context {
        date: now(),
        cpu: machine::cpu_model().unwrap_or_else(|| "unknown".into()),
        cores: physical_cores(),
        card,
        driver,
        version: env!("CARGO_PKG_VERSION").into(),
        commit: commit(),
        onnxruntime: runtime.version().into(),
        flavour: runtime.flavour().into(),
        provider: provider.into(),
        precision: precision.into(),
        model: name.unwrap_or_else(|| pack.display().to_string()),
        size: size.to_string(),
    })
}

/// The NVIDIA card that a provider runs on, and the CUDA version that its driver is for.
fn card(provider: &str, number: u32) -> Option<(String, String)> {
    // Of what runs here.
    let provider = provider.split('+').next().unwrap_or(provider);
    let is_on_cuda = Provider::ALL.iter().any(|known| known.is_on_cuda() && known.to_string() == provider);
    let card = is_on_cuda.then(|| Card::open(number as usize).ok())??;
    Some((card.name().ok()?, dotted(card.driver().version())))
}

#[allow(clippy::disallowed_methods, reason = "the edge through which measurements get their date")]
fn now() -> String {
    let since = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    utc(since.as_secs())
}

/// The commit that was given at build time, else that of the checkout that the binary lies in.
fn commit() -> String {
    if let Some(commit) = option_env!("LIVEDIFFUSION_COMMIT") {
        return commit.to_owned();
    }
    let binary = std::env::current_exe().ok();
    let Some(folder) = binary.as_deref().and_then(Path::parent) else { return "unknown".into() };
    let git = |args: &[&str]| {
        let done = Command::new("git").arg("-C").arg(folder).args(args).output().ok()?;
        done.status.success().then(|| String::from_utf8_lossy(&done.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".into() };
    // What was measured before is no change of the program.
    let changed = git(&["status", "--porcelain", "--untracked-files=no", "--", ":/", ":!/bench/record"]);
    if changed.is_some_and(|files| !files.is_empty()) { format!("{commit}-dirty") } else { commit }
}
