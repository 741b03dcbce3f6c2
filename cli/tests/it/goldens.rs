//! `replay`: the committed cases pass at every level, and cases that were tampered with do not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, serialize_to_file};
use serde_json::Value;

use crate::support::{Done, RUNNING, USAGE, command, has_runtime, packs, project, run};

const LEVELS: [&str; 3] = ["arithmetic", "networks", "end-to-end"];

fn cases() -> PathBuf {
    project().join("assets/goldens/cases")
}

fn replay(case: &Path, models: &Path, level: &str) -> Done {
    let (case, models) = (case.to_str().unwrap(), models.to_str().unwrap());
    run(["replay", case, "--models", models, "--level", level, "--json"])
}

/// Replays every committed case at a level, in two processes.
fn all_pass(level: &str, precision: &str) {
    let paths = std::fs::read_dir(cases()).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
    paths.sort();
    assert!(paths.len() >= 30, "{} cases", paths.len());
    let replayed = |paths: Vec<PathBuf>| {
        let mut command = command(["replay", "--level", level, "--precision", precision, "--json"]);
        let done: Done = command.arg("--models").arg(packs()).args(&paths).output().unwrap().into();
        let found: Vec<Value> = serde_json::Deserializer::from_str(&done.stdout).into_iter().flatten().collect();
        for json in &found {
            println!("{:<32} {}", json["case"].as_str().unwrap(), summary(json));
        }
        assert_eq!(done.code, Some(0), "at the level {level} in {precision}: {}", done.stderr);
        let names: Vec<&str> = found.iter().map(|json| json["case"].as_str().unwrap()).collect();
        assert_eq!(names, paths.iter().map(|path| path.file_stem().unwrap().to_str().unwrap()).collect::<Vec<_>>());
        assert!(found.iter().all(|json| json["passed"] == true));
    };
    let half = paths.split_off(paths.len() / 2);
    std::thread::scope(|scope| {
        scope.spawn(|| replayed(half));
        replayed(paths);
    });
}

/// How far a case was off.
fn summary(json: &Value) -> String {
    let number = |name: &str| json[name].as_f64().unwrap_or(f64::NAN);
    format!(
        "{:.1e} of {:.0e} in {}, {} tensors",
        number("worst_error"),
        number("tolerance"),
        json["worst_tensor"],
        json["tensors_compared"]
    )
}

#[test]
fn of_several_cases_each_is_told_of() {
    let good = Copy::of(PLAIN);
    let bad = Copy::of(FILTERED).tensors(|tensors| shift(tensors, "f00/unet0/out", 1e-2));
    let missing = Path::new("/nosuch.json");
    let replayed = |more: &[&str]| -> Done {
        let mut command = command(["replay", "--level", "arithmetic"]);
        command.arg("--models").arg(packs()).args(more);
        command.args([missing, &bad.path("json"), &good.path("json")]).output().unwrap().into()
    };
    let done = replayed(&["--json"]);
    done.refused_after_output(RUNNING, &["2 of 3", "nosuch", FILTERED]);
    let found: Vec<Value> =
        serde_json::Deserializer::from_str(&done.stdout).into_iter().map(|json| json.unwrap()).collect();
    assert_eq!(found.len(), 3, "{}", done.stdout);
    assert_eq!([0, 1, 2].map(|at| found[at]["passed"] == true), [false, false, true]);
    assert!(found[0]["error"].as_str().unwrap().contains("/nosuch.json"), "{}", found[0]);
    let done = replayed(&[]);
    for part in ["nosuch cannot be replayed", "FAIL", "pass"] {
        assert!(done.stdout.contains(part), "{}", done.stdout);
    }
}

#[test]
fn every_golden_passes_in_its_arithmetic() {
    all_pass("arithmetic", "f32");
}

#[test]
fn every_golden_passes_with_the_networks() {
    if has_runtime() {
        all_pass("networks", "f32");
    }
}

#[test]
fn every_golden_passes_end_to_end() {
    if has_runtime() {
        all_pass("end-to-end", "f32");
    }
}

#[test]
fn every_golden_passes_end_to_end_in_f16() {
    if has_runtime() {
        all_pass("end-to-end", "f16");
    }
}

