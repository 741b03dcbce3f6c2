//! `livediffusion doctor`: what this machine has, and the command that mends what it lacks.

mod cuda;
mod room;

use std::path::Path;

#[cfg(feature = "media")]
use livediffusion_io::{element_available, gstreamer_version, required_elements};
use livediffusion_onnx::{Precision, Provider, choose_provider, probe_provider};
use livediffusion_remote::{Described, Servers};
use livediffusion_session::calibration::{self, Calibration, Finding, Measured};
use livediffusion_session::{ModelOptions, OpenPack, SessionError};
use serde_json::{Value, json};

use crate::args::DoctorArgs;
use crate::failure::{Failure, MISSING, Outcome};
use crate::units::round;

/// How a check came out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    /// Not needed by everybody: said, but no failure.
    Absent,
    Bad,
}

struct Check {
    name: String,
    verdict: Verdict,
    found: String,
    fix: Option<String>,
}

pub(crate) fn command(args: &DoctorArgs) -> Outcome<()> {
    let mut checks = Vec::new();
    let (open, models) = model(args);
    let calibration = onnx_runtime(args, open.as_ref(), &mut checks);
    #[cfg(feature = "media")]
    gstreamer(&mut checks);
    #[cfg(feature = "media")]
    cameras(&mut checks);
    #[cfg(not(feature = "media"))]
    checks.push(Check::new("GStreamer", Verdict::Absent, "not in this binary: it works on pictures in memory alone"));
    checks.extend(models);
    cuda::checks(args.model.cuda_lib_dir.as_deref(), &mut checks);
    room::checks(&mut checks);

    if args.json {
        let checks: Vec<Value> = checks.iter().map(Check::to_json).collect();
        say!("{:#}", json!({ "checks": checks, "calibration": calibration }));
    } else {
        for check in &checks {
            check.print();
        }
    }
    let bad = checks.iter().filter(|check| check.verdict == Verdict::Bad).count();
    if bad > 0 {
        return Err(Failure::new(MISSING, format!("{bad} of {} checks failed", checks.len()))
            .with_hint(Some("run the command after each failing line".into())));
    }
    Ok(())
}

impl Check {
    fn new(name: impl Into<String>, verdict: Verdict, found: impl Into<String>) -> Self {
        Self { name: name.into(), verdict, found: found.into(), fix: None }
    }

    fn fix(mut self, fix: Option<String>) -> Self {
        self.fix = fix;
        self
    }

    fn word(&self) -> &'static str {
        match self.verdict {
            Verdict::Good => "ok",
            Verdict::Absent => "absent",
            Verdict::Bad => "FAIL",
        }
    }

    fn print(&self) {
        say!("{:<7} {:<22} {}", self.word(), self.name, self.found);
        if let Some(fix) = &self.fix {
            say!("{:<30} -> {fix}", "");
        }
    }

    fn to_json(&self) -> Value {
        json!({ "name": self.name, "verdict": self.word().to_lowercase(), "found": self.found, "fix": self.fix })
    }
}

/// Checks the library and its providers; gives what was measured of them with the model, null where nothing was.
fn onnx_runtime(args: &DoctorArgs, open: Option<&OpenPack>, checks: &mut Vec<Check>) -> Value {
    let runtime = match args.model.runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            let fix = error.hint.clone();
            checks.push(Check::new("ONNX Runtime", Verdict::Bad, error.to_string()).fix(fix));
            return Value::Null;
        }
    };
    let found = format!("{} ({}) {}", runtime.version(), runtime.flavour(), runtime.path().display());
    checks.push(Check::new("ONNX Runtime", Verdict::Good, found));
    let compiled = runtime.compiled_providers();
    let settings = args.model.session_settings(1);
    let usual = [Provider::Cpu, Provider::OpenVino, Provider::Cuda, Provider::TensorRt];
    // Others are of interest where the library has them.
    for provider in Provider::ALL.into_iter().filter(|p| usual.contains(p) || compiled.contains(p)) {
        let name = format!("provider {provider}");
        checks.push(match probe_provider(&runtime, provider, &settings) {
            Ok(()) => Check::new(name, Verdict::Good, "registers and runs"),
            // Only the CPU is needed by everybody.
            Err(error) => {
                let verdict = if provider == Provider::Cpu { Verdict::Bad } else { Verdict::Absent };
                Check::new(name, verdict, error.to_string()).fix(error.hint.clone())
            }
        });
    }
    if compiled.contains(&Provider::Cuda) {
        let beside = runtime.path().with_file_name("cuda");
        let folder = runtime.cuda_libraries().map_or(beside, Path::to_path_buf);
        cuda::libraries(&folder, compiled.contains(&Provider::TensorRt), checks);
    }
    // Where the U-Net runs elsewhere, there is nothing to measure here.
    let open = open.filter(|open| open.servers().is_none());
    let calibration = open.and_then(|open| Some((open, Calibration::of(&runtime, &open.pack, &settings)?)));
    let rule = choose_provider(&runtime, &settings);
    // What does not work is not measured by any start.
    let calibration = calibration.filter(|(_, of)| rule.as_ref().is_ok_and(|chosen| of.is_of(chosen.provider)));
    let measured = calibration.as_ref().and_then(|(open, calibration)| {
        if args.calibrate { Some(calibration.measure(&runtime, open)) } else { calibration.cached() }
    });
    let choice = match measured.as_deref().and_then(calibration::choose) {
        Some(chosen) => Ok(chosen),
        None => rule,
    };
    checks.push(match choice {
        Ok(chosen) => {
            let precision =
                if chosen.precision == Precision::Auto { String::new() } else { chosen.precision.to_string() };
            Check::new("chosen", Verdict::Good, format!("{} {precision}: {}", chosen.provider, chosen.why))
        }
        Err(error) => Check::new("chosen", Verdict::Bad, error.to_string()).fix(error.hint.clone()),
    });
    match (&calibration, &measured) {
        (_, Some(measured)) => measurement(measured, checks),
        (Some((open, _)), None) => checks.push(unmeasured(open)),
        (None, None) if args.calibrate && open.is_some() => {
            checks.push(Check::new("measured", Verdict::Absent, "nothing: there is no choice between providers here"));
        }
        (None, None) => {}
    }
    measured.as_deref().map_or(Value::Null, to_json)
}

