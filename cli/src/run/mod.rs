//! `livediffusion run`: a video in, the repainted video out.

mod report;
mod snapshot;
pub(crate) mod stream;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use livediffusion_io::{
    Fit, Input, LiveSource, Output, Outputs, OutputsOptions, SinkOptions, SourceInfo, SourceOptions, VideoSink,
    VideoSource, sink_command, source_command,
};
use livediffusion_pipeline::Control;
use livediffusion_pipeline::frame::{PictureView, Size};
use livediffusion_pipeline::stats::{Clock, MonotonicClock};
use livediffusion_session::{Backend, OpenPack, Session, preset_values};

use self::report::Report;
use self::stream::{Frames, Stream};
use crate::args::RunArgs;
use crate::config;
use crate::failure::{Failure, Outcome, RUNNING};
use crate::live::desk::Desk;
use crate::live::{Keys, Live, Sources, parse_address};
use crate::progress::Progress;

/// The input that is no input: txt2img.
const NOISE: &str = "noise://";

/// How long a live input may be silent before it counts as lost: cameras and servers that are there give something.
const SILENCE: Duration = Duration::from_secs(5);

/// Frame rate of pictures that were made from noise and go to a file.
const NOISE_RATE: (u32, u32) = (25, 1);

pub(crate) fn command(args: &RunArgs, started: MonotonicClock) -> Outcome<()> {
    let mut args = args.clone();
    let file = config::config_file(args.config.as_deref())?;
    file.complete(&mut args)?;
    // What can be refused without opening anything is refused first.
    let input_text = args.input.clone().ok_or_else(|| {
        Failure::usage("no input was given", "add --input FILE, or --input test:// to try without one")
    })?;
    let outputs = outputs(&args)?;
    let input = if input_text == NOISE { None } else { Some(Input::parse(&input_text)?) };
    args.control.as_deref().map(parse_address).transpose()?;
    for output in &outputs {
        refuse_same(input.as_ref(), output)?;
    }
    if args.looped {
        refuse_loop(&args, input.as_ref(), &outputs)?;
    }
    let mut open = OpenPack::open(&args.model)?;
    let parameters = config::parameters(&open.pack, &file, &args.parameters)?;
    let size = open.size(&parameters);
    open.facts.latent_shape(size)?;
    if args.print_pipeline {
        let live = is_paced(args.looped, &outputs) || input.as_ref().is_some_and(Input::is_live);
        return print_pipeline(input.as_ref(), &outputs, (size, args.fit.unwrap_or_default()), live);
    }
    if input.is_some() && open.pack.vae_kind.is_none() {
        let what = format!("{} has no vae_encoder/: it cannot repaint pictures", open.folder.display());
        return Err(Failure::usage(what, "use --input noise:// (txt2img), or add the VAE encoder to the pack"));
    }
    if input.is_none() && args.frames.is_none() && args.duration.is_none() {
        return Err(Failure::usage("noise:// never ends", "say how much with --frames N or --duration S"));
    }

    let stop = stream::stop_on_ctrl_c()?;
    let limits = Limits { frames: args.frames, duration: args.duration };
    let options = SourceOptions {
        live: is_paced(args.looped, &outputs).then_some(true),
        ..source_options(size, args.fit, limits)
    };
    // Both take a quarter of a second, mostly of waiting.
    let (source, backend) = std::thread::scope(|scope| {
        let backend = scope.spawn(|| Backend::find(&args.model, &open));
        let source = input.as_ref().map(|input| VideoSource::open(input, &options)).transpose();
        (source, backend.join())
    });
    let source = source?;
    let backend = backend.map_err(|_| Failure::new(RUNNING, "loading ONNX Runtime panicked"))??;
    let live = source.as_ref().is_some_and(|source| source.info().live);
    let lanes = args.model.lanes_for(&open.pack, &parameters, backend.provider(), live);
    open.expect(&parameters, size);
    if let Some(servers) = open.servers() {
        servers.give_up_at(Arc::clone(&stop));
    }
    let mut session = Session::load_on(backend, &args.model, open, lanes)?;
    let settings = session.settings(parameters, size)?;
    let (provider, precision) = (session.runs_on(), session.reckons_in().to_string());
    let model = session.open.folder.display().to_string();
    let presets = session.open.pack.presets.iter().map(preset_values).collect();
    let (control, facts) = (Control::new(settings), session.open.facts.clone());
    let (mut painter, prompts) = session.into_painter(size, control.clone())?;
    let desk = Arc::new(Desk::new(control.clone()));
    let keys = Some(Keys { desk: Arc::clone(&desk), quit: Arc::clone(&stop) });
    let sources = Sources {
        osc: args.control.as_deref(),
        config: args.config.as_deref().map(|path| (path, &file)),
        flags: &args.flags.0,
        presets,
        keys,
    };

    let (frames, sinks, estimate) = if let Some(mut source) = source {
        let (framerate, live) = (source.info().framerate, source.info().live);
        let estimate = if args.looped { limits.frames(framerate) } else { source.info().frames_estimate };
        let retry = args.retry.unwrap_or_default().0.filter(|_| live);
        let returning = |mut source: LiveSource| {
            let audio = source.take_audio();
            (Frames::Live(Box::new(source)), audio)
        };
        let (frames, audio) = match (input, retry) {
            (Some(input), retry) if args.looped => returning(LiveSource::looped(source, input, &options, retry)),
            // A file's error is no loss: it would begin anew. A server that names no length is none.
            (Some(input), Some(retry)) if !source.is_paced() || is_endless(&input, source.info()) => {
                let options = SourceOptions { patience: SILENCE, ..options };
                returning(LiveSource::new(source, input, &options, retry))
            }
            (..) => {
                let audio = source.take_audio();
                (Frames::Video(Box::new(source)), audio)
            }
        };
        let sinks = Outputs::open(&outputs, OutputsOptions { size, framerate, live, audio, retry })?;
        (frames, sinks, estimate)
    } else {
        let framerate = Some(NOISE_RATE);
        let count = limits.frames(framerate).unwrap_or(0);
        let options = OutputsOptions { size, framerate, live: false, audio: None, retry: None };
        (Frames::noise(count, NOISE_RATE), Outputs::open(&outputs, options)?, Some(count))
    };
    let estimate = match (estimate, args.frames) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    // Last, for what fails before it belongs on a terminal as it was.
    let live_control = Live::start(sources, (prompts, facts), size, control)?;
    let progress = Progress::start(estimate);
    let before_frame = &mut |_| {};
    let mut stream = Stream { clock: &started, stop: &stop, progress: &progress, before_frame, desk: Some(&desk) };
    let counts = stream.run(&mut painter, frames, sinks)?;
    progress.finish();
    drop(live_control);
    let frames_out = painter.stats().frames_out;
    if let Some(output) = outputs.iter().find(|output| output.is_kept()).filter(|_| frames_out == 0) {
        let what = format!("{output} was not written: there was no picture before the end");
        return Err(Failure::new(RUNNING, what).with_hint(Some("what was there before is as it was".into())));
    }

    let report = Report {
        size,
        input: input_text,
        outputs: outputs.iter().map(ToString::to_string).collect(),
        model,
        provider,
        precision,
        elapsed: started.now(),
        lanes: painter.lanes(),
        quality: painter.quality(),
        ..Report::of(painter.stats(), &counts)
    };
    if args.json {
        report::print_json(&report);
    } else {
        report.print_table();
    }
    Ok(())
}