#[test]
fn the_goldens_cover_every_mode() {
    let configs: Vec<Value> = std::fs::read_dir(cases())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "json"))
        .map(|path| serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap())
        .collect();
    let any = |wanted: &dyn Fn(&Value, &Value) -> bool| configs.iter().any(|case| wanted(case, &case["config"]));
    for cfg in ["none", "full", "self", "initialize"] {
        for steps in [1, 2, 4] {
            let covered = |_: &Value, config: &Value| {
                config["cfg_type"] == cfg && config["t_index_list"].as_array().unwrap().len() == steps
            };
            assert!(any(&covered), "no case of {cfg} at {steps} steps");
        }
    }
    for model in ["tiny-sd15", "tiny-sd15-kl", "tiny-sdturbo", "tiny-sdxlturbo"] {
        assert!(any(&|_, config| config["model"] == model), "no case of {model}");
    }
    for mode in ["img2img", "txt2img", "txt2img_sd_turbo", "call_none"] {
        assert!(any(&|_, config| config["mode"] == mode), "no case of {mode}");
    }
    for bug in [1, 2, 3, 4] {
        assert!(any(&|case, _| case["reference_bug"]["bug"] == bug), "no case of bug {bug}");
    }
    for bug in ["seq-init-noise", "boundary-residual"] {
        assert!(any(&|case, _| case["reference_bug"]["bug"] == bug), "no case of {bug}");
    }
    assert!(any(&|_, config| config["frame_buffer_size"] == 2));
    assert!(any(&|_, config| config["do_add_noise"] == false));
    assert!(any(&|_, config| config["update_prompt"].is_object()));
    assert!(any(&|_, config| config["input_size"].is_array()));
    let skips = |case: &Value, _: &Value| {
        case["filter"].as_array().is_some_and(|filter| filter.iter().any(|record| record["processed"] == false))
    };
    assert!(any(&skips), "no case in which the filter skips");
}

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// A copy of a committed case in a folder of its own, to be tampered with.
struct Copy {
    folder: tempfile::TempDir,
    name: &'static str,
}

impl Copy {
    fn of(name: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for end in ["json", "safetensors"] {
            let file = format!("{name}.{end}");
            std::fs::copy(cases().join(&file), folder.path().join(&file)).unwrap();
        }
        Self { folder, name }
    }

    fn path(&self, end: &str) -> PathBuf {
        self.folder.path().join(format!("{}.{end}", self.name))
    }