/// What was measured, a line for each candidate.
fn measurement(measured: &[Measured], checks: &mut Vec<Check>) {
    for (Measured { finding, .. }, (candidate, verdict)) in measured.iter().zip(calibration::table(measured)) {
        let worked = if matches!(finding, Finding::Failed(_)) { Verdict::Absent } else { Verdict::Good };
        checks.push(Check::new(format!("  {candidate}"), worked, verdict));
    }
}

fn unmeasured(open: &OpenPack) -> Check {
    let asked = "livediffusion doctor --calibrate measures it";
    let (found, fix) = if Calibration::too_large(&open.pack) {
        ("not measured with this model: its networks have over 1 GB", asked.to_owned())
    } else {
        ("not measured yet with this model, library and processor or card", format!("the next run or {asked}"))
    };
    Check::new("measured", Verdict::Absent, found).fix(Some(fix))
}

/// The figures; the names are the interface of scripts.
fn to_json(measured: &[Measured]) -> Value {
    let row = |(measured, (_, verdict)): (&Measured, (String, String))| {
        let (ms, difference) = match measured.finding {
            Finding::Ran { ms, difference } => (Some(round(ms)), difference.map(round)),
            Finding::Failed(_) => (None, None),
        };
        json!({
            "provider": measured.candidate.provider.to_string(),
            "precision": measured.candidate.precision.to_string(),
            "ms": ms,
            "difference": difference,
            "verdict": verdict,
        })
    };
    measured.iter().zip(calibration::table(measured)).map(row).collect()
}

#[cfg(feature = "media")]
fn gstreamer(checks: &mut Vec<Check>) {
    checks.push(Check::new("GStreamer", Verdict::Good, gstreamer_version()));
    let needs = required_elements();
    let missing: Vec<_> = needs.iter().filter(|need| !element_available(need.element)).collect();
    let present = needs.len() - missing.len();
    checks.push(Check::new(
        "GStreamer elements",
        if missing.is_empty() { Verdict::Good } else { Verdict::Bad },
        format!("{present} of {} that this program uses", needs.len()),
    ));
    for need in missing {
        checks.push(
            Check::new(format!("  {}", need.element), Verdict::Bad, format!("missing: {}", need.what_for))
                .fix(Some(format!("apt-get install {}", need.debian_package))),
        );
    }
}

#[cfg(feature = "media")]
fn cameras(checks: &mut Vec<Check>) {
    checks.push(match livediffusion_io::devices() {
        Ok(devices) if devices.is_empty() => Check::new("cameras and screens", Verdict::Absent, "none")
            .fix(Some("plug a camera in; files and test:// work without".into())),
        Ok(devices) => {
            let names: Vec<String> =
                devices.iter().map(|device| format!("{} ({})", device.name, device.input)).collect();
            Check::new("cameras and screens", Verdict::Good, names.join(", "))
        }
        Err(error) => Check::new("cameras and screens", Verdict::Bad, error.to_string()).fix(error.hint()),
    });
}

/// The pack, and the servers of its U-Net where that has some.
fn model(args: &DoctorArgs) -> (Option<OpenPack>, Vec<Check>) {
    let is_elsewhere = !args.model.unet_server.is_empty();
    match OpenPack::open(&args.model) {
        Ok(open) => {
            let servers = open.servers().map(|servers| servers_check(servers));
            let checks = std::iter::once(pack_check(&open)).chain(servers).collect();
            (Some(open), checks)
        }
        // Which of the two it is, the pack alone tells, if it has a U-Net of its own.
        Err(error) if is_elsewhere => {
            let alone = ModelOptions { unet_server: Vec::new(), ..args.model.clone() };
            let partial = |error: SessionError| {
                Check::new("model pack", Verdict::Absent, format!("not whole without the servers: {}", error.what))
            };
            let pack = OpenPack::open(&alone).map_or_else(partial, |open| pack_check(&open));
            (None, vec![pack, failed("U-Net's servers", &error)])
        }
        Err(error) => (None, vec![failed("model pack", &error)]),
    }
}

fn failed(name: &str, error: &SessionError) -> Check {
    Check::new(name, Verdict::Bad, error.what.clone()).fix(error.hint.clone())
}

fn pack_check(open: &OpenPack) -> Check {
    let found = format!("{}: {}", open.pack.dir.display(), open.pack.can.join(", "));
    Check::new("model pack", Verdict::Good, found)
}

/// The servers, one of which answered.
fn servers_check(servers: &Servers) -> Check {
    let Described { server, platform, most_rows, .. } = servers.described();
    let rows = most_rows.map_or_else(String::new, |most| format!(", up to {most} rows a call"));
    let away = servers.away();
    let found = format!("{servers}: {server}, {platform}{rows}");
    match &away[..] {
        [] => Check::new("U-Net's servers", Verdict::Good, found),
        away => Check::new("U-Net's servers", Verdict::Absent, format!("{found}; away: {}", away.join(", ")))
            .fix(Some("start them, or leave them out: those that are there do the work".into())),
    }
}