/// The commands that try source and outputs alone.
fn print_pipeline(input: Option<&Input>, outputs: &[Output], (size, fit): (Size, Fit), live: bool) -> Outcome<()> {
    if let Some(input) = input {
        say!("{}", source_command(input, size, fit)?);
    }
    for output in outputs {
        say!("{}", sink_command(output, size, None, live)?);
    }
    Ok(())
}

/// Where the pictures go: the outputs, and the recording beside them.
fn outputs(args: &RunArgs) -> Outcome<Vec<Output>> {
    let mut outputs: Vec<Output> = args.output.iter().map(|text| Output::parse(text)).collect::<Result<_, _>>()?;
    if let Some(path) = &args.record {
        let output = Output::parse(&path.to_string_lossy())?;
        if !matches!(output, Output::File(..)) {
            let what = format!("--record {}: only a video file can be recorded", path.display());
            return Err(Failure::usage(what, "give it the extension .mp4, .mov, .mkv or .webm"));
        }
        outputs.push(output);
    }
    if outputs.is_empty() {
        let hint = "add --output FILE.mp4, --output window, or --output fakesink";
        return Err(Failure::usage("no output was given", hint));
    }
    let places: Vec<Option<PathBuf>> = outputs.iter().map(|output| output.path().map(place)).collect();
    let twice = outputs.iter().enumerate().find(|(i, _)| places[*i].is_some() && places[..*i].contains(&places[*i]));
    match twice {
        Some((_, output)) => Err(Failure::usage(format!("{output} is an output twice"), "give each another name")),
        None => Ok(outputs),
    }
}

/// The limits that a source ends at.
#[derive(Clone, Copy, Debug, Default)]
struct Limits {
    frames: Option<u64>,
    duration: Option<f64>,
}

impl Limits {
    /// How many frames they leave of a source without an end.
    fn frames(self, framerate: Option<(u32, u32)>) -> Option<u64> {
        let rate = framerate.map(|(n, d)| f64::from(n) / f64::from(d));
        let of_duration = self.duration.zip(rate).map(|(seconds, rate)| (seconds * rate).ceil() as u64);
        self.frames.into_iter().chain(of_duration).min()
    }
}

