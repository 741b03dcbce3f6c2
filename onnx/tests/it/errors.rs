//! Damaged packs and missing things: what the message says.

use std::path::Path;

use livediffusion_onnx::graph::proto::ValueInfoProto;
use livediffusion_onnx::graph::{Change, Part, rewrite};
use livediffusion_onnx::{ErrorKind, OpenVinoDevice, Pack, Precision, Provider, ProviderChoice, SessionSettings};
use livediffusion_onnx::{Runtime, choose_provider, load_networks, probe_provider};
use livediffusion_pipeline::frame::{LatentShape, Size};

use crate::support::{PACKS, copy_of, load, on, pack_dir, runtime};

/// Opens a pack after `damage` and returns the message, which has to name what to do.
fn message(damage: impl FnOnce(&Path)) -> String {
    let copy = copy_of("tiny-sd15");
    damage(copy.path());
    let error = Pack::open(copy.path()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
    assert!(error.hint.is_some(), "{error} has no hint");
    eprintln!("{error}\n  hint: {}", error.hint.as_ref().unwrap());
    error.what
}

/// Gives an input or output of a part other sides.
fn reshape(dir: &Path, part: &str, tensor: &str, sides: &[&str]) {
    let file = dir.join(part).join("model.onnx");
    let edited = rewrite(&std::fs::read(&file).unwrap(), |part| match part {
        Part::Input(v) if v.name == tensor => {
            Change::Replace(vec![Part::Input(ValueInfoProto::tensor(tensor, 1, sides))])
        }
        Part::Output(v) if v.name == tensor => {
            Change::Replace(vec![Part::Output(ValueInfoProto::tensor(tensor, 1, sides))])
        }
        _ => Change::Keep,
    });
    std::fs::write(file, edited.unwrap()).unwrap();
}

#[test]
fn a_folder_that_is_no_pack_says_so() {
    let remove = |name: &'static str| move |dir: &Path| std::fs::remove_file(dir.join(name)).unwrap();
    let remove_dir = |name: &'static str| move |dir: &Path| std::fs::remove_dir_all(dir.join(name)).unwrap();
    assert!(message(remove("model_index.json")).contains("no model_index.json"));
    assert!(message(remove_dir("unet")).contains("no unet/"));
    assert!(message(remove_dir("vae_decoder")).contains("no vae_decoder/"));
    assert!(message(remove_dir("text_encoder")).contains("no text_encoder/"));
    assert!(message(remove("unet/model.onnx")).contains("no model.onnx"));
    assert!(Pack::open("/nowhere").unwrap_err().what.contains("not a model pack"));
}

#[test]
fn a_pack_without_an_encoder_can_still_do_txt2img() {
    let copy = copy_of("tiny-sd15");
    std::fs::remove_dir_all(copy.path().join("vae_encoder")).unwrap();
    let pack = Pack::open(copy.path()).unwrap();
    assert_eq!((pack.vae_kind, &pack.can[..]), (None, &["txt2img".to_owned(), "stream batch".to_owned()][..]));
    let Some(runtime) = runtime() else { return };
    assert!(load_networks(&runtime, &pack, &on(Provider::Cpu)).unwrap().networks.encoder.is_none());
}

#[test]
fn a_damaged_file_is_named() {
    let cut = |part: &'static str, len: usize| {
        move |dir: &Path| {
            let file = dir.join(part).join("model.onnx");
            let bytes = std::fs::read(&file).unwrap();
            std::fs::write(file, &bytes[..len.min(bytes.len() - 1)]).unwrap();
        }
    };
    let text = message(cut("unet", usize::MAX));
    assert!(text.contains("unet/model.onnx") && text.contains("cut off"), "{text}");
    assert!(message(cut("vae_decoder", 1000)).contains("vae_decoder/model.onnx"));
    assert!(message(cut("text_encoder", 0)).contains("text_encoder/model.onnx"));
    let text = message(|dir| {
        std::fs::write(dir.join("unet/model.onnx"), "version https://git-lfs").unwrap();
    });
    assert!(text.contains("unet/model.onnx"), "{text}");
    assert!(message(|dir| std::fs::write(dir.join("model_index.json"), "{").unwrap()).contains("model_index.json"));
}

#[test]
fn networks_that_do_not_fit_together_are_refused() {
    let text = message(|dir| reshape(dir, "unet", "sample", &["batch", "4", "height"]));
    assert!(text.contains("rank 3 where 4"), "{text}");
    let text = message(|dir| reshape(dir, "unet", "encoder_hidden_states", &["b", "s", "768"]));
    assert!(text.contains("width 768") && text.contains("gives 32"), "{text}");
    let text = message(|dir| reshape(dir, "vae_encoder", "latent_sample", &["b", "16", "h", "w"]));
    assert!(text.contains("16 channels"), "{text}");
    let text = message(|dir| reshape(dir, "vae_decoder", "latent_sample", &["b", "16", "h", "w"]));
    assert!(text.contains("16 channels"), "{text}");
    let text = message(|dir| reshape(dir, "unet", "out_sample", &["b", "8", "h", "w"]));
    assert!(text.contains("gives 8"), "{text}");
    let text = message(|dir| {
        std::fs::copy(pack_dir("tiny-sdxlturbo/unet/model.onnx"), dir.join("unet/model.onnx")).unwrap();
    });
    assert!(text.contains("hidden states"), "{text}");
}

