//! `livediffusion demo`: what the filter does, in one video and one picture.

mod sheet;

use std::time::Duration;

use livediffusion_io::{Input, Next, Output};
use livediffusion_pipeline::frame::{FrameMeta, PictureView, Size};
use livediffusion_pipeline::params::Parameters;
use livediffusion_pipeline::stats::MonotonicClock;
use livediffusion_pipeline::{Control, Settings};
use livediffusion_session::{OpenPack, Session};

use self::sheet::Sheet;
use crate::args::DemoArgs;
use crate::config::{self, ConfigFile};
use crate::failure::{Failure, Outcome, RUNNING};
use crate::parameter_args::ParameterArgs;
use crate::progress::Progress;
use crate::run::stream::{Frames, Stream, stop_on_ctrl_c};
use crate::run::{open_file, open_sink, packed};
use crate::units::milliseconds;

/// The styles shown, one row each; the video goes through them in this order.
const PROMPTS: [&str; 8] = [
    "oil painting",
    "pencil sketch",
    "watercolor painting",
    "cyberpunk city at night",
    "thermal camera",
    "pixel art",
    "stained glass window",
    "winter snow",
];

/// Frames across the contact sheet.
const COLUMNS: usize = 6;

pub(crate) fn command(args: &DemoArgs, clock: MonotonicClock) -> Outcome<()> {
    let mut open = OpenPack::open(&args.model)?;
    let parameters = config::parameters(&open.pack, &ConfigFile::default(), &ParameterArgs::default())?;
    let size = open.size(&parameters);
    let input = Input::parse(&args.input)?;
    let samples = sample_frames(&input, size)?;
    std::fs::create_dir_all(&args.output).map_err(|error| {
        Failure::usage(format!("{}: {error}", args.output.display()), "choose a folder that you may write to")
    })?;

    let lanes = args.model.lanes_for(&open.pack, &parameters, args.model.provider.unwrap_or_default(), false);
    open.expect(&parameters, size);
    let mut session = Session::load(&args.model, open, lanes)?;
    let settings = prompts(&mut session, &parameters, size)?;
    let (provider, precision) = (session.runs_on(), session.reckons_in());
    let control = Control::new(settings[0].clone());
    let (mut painter, _) = session.into_painter(size, control.clone())?;

    // The video: every frame of the clip, the prompt changing as it runs.
    let video = args.output.join("demo.mp4");
    let mut source = open_file(&input, size)?;
    let total = source.info().frames_estimate.unwrap_or(1).max(1);
    let sink = open_sink(&Output::parse(&video.display().to_string())?, size, &mut source)?;
    let mut shown = 0;
    let mut change_prompt = |meta: FrameMeta| {
        let wanted = (meta.id * settings.len() as u64 / total) as usize;
        if wanted != shown && wanted < settings.len() {
            shown = wanted;
            control.store(settings[shown].clone());
        }
    };
    let (stop, progress) = (stop_on_ctrl_c()?, Progress::start(Some(total)));
    let mut stream =
        Stream { clock: &clock, stop: &stop, progress: &progress, before_frame: &mut change_prompt, desk: None };
    let counts = stream.run(&mut painter, Frames::Video(Box::new(source)), sink)?;
    progress.finish();
    if counts.stopped {
        say!("{} (stopped)", video.display());
        return Ok(());
    }
    let frames = painter.stats().frames_out;
    let fps = frames as f64 / counts.streaming.as_secs_f64();

    // The sheet: the same frames in every style, each from a stream at rest.
    let mut sheet = Sheet::new(size, COLUMNS);
    sheet.row("input", samples.clone());
    for settings in &settings {
        control.store(settings.clone());
        let mut row = Vec::new();
        for (id, rgb) in samples.iter().enumerate() {
            let meta = FrameMeta { id: id as u64, ..FrameMeta::default() };
            row.extend(painter.step(meta, PictureView::packed(size, rgb))?.iter().map(|picture| picture.rgb.to_vec()));
        }
        row.extend(painter.flush()?.iter().map(|picture| picture.rgb.to_vec()));
        sheet.row(&settings.parameters.prompt, row);
    }
    let picture = args.output.join("demo.png");
    sheet.save(&picture).map_err(|error| Failure::new(RUNNING, format!("{}: {error}", picture.display())))?;

    say!("{} ({frames} frames, {size})", video.display());
    say!("{} ({} styles)", picture.display(), settings.len());
    say!(
        "{fps:.1} fps on {provider} {precision}, first frame after {:.0} ms",
        counts.time_to_first_frame.map_or(0.0, milliseconds)
    );
    Ok(())
}

/// Settings for every prompt, encoded once.
fn prompts(session: &mut Session, parameters: &Parameters, size: Size) -> Outcome<Vec<Settings>> {
    let of = |prompt: &&str| Parameters { prompt: (*prompt).to_owned(), ..parameters.clone() };
    let settings = PROMPTS.iter().map(|prompt| session.settings(of(prompt), size));
    Ok(settings.collect::<Result<_, _>>()?)
}

/// `COLUMNS` frames spread over the clip.
fn sample_frames(input: &Input, size: Size) -> Outcome<Vec<Vec<u8>>> {
    let mut source = open_file(input, size)?;
    let total = source.info().frames_estimate.unwrap_or(1).max(1) as usize;
    let wanted: Vec<usize> = (0..COLUMNS).map(|column| (2 * column + 1) * total / (2 * COLUMNS)).collect();
    let mut samples = Vec::new();
    loop {
        match source.next(Duration::from_secs(1))? {
            Next::Frame(frame) => {
                if wanted.contains(&(frame.meta().id as usize)) {
                    samples.push(frame.with_picture(packed)?);
                }
            }
            Next::TimedOut => {}
            Next::End => return Ok(samples),
        }
    }
}