    fn tensors(self, change: impl FnOnce(&mut Tensors)) -> Self {
        let bytes = std::fs::read(self.path("safetensors")).unwrap();
        let read = SafeTensors::deserialize(&bytes).unwrap();
        let owned = |view: &TensorView<'_>| (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        let mut tensors: Tensors = read.iter().map(|(name, view)| (name.to_owned(), owned(&view))).collect();
        change(&mut tensors);
        let views = tensors
            .iter()
            .map(|(name, (dtype, shape, data))| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
        serialize_to_file(views, None, &self.path("safetensors")).unwrap();
        self
    }

    fn json(self, change: impl FnOnce(&mut Value)) -> Self {
        let mut json: Value = serde_json::from_str(&std::fs::read_to_string(self.path("json")).unwrap()).unwrap();
        change(&mut json);
        std::fs::write(self.path("json"), json.to_string()).unwrap();
        self
    }

    fn replay(&self, level: &str) -> Done {
        replay(&self.path("json"), &packs(), level)
    }

    /// The case cannot be replayed.
    #[track_caller]
    fn refused(&self, named: &[&str]) {
        for level in LEVELS {
            if level == "arithmetic" || has_runtime() {
                self.replay(level).refused(USAGE, named);
            }
        }
    }

    /// The case is replayed and fails.
    #[track_caller]
    fn fails(&self, level: &str) -> Value {
        let done = self.replay(level);
        done.refused_after_output(RUNNING, &[self.name, "fails", level]);
        let json: Value = serde_json::from_str(&done.stdout).unwrap();
        assert_eq!(json["passed"], false);
        json
    }
}

/// Adds to the first number of an f32 tensor.
fn shift(tensors: &mut Tensors, name: &str, by: f32) {
    let data = &mut tensors.get_mut(name).unwrap().2;
    let first = f32::from_le_bytes(data[..4].try_into().unwrap()) + by;
    data[..4].copy_from_slice(&first.to_le_bytes());
}

const PLAIN: &str = "sd15_orig100_t2_none";
const FILTERED: &str = "sd15_t1_none_filter99_skip2";

#[test]
fn a_changed_number_fails() {
    assert_eq!(Copy::of(PLAIN).replay("arithmetic").code, Some(0), "the copy itself passes");
    for (tensor, by) in [
        ("f02/latent_out", 1e-3),
        ("f01/unet0/sample", 1e-3),
        ("f00/unet0/out", 1e-3),
        ("f00/x0_latent", 1e-2),
        ("const/alpha_prod_t_sqrt", 1e-3),
        ("const/c_out", 1e-3),
        ("const/init_noise", 1e-2),
    ] {
        let json = Copy::of(PLAIN).tensors(|tensors| shift(tensors, tensor, by)).fails("arithmetic");
        println!("{tensor} + {by}: {:.1e} in {}", json["worst_error"].as_f64().unwrap(), json["worst_tensor"]);
    }
    if has_runtime() {
        Copy::of(PLAIN).tensors(|tensors| shift(tensors, "f02/latent_out", 1e-2)).fails("networks");
        Copy::of(PLAIN).tensors(|tensors| shift(tensors, "const/prompt_embeds", 1e-2)).fails("end-to-end");
        let json = Copy::of(PLAIN)
            .tensors(|tensors| {
                let picture = &mut tensors.get_mut("f02/image_u8").unwrap().2;
                picture[100] = picture[100].wrapping_add(9);
            })
            .fails("end-to-end");
        assert!(json["bytes_largest_difference"].as_u64().unwrap() > 1, "{json}");
    }
}

#[test]
fn a_flipped_decision_of_the_filter_fails() {
    let record = |json: &mut Value, processed: bool, change: &dyn Fn(&mut Value)| {
        let records = json["filter"].as_array_mut().unwrap();
        change(records.iter_mut().rfind(|record| record["processed"] == processed).unwrap());
    };
    // Another decision is recorded than the one that was taken.
    let json = Copy::of(FILTERED)
        .json(|json| record(json, true, &|record| record["processed"] = Value::from(false)))
        .fails("arithmetic");
    assert_eq!(json["filter_decisions_differ"], 1, "{json}");
    // Another random number than the one that was drawn: the similar frame is not skipped.
    let json = Copy::of(FILTERED)
        .json(|json| record(json, false, &|record| record["sample"] = Value::from(1.0)))
        .fails("arithmetic");
    assert_eq!(json["filter_decisions_differ"], 1, "{json}");
    let threshold = |json: &mut Value| json["config"]["similar"]["threshold"] = Value::from(0.5);
    let json = Copy::of(FILTERED).json(threshold).fails("arithmetic");
    assert!(json["filter_decisions_differ"].as_u64().unwrap() > 0, "{json}");
}

#[test]
fn a_defect_that_is_none_fails() {
    // Ours must differ from the recording where a defect is claimed.
    let bug = || serde_json::json!({ "bug": 3 });
    Copy::of("sd15_t4_full_g2.0").json(|json| json["reference_bug"] = bug()).fails("networks");
    // And a defect that is not owned up to is an error.
    Copy::of("sd15_t4_self_seq_g1.4").json(|json| json["reference_bug"] = Value::Null).fails("arithmetic");
}

#[test]
fn cases_that_are_incomplete_or_contradict_themselves() {
    for tensor in ["const/init_noise", "f01/latent_out", "f02/unet0/sample", "const/prompt_embeds", "input/frames_u8"] {
        Copy::of(PLAIN).tensors(|tensors| drop(tensors.remove(tensor))).refused(&[tensor, "missing"]);
    }
    for (tensor, shape) in [
        ("f00/unet0/out", vec![2, 4, 4, 16]),
        ("f00/x0_latent", vec![1, 256]),
        ("f01/latent_out", vec![4, 64]),
        ("const/init_noise", vec![2, 256]),
        ("const/prompt_embeds", vec![77, 32]),
        ("input/frames_u8", vec![3, 64 * 64 * 3]),
        ("const/alpha_prod_t_sqrt", vec![1, 2]),
    ] {
        let reshape = |tensors: &mut Tensors| tensors.get_mut(tensor).unwrap().1 = shape;
        Copy::of(PLAIN).tensors(reshape).refused(&[tensor, "shape"]);
    }
    let cut = Copy::of(PLAIN);
    let bytes = std::fs::read(cut.path("safetensors")).unwrap();
    std::fs::write(cut.path("safetensors"), &bytes[..bytes.len() / 2]).unwrap();
    cut.refused(&["safetensors"]);
    std::fs::write(cut.path("safetensors"), [0; 4]).unwrap();
    cut.refused(&["safetensors"]);
    std::fs::remove_file(cut.path("safetensors")).unwrap();
    cut.refused(&["safetensors"]);
    Copy::of(PLAIN).json(|json| json["reference_bug"] = Value::from("nosuch")).refused(&["reference_bug", "nosuch"]);
    Copy::of(PLAIN).json(|json| json["config"]["model"] = Value::from("nosuch")).refused(&["nosuch"]);
    Copy::of(PLAIN).json(|json| json["config"]["frames"] = Value::from(30)).refused(&["frames_u8"]);
    Copy::of(PLAIN).json(|json| json["config"]["cfg_type"] = Value::from("half")).refused(&["half"]);
    Copy::of(PLAIN).json(|json| json["config"]["width"] = Value::from(63)).refused(&[]);
    Copy::of(PLAIN).json(|json| json["config"]["t_index_list"] = Value::from(vec![70])).refused(&["70"]);
    Copy::of(PLAIN).json(|json| drop(json["config"].as_object_mut().unwrap().remove("delta"))).refused(&["delta"]);
    let no_json = Copy::of(PLAIN);
    std::fs::write(no_json.path("json"), "{").unwrap();
    no_json.refused(&[PLAIN]);
    replay(Path::new("/nosuch.json"), &packs(), "arithmetic").refused(USAGE, &["/nosuch.json"]);
}