#[test]
fn pack_toml_is_read() {
    let copy = copy_of("tiny-sd15");
    let text = "title = \"t\"\n[defaults]\nsteps = [32, 45]\nguidance = 1.2\n[[presets]]\nname = \"fox\"\nprompt = \"a fox\"\nguidance = 1.4\n";
    std::fs::write(copy.path().join("pack.toml"), text).unwrap();
    let pack = Pack::open(copy.path()).unwrap();
    assert_eq!(pack.defaults["guidance"].as_float(), Some(1.2));
    assert_eq!((&*pack.presets[0].name, &*pack.presets[0].prompt), ("fox", "a fox"));
    assert_eq!(pack.presets[0].parameters["guidance"].as_float(), Some(1.4));
    assert_eq!(pack.about["title"].as_str(), Some("t"));
    std::fs::write(copy.path().join("pack.toml"), "[[presets]]\nname = 1\n").unwrap();
    assert!(Pack::open(copy.path()).unwrap_err().what.contains("pack.toml"));
    std::fs::write(copy.path().join("pack.toml"), "format = 1\n").unwrap();
    assert!(Pack::open(copy.path()).is_ok());
    std::fs::write(copy.path().join("pack.toml"), "format = 2\npresets = \"of another kind\"\n").unwrap();
    let newer = Pack::open(copy.path()).unwrap_err();
    assert!(
        newer.what.contains("format 2 is newer") && newer.hint.is_some_and(|hint| hint.contains("update")),
        "{}",
        newer.what
    );
}

#[test]
fn a_provider_that_is_not_there_is_an_error_with_a_hint() {
    let Some(runtime) = runtime() else { return };
    let compiled = runtime.compiled_providers();
    for provider in Provider::ALL {
        if compiled.contains(&provider) {
            continue;
        }
        let error = choose_provider(&runtime, &on(provider)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Missing);
        assert!(error.what.contains(&provider.to_string()) && error.hint.is_some(), "{error:?}");
        let pack = Pack::open(pack_dir(PACKS[0])).unwrap();
        assert!(load_networks(&runtime, &pack, &on(provider)).is_err());
    }
    probe_provider(&runtime, Provider::Cpu, &SessionSettings::default()).unwrap();
    let settings = SessionSettings { precision: Precision::Bf16, ..on(Provider::Cpu) };
    assert_eq!(choose_provider(&runtime, &settings).unwrap_err().kind, ErrorKind::Invalid);
}

#[test]
fn a_device_that_openvino_does_not_find_is_an_error_with_a_hint() {
    let Some(runtime) = runtime() else { return };
    if !runtime.compiled_providers().contains(&Provider::OpenVino) {
        eprintln!("skipped: this library has no OpenVINO");
        return;
    }
    for openvino in [OpenVinoDevice::Gpu, OpenVinoDevice::Npu] {
        let settings = SessionSettings { openvino, ..on(Provider::OpenVino) };
        match choose_provider(&runtime, &settings) {
            // A machine that has one.
            Ok(chosen) => assert_eq!(chosen.provider, Provider::OpenVino),
            Err(error) => {
                assert_eq!(error.kind, ErrorKind::Missing, "{error}");
                assert!(error.hint.unwrap().contains(&openvino.to_string()), "{}", error.what);
            }
        }
    }
}

#[test]
fn auto_says_what_it_chose() {
    let Some(runtime) = runtime() else { return };
    let chosen = choose_provider(&runtime, &SessionSettings::default()).unwrap();
    eprintln!("{} {}: {} ({} {})", chosen.provider, chosen.precision, chosen.why, runtime.flavour(), runtime.version());
    assert!(chosen.why.starts_with("auto: "));
    assert!(runtime.version().starts_with("1.") && runtime.path().is_file());
    assert_eq!(Runtime::load(Some(runtime.path())).unwrap().path(), runtime.path());
    let other = pack_dir("tiny-sd15/model_index.json");
    assert!(Runtime::load(Some(&other)).unwrap_err().what.contains("loaded already"));
}

#[test]
fn choices_read_and_print_the_same() {
    let others = ["tensorrt-rtx", "coreml", "directml", "migraphx", "webgpu"];
    for text in ["auto", "cpu", "openvino", "cuda", "tensorrt"].into_iter().chain(others) {
        assert_eq!(text.parse::<ProviderChoice>().unwrap().to_string(), text);
    }
    assert!("gpu".parse::<ProviderChoice>().unwrap_err().hint.unwrap().contains("cuda"));
    for text in ["auto", "f32", "bf16", "f16", "int8"] {
        assert_eq!(text.parse::<Precision>().unwrap().to_string(), text);
    }
    for text in ["cpu", "gpu", "npu"] {
        assert_eq!(text.parse::<OpenVinoDevice>().unwrap().to_string(), text);
    }
    assert!("tpu".parse::<OpenVinoDevice>().unwrap_err().hint.is_some());
}

#[test]
fn wrong_sizes_are_errors_and_not_panics() {
    let Some(runtime) = runtime() else { return };
    let (_, mut loaded) = load(&runtime, &pack_dir("tiny-sd15"));
    let encoder = loaded.networks.encoder.as_mut().unwrap();
    let error = encoder.encode(&vec![0.0; 3 * 60 * 60], 1, Size::new(60, 60), None, &mut [0.0; 4 * 49]).unwrap_err();
    assert!(error.hint.unwrap().contains("multiples of 8"));
    assert!(encoder.encode(&[0.0; 3], 1, Size::new(64, 64), None, &mut [0.0; 256]).is_err());
    let shape = LatentShape { channels: 4, height: 8, width: 8 };
    assert!(loaded.networks.decoder.decode(&[0.0; 256], 1, shape, &mut [0.0; 5]).is_err());
    let shape = LatentShape { channels: 3, height: 8, width: 8 };
    let error = loaded.networks.decoder.decode(&[0.0; 192], 1, shape, &mut vec![0.0; 3 * 64 * 64]).unwrap_err();
    assert!(error.what.contains("VAE decoder"), "{error}");
}
