//! `livediffusion bench compare`: the same model in Python, measured in turn with ours.
//!
//! The peers are processes that wait on their standard input: while one works, the others and we sleep.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use livediffusion_bench::frames::Source;
use livediffusion_bench::frames::patterns;
use livediffusion_bench::record::Figure;
use livediffusion_bench::rounds::{Variant, alternate, ratios};
use livediffusion_bench::summary::Spread;
use livediffusion_pipeline::params::CfgType;
use serde_json::{Map, Value, json};

use super::args::CompareArgs;
use super::findings::Findings;
use super::setup::{Reach, Setup, all_cores, file_lanes};
use crate::failure::{Failure, Outcome, RUNNING};
use crate::units::round;

/// What runs the networks in the peers.
const PEERS: [&str; 3] = ["torch_f32", "torch_bf16", "openvino_bf16"];

pub(crate) fn command(args: &CompareArgs) -> Outcome<()> {
    let reach = Reach::steps(args.steps.iter().copied());
    let whole = Setup::load_for(&args.setup, 1, reach)?;
    let lanes = file_lanes(&args.setup.model, &whole.session.open.pack, &whole.parameters);
    let mut setup = if lanes > 1 { Setup::load_for(&args.setup, lanes, reach)? } else { whole };
    let (mut figures, mut list, mut absent) = (Vec::new(), Vec::new(), Map::new());
    let mut ours_over: Vec<(&str, Vec<f64>)> = PEERS.iter().map(|peer| (*peer, Vec::new())).collect();
    for steps in args.steps.iter().copied().map(usize::from) {
        let entry = compare(&mut setup, args, steps, &mut figures, &mut absent)?;
        for (peer, ratios) in &mut ours_over {
            ratios.extend(entry["ours_over"][*peer].as_f64());
        }
        list.push(entry);
    }
    // One number a peer for scripts: the least of the numbers of steps.
    let least: Map<String, Value> = ours_over
        .into_iter()
        .map(|(peer, ratios)| (peer.to_owned(), json!(ratios.into_iter().min_by(f64::total_cmp))))
        .collect();
    let body =
        json!({ "ours_over": least, "steps": list, "not_measured": absent, "lanes": setup.session.loaded.lanes });
    Findings::of(body, setup.context, figures).hand_out("compare", &args.setup.output)
}

fn compare(
    setup: &mut Setup,
    args: &CompareArgs,
    steps: usize,
    figures: &mut Vec<Figure>,
    absent: &mut Map<String, Value>,
) -> Outcome<Value> {
    let settings = setup.settings(steps, CfgType::SelfNegative)?;
    let mut subject = setup.subject_with(settings.clone())?;
    let case = format!("N={steps}");
    let mut peers = Vec::new();
    for name in PEERS {
        match Peer::start(name, args, setup, &settings.parameters.t_index) {
            Ok(peer) => peers.push(RefCell::new(peer)),
            Err(error) => {
                absent.insert(name.to_owned(), json!(error.message()));
                figures.push(Figure::absent(&case, &format!("ours over {name}"), "ratio", error.message()));
            }
        }
    }
    let pictures = patterns(setup.size);
    let (clock, frames) = (setup.clock, usize::from(args.setup.frames));
    subject.run(Source::Pictures(&pictures), steps, &clock)?;
    let mut variants: Vec<Variant<'_, f64, Failure>> =
        vec![Box::new(|| Ok(subject.run(Source::Pictures(&pictures), frames, &clock)?.ms()))];
    for peer in &peers {
        variants.push(Box::new(move || peer.borrow_mut().run(frames)));
    }
    let measured = alternate(usize::from(args.setup.rounds), &mut variants)?;
    drop(variants);
    let rounds = measured[0].len();
    figures.push(Figure::spread(&case, "ours", "ms", Some(Spread::of(&measured[0])), rounds).note("mean of a round"));
    let (mut ours_over, mut ms) = (Map::new(), Map::new());
    for (peer, times) in peers.iter().zip(&measured[1..]) {
        let peer = peer.borrow();
        let ratio = ratios(times, &measured[0]);
        ours_over.insert(peer.name.into(), json!(ratio.map(|ratio| round(ratio.median))));
        ms.insert(peer.name.into(), json!(round(Spread::of(times).median)));
        figures.push(Figure::spread(&case, peer.name, "ms", Some(Spread::of(times)), rounds).note(&peer.what));
        figures.push(Figure::spread(&case, &format!("ours over {}", peer.name), "ratio", ratio, rounds));
    }
    ms.insert("ours".into(), json!(round(Spread::of(&measured[0]).median)));
    Ok(json!({ "steps": steps, "ours_over": ours_over, "ms": ms, "rounds": rounds }))
}

/// A Python process that repaints frames when it is told to.
struct Peer {
    name: &'static str,
    /// Versions, as it says itself.
    what: String,
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    fn start(name: &'static str, args: &CompareArgs, setup: &Setup, t_index: &[usize]) -> Outcome<Self> {
        let python = args.python.clone().or_else(default_python).filter(|file| file.is_file());
        let python =
            python.ok_or_else(|| failed("there is no Python for the peers: tools/peers/setup.sh makes one"))?;
        let (size, threads) = (setup.size, all_cores(&args.setup.model));
        let list = t_index.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let mut command = Command::new(&python);
        command.arg(&args.peer).args(["--engine", name]).arg("--pack").arg(&setup.session.open.folder);
        command.args(["--width", &size.width.to_string(), "--height", &size.height.to_string()]);
        command.args(["--threads", &threads.to_string(), "--t-index", &list]);
        if let Some(folder) = &args.torch_model {
            command.arg("--torch-model").arg(folder);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| failed(&format!("{}: {error}", python.display())))?;
        let (orders, answers) = (child.stdin.take(), child.stdout.take());
        let answers = answers.ok_or_else(|| failed("a peer without a standard output"))?;
        let mut peer = Self { name, what: String::new(), child, orders, answers: BufReader::new(answers) };
        let ready = peer.answer()?;
        ready["ready"].as_str().unwrap_or("").clone_into(&mut peer.what);
        Ok(peer)
    }

    /// Lets it repaint that many frames and gives the mean time of a frame in ms.
    fn run(&mut self, frames: usize) -> Outcome<f64> {
        let orders = self.orders.as_mut().ok_or_else(|| failed("a peer without a standard input"))?;
        writeln!(orders, "{frames}").and_then(|()| orders.flush()).map_err(|error| failed(&error.to_string()))?;
        self.answer()?["ms"].as_f64().ok_or_else(|| failed("a peer gave no time"))
    }

    fn answer(&mut self) -> Outcome<Value> {
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(|error| failed(&error.to_string()))?;
        let answer: Value = serde_json::from_str(&line).map_err(|_| failed("the peer ended without an answer"))?;
        match answer["error"].as_str() {
            Some(error) => Err(failed(error)),
            None => Ok(answer),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It ends when its input does; one that is still loading does not look there.
        drop(self.orders.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn failed(what: &str) -> Failure {
    Failure::new(RUNNING, what)
}

fn default_python() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("LIVEDIFFUSION_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("livediffusion")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/livediffusion")))?;
    Some(cache.join("peers/bin/python"))
}