/// Refuses what cannot begin again at its end, or would never end.
fn refuse_loop(args: &RunArgs, input: Option<&Input>, outputs: &[Output]) -> Outcome<()> {
    let text = args.input.as_deref().unwrap_or_default();
    let is_pipe = |input: &Input| matches!(input, Input::File(path) if !path.is_file());
    let Some(input) = input.filter(|input| !input.is_live() && !is_pipe(input)) else {
        let text = input.map_or(text.to_owned(), ToString::to_string);
        return Err(Failure::usage(format!("{text} cannot begin again, as --loop would have it"), "leave out --loop"));
    };
    if outputs.iter().all(Output::is_kept) && args.frames.is_none() && args.duration.is_none() {
        let what = format!("with --loop {input} never ends, nor do the files that are made of it");
        return Err(Failure::usage(what, "say how much with --frames N or --duration S"));
    }
    Ok(())
}

/// Whether a file plays at its own speed, and frames that the networks cannot take are left out: where it is watched. Files get every frame,
/// unless the input goes round for those who watch it beside them.
fn is_paced(looped: bool, outputs: &[Output]) -> bool {
    if looped {
        return !outputs.iter().all(Output::is_kept);
    }
    outputs.iter().any(Output::is_watched) && !outputs.iter().any(Output::is_kept)
}

/// Whether it comes from a server that knows of no end of it, as cameras over HTTP do.
fn is_endless(input: &Input, info: &SourceInfo) -> bool {
    matches!(input, Input::Uri(_)) && info.duration_ns.is_none()
}

fn source_options(size: Size, fit: Option<Fit>, limits: Limits) -> SourceOptions {
    SourceOptions {
        fit: fit.unwrap_or(Fit::Cover),
        max_frames: limits.frames,
        max_duration_ns: limits.duration.map(|seconds| (seconds * 1e9) as u64),
        ..SourceOptions::new(size)
    }
}

fn open_source(input: &Input, size: Size, fit: Option<Fit>, limits: Limits) -> Outcome<VideoSource> {
    Ok(VideoSource::open(input, &source_options(size, fit, limits))?)
}

/// What is read must not be written over: pictures of a folder while they are read, a video by its own repaint.
fn refuse_same(input: Option<&Input>, output: &Output) -> Outcome<()> {
    let (from, to, kind) = match (input, output) {
        (Some(Input::Images(from)), Output::Pngs(to)) => (from, to, "folder"),
        (Some(Input::File(from)), Output::File(to, _) | Output::Picture(to, _)) => (from, to, "name"),
        _ => return Ok(()),
    };
    match (from.canonicalize(), to.canonicalize()) {
        (Ok(a), Ok(b)) if a == b => Err(Failure::usage(
            format!("{} is the input and the output", from.display()),
            format!("give --output another {kind}"),
        )),
        _ => Ok(()),
    }
}

/// A path as whatever else means the same place: of what does not exist yet, that of its folder.
fn place(path: &Path) -> PathBuf {
    let folder = path.parent().map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder });
    let of_folder = || Some(folder?.canonicalize().ok()?.join(path.file_name()?));
    path.canonicalize().ok().or_else(of_folder).unwrap_or_else(|| path.to_path_buf())
}

/// A whole file as a source, for the demo and the benchmarks, which need an end.
pub(crate) fn open_file(input: &Input, size: Size) -> Outcome<VideoSource> {
    let source = open_source(input, size, None, Limits::default())?;
    if source.info().live || source.info().frames_estimate.is_none() {
        return Err(Failure::usage(format!("{input} has no end that is known"), "give a video file"));
    }
    Ok(source)
}

/// A sink that takes the pictures of `source`, and its sound.
pub(crate) fn open_sink(output: &Output, size: Size, source: &mut VideoSource) -> Outcome<VideoSink> {
    let (framerate, live) = (source.info().framerate, source.info().live);
    let options = SinkOptions { size, framerate, live, audio: source.take_audio(), overwrite: true };
    Ok(VideoSink::open(output, options)?)
}

/// A picture's rows without the gaps between them.
pub(crate) fn packed(picture: PictureView<'_>) -> Vec<u8> {
    let mut rgb = Vec::new();
    pack_into(picture, &mut rgb);
    rgb
}

/// As [`packed`], into a place that there is already.
fn pack_into(picture: PictureView<'_>, rgb: &mut Vec<u8>) {
    rgb.clear();
    picture.rows().for_each(|row| rgb.extend_from_slice(row));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_watched_is_paced_and_what_is_kept_has_every_frame() {
        let of = |texts: &[&str]| texts.iter().map(|text| Output::parse(text).unwrap()).collect::<Vec<_>>();
        for (outputs, once, looped) in [
            (&["out.mp4"][..], false, false),
            (&["out.mp4", "frames/", "last.png"], false, false),
            (&["window"], true, true),
            (&["rtmp://host/app/key", "/dev/video10"], true, true),
            // A rendering that is looked at, and a show that is recorded.
            (&["window", "out.mp4"], false, true),
            // Nobody knows what becomes of these.
            (&["fakesink"], false, true),
            (&["live/index.m3u8"], false, true),
        ] {
            let outputs = of(outputs);
            assert_eq!((is_paced(false, &outputs), is_paced(true, &outputs)), (once, looped), "{outputs:?}");
        }
    }
}
