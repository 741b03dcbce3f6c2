//! The options of each provider, as ONNX Runtime names them. Pure, so that what is set is tested without any of the devices.

use crate::edits::Nature;
use crate::provider::settings::{GpuSettings, OpenVinoDevice, Precision};

/// Names and values.
pub(crate) type Options = Vec<(&'static str, String)>;

fn switch(on: bool) -> String {
    u8::from(on).to_string()
}

fn stream(gpu: &GpuSettings, options: &mut Options) {
    if let Some(stream) = gpu.stream {
        options.push(("has_user_compute_stream", switch(true)));
        options.push(("user_compute_stream", stream.address()));
    }
}

/// CUDA. An arena that doubles itself would take memory from the other networks.
///
/// Tensor cores want channels last, but ONNX Runtime (1.31) puts a graph's arithmetic on shapes onto the card once it has
/// changed the layout, and waits for each result of it: 59 times in a call of a tiny SD-Turbo's U-Net, 49 of the default pack's,
/// where channels first has none. A graph with such arithmetic cannot be captured as a CUDA graph then either.
///
/// Without TF32 ONNX Runtime's convolutions take no kernel of cuDNN's for tensor cores, in f16 either: a graph in f16 has it, also for what
/// little it has in f32.
pub(crate) fn cuda(gpu: &GpuSettings, nature: Nature) -> Options {
    let mut options = vec![
        ("device_id", gpu.device.to_string()),
        ("arena_extend_strategy", "kSameAsRequested".to_owned()),
        ("cudnn_conv_algo_search", gpu.cudnn_search.to_string().to_uppercase()),
        ("cudnn_conv_use_max_workspace", switch(true)),
        ("prefer_nhwc", switch(gpu.channels_last || !nature.reckons_with_shapes)),
        ("use_tf32", switch(gpu.tf32 || nature.is_half)),
    ];
    if gpu.graphs {
        options.push(("enable_cuda_graph", switch(true)));
    }
    stream(gpu, &mut options);
    options
}

/// What TensorRT keeps, and for which calls it builds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EngineOptions {
    /// Folder of the engines of one key; `None` keeps none.
    pub(crate) engines: Option<String>,
    /// Folder of what was learned about the card's kernels.
    pub(crate) timings: Option<String>,
    /// Smallest, usual and largest shapes of the dynamic inputs.
    pub(crate) profile: Option<[String; 3]>,
    /// Whether the weights come near to 2 GB.
    pub(crate) large: bool,
    /// Whether no engine is wanted, and all is left to CUDA.
    pub(crate) none: bool,
    /// The card that an engine is compiled for without asking it, as the compiler names it.
    pub(crate) target: Option<String>,
}

/// TensorRT. Layer normalisation stays in f32: in f16 the sums of squares of a wide layer overflow. No CUDA graphs: ONNX Runtime (1.31)
/// waits for each one's end with this provider.
///
/// A graph in f16 needs f16 switched on as well: ONNX Runtime 1.31 makes networks whose types TensorRT chooses, and without it TensorRT
/// refuses layers in f16 or does them in f32. Engines are built one after the other: kernels are timed against each other meanwhile.
pub(crate) fn tensorrt(
    gpu: &GpuSettings,
    (precision, nature): (Precision, Nature),
    engines: &EngineOptions,
) -> Options {
    let half = switch(precision == Precision::F16 || nature.is_half);
    let mut options = vec![
        ("device_id", gpu.device.to_string()),
        ("trt_fp16_enable", half.clone()),
        ("trt_layer_norm_fp32_fallback", half),
        ("trt_force_sequential_engine_build", switch(true)),
    ];
    if let Some(folder) = &engines.engines {
        options.push(("trt_engine_cache_enable", switch(true)));
        options.push(("trt_engine_cache_path", folder.clone()));
        options.push(("trt_engine_cache_prefix", "livediffusion".to_owned()));
    }
    if let Some(folder) = &engines.timings {
        options.push(("trt_timing_cache_enable", switch(true)));
        options.push(("trt_timing_cache_path", folder.clone()));
    }
    if engines.large {
        // Else the provider puts the weights into one message, which ends at 2 GB, and leaves the network to CUDA without a word.
        options.push(("trt_load_user_initializer", switch(true)));
    }
    if engines.none {
        // Parts of fewer nodes are left alone, and no graph has as many.
        options.push(("trt_min_subgraph_size", i32::MAX.to_string()));
    }
    let names = ["trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes"];
    options.extend(profile(names, engines));
    stream(gpu, &mut options);
    options
}

/// TensorRT for RTX: it takes the graph's precision, and compiles in seconds. As a plug-in it is told of the card by the device that it is
/// given, and refuses what it does not know.
///
/// Memory for intermediate values is taken from CUDA's pool in each call, as much as the call needs. To keep it (there is an option)
/// takes as much as the largest call of the profile, which is many times that of a usual one. No CUDA graphs: it captures them at times
/// of its own, and nobody may use the card meanwhile.
pub(crate) fn tensorrt_rtx(gpu: &GpuSettings, engines: &EngineOptions, is_plugin: bool) -> Options {
    let mut options = Vec::new();
    if !is_plugin {
        options.push(("device_id", gpu.device.to_string()));
    }
    if let Some(target) = &engines.target {
        options.push(("nv_target_sm", target.clone()));
    }
    if let Some(folder) = &engines.engines {
        options.push(("nv_runtime_cache_path", folder.clone()));
    }
    let names = ["nv_profile_min_shapes", "nv_profile_opt_shapes", "nv_profile_max_shapes"];
    options.extend(profile(names, engines));
    stream(gpu, &mut options);
    options
}

fn profile(names: [&'static str; 3], engines: &EngineOptions) -> Options {
    engines.profile.iter().flat_map(|shapes| names.into_iter().zip(shapes.iter().cloned())).collect()
}

/// OpenVINO, with `threads` and `lanes` for a CPU.
///
/// The provider's own `precision` option refuses bf16 on a CPU; OpenVINO's properties take it. One stream is one
/// request at a time on all threads; as many streams as lanes, no more, share the threads among requests that come.
/// Pinned threads of two networks that run at once would sit on the same cores: two lanes were half as fast with it.
pub(crate) fn openvino(device: OpenVinoDevice, precision: Precision, (threads, lanes): (usize, usize)) -> Options {
    let name = device.name();
    let hint = match precision {
        Precision::Bf16 => "bf16",
        Precision::F16 => "f16",
        _ => "f32",
    };
    let properties = match device {
        OpenVinoDevice::Cpu => format!(
            r#"{{"CPU":{{"INFERENCE_PRECISION_HINT":"{hint}","NUM_STREAMS":"{lanes}","INFERENCE_NUM_THREADS":"{threads}","ENABLE_CPU_PINNING":"NO"}}}}"#
        ),
        OpenVinoDevice::Gpu => {
            format!(
                r#"{{"GPU":{{"INFERENCE_PRECISION_HINT":"{hint}","NUM_STREAMS":"1","PERFORMANCE_HINT":"LATENCY"}}}}"#
            )
        }
        OpenVinoDevice::Npu => r#"{"NPU":{"PERFORMANCE_HINT":"LATENCY"}}"#.to_owned(),
    };
    let streams = if device == OpenVinoDevice::Cpu { lanes.min(usize::from(u8::MAX)) } else { 1 };
    vec![("device_type", name.to_owned()), ("num_streams", streams.to_string()), ("load_config", properties)]
}

/// CoreML: any of the machine's units, and programs, which take more operators than its older networks.
pub(crate) fn coreml(cache: Option<&str>) -> Options {
    let mut options = vec![("ModelFormat", "MLProgram".to_owned()), ("MLComputeUnits", "ALL".to_owned())];
    options.extend(cache.map(|folder| ("ModelCacheDirectory", folder.to_owned())));
    options
}

/// WebGPU, built in or as a plug-in. The graph's shapes change with the stream batch, so that nothing is captured.
pub(crate) fn webgpu() -> Options {
    vec![("preferredLayout", "NHWC".to_owned())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::settings::{CudnnSearch, UserStream};

    fn value<'a>(options: &'a Options, name: &str) -> Option<&'a str> {
        let mut all = options.iter().filter(|(key, _)| *key == name);
        let found = all.next().map(|(_, value)| value.as_str());
        assert!(all.next().is_none(), "{name} twice");
        found
    }

    #[test]
    fn cuda_takes_only_the_memory_that_it_needs() {
        let options = cuda(&GpuSettings::default(), Nature::default());
        assert_eq!(value(&options, "arena_extend_strategy"), Some("kSameAsRequested"));
        assert_eq!(value(&options, "prefer_nhwc"), Some("1"));
        assert_eq!(value(&options, "cudnn_conv_algo_search"), Some("EXHAUSTIVE"));
        assert_eq!((value(&options, "use_tf32"), value(&options, "device_id")), (Some("0"), Some("0")));
        assert_eq!(value(&options, "has_user_compute_stream"), None);
        assert_eq!(value(&options, "enable_cuda_graph"), None);
        #[allow(unsafe_code, reason = "no session is made with it")]
        // SAFETY: the handle is only printed.
        let stream = unsafe { UserStream::new(std::ptr::without_provenance_mut(0x1000)) };
        let settings = GpuSettings {
            device: 2,
            tf32: true,
            cudnn_search: CudnnSearch::Heuristic,
            graphs: true,
            stream: Some(stream),
            ..GpuSettings::default()
        };
        let options = cuda(&settings, Nature { reckons_with_shapes: true, ..Nature::default() });
        assert_eq!(value(&options, "prefer_nhwc"), Some("0"));
        let last = GpuSettings { channels_last: true, ..settings };
        let shapes = Nature { reckons_with_shapes: true, ..Nature::default() };
        assert_eq!(value(&cuda(&last, shapes), "prefer_nhwc"), Some("1"));
        let half = Nature { is_half: true, ..Nature::default() };
        assert_eq!(value(&cuda(&GpuSettings::default(), half), "use_tf32"), Some("1"));
        assert_eq!(value(&options, "cudnn_conv_algo_search"), Some("HEURISTIC"));
        assert_eq!((value(&options, "use_tf32"), value(&options, "device_id")), (Some("1"), Some("2")));
        assert_eq!(value(&options, "has_user_compute_stream"), Some("1"));
        assert_eq!(value(&options, "user_compute_stream"), Some("4096"));
        assert_eq!(value(&options, "enable_cuda_graph"), Some("1"));
    }

    #[test]
    fn tensorrt_for_rtx_is_told_only_what_it_knows() {
        let engines = EngineOptions {
            engines: Some("/e".into()),
            profile: Some(["x:1x4".into(), "x:2x4".into(), "x:3x4".into()]),
            ..EngineOptions::default()
        };
        let options = tensorrt_rtx(&GpuSettings { device: 1, ..GpuSettings::default() }, &engines, true);
        // The plug-in refuses the number of a card, and the session with it.
        let names: Vec<&str> = options.iter().map(|(name, _)| *name).collect();
        let shapes = ["nv_profile_min_shapes", "nv_profile_opt_shapes", "nv_profile_max_shapes"];
        assert_eq!(names, [&["nv_runtime_cache_path"][..], &shapes].concat());
        assert_eq!((value(&options, shapes[0]), value(&options, shapes[2])), (Some("x:1x4"), Some("x:3x4")));
        let target = EngineOptions { target: Some("sm89".into()), ..engines.clone() };
        assert_eq!(value(&tensorrt_rtx(&GpuSettings::default(), &target, true), "nv_target_sm"), Some("sm89"));
        // Where it is built in.
        let options = tensorrt_rtx(&GpuSettings { device: 1, ..GpuSettings::default() }, &engines, false);
        assert_eq!(value(&options, "device_id"), Some("1"));
    }

    #[test]
    fn tensorrt_keeps_engines_and_builds_for_the_profile() {
        let graph = Nature::default();
        let engines = EngineOptions {
            engines: Some("/e".into()),
            timings: Some("/t".into()),
            profile: Some(["x:1x4".into(), "x:2x4".into(), "x:3x4".into()]),
            ..EngineOptions::default()
        };
        let none = EngineOptions { none: true, ..EngineOptions::default() };
        let fewest = |engines| tensorrt(&GpuSettings::default(), (Precision::F32, graph), engines);
        assert_eq!(value(&fewest(&none), "trt_min_subgraph_size"), Some("2147483647"));
        assert_eq!(value(&fewest(&engines), "trt_min_subgraph_size"), None);
        assert_eq!(
            value(&tensorrt(&GpuSettings::default(), (Precision::F16, graph), &engines), "trt_load_user_initializer"),
            None
        );
        let large = EngineOptions { large: true, ..engines.clone() };
        assert_eq!(
            value(&tensorrt(&GpuSettings::default(), (Precision::F16, graph), &large), "trt_load_user_initializer"),
            Some("1")
        );
        let options = tensorrt(&GpuSettings::default(), (Precision::F16, graph), &engines);
        assert_eq!(value(&options, "trt_fp16_enable"), Some("1"));
        assert_eq!(value(&options, "trt_layer_norm_fp32_fallback"), Some("1"));
        assert_eq!(value(&options, "trt_engine_cache_enable"), Some("1"));
        assert_eq!(value(&options, "trt_engine_cache_path"), Some("/e"));
        assert_eq!(value(&options, "trt_timing_cache_enable"), Some("1"));
        assert_eq!(value(&options, "trt_timing_cache_path"), Some("/t"));
        assert_eq!(value(&options, "trt_profile_min_shapes"), Some("x:1x4"));
        assert_eq!(value(&options, "trt_profile_opt_shapes"), Some("x:2x4"));
        assert_eq!(value(&options, "trt_profile_max_shapes"), Some("x:3x4"));
        let options = tensorrt(&GpuSettings::default(), (Precision::F32, graph), &EngineOptions::default());
        assert_eq!(value(&options, "trt_fp16_enable"), Some("0"));
        // As the graph says, and it says f16.
        let half = Nature { is_half: true, ..graph };
        let of_half = tensorrt(&GpuSettings::default(), (Precision::F32, half), &EngineOptions::default());
        assert_eq!(value(&of_half, "trt_fp16_enable"), Some("1"));
        assert_eq!(value(&of_half, "trt_layer_norm_fp32_fallback"), Some("1"));
        assert_eq!(value(&options, "trt_engine_cache_enable"), None);
        assert_eq!(
            value(&tensorrt_rtx(&GpuSettings::default(), &engines, true), "nv_profile_max_shapes"),
            Some("x:3x4")
        );
    }

    #[test]
    fn openvino_names_the_device_and_only_a_cpu_gets_threads() {
        let options = openvino(OpenVinoDevice::Cpu, Precision::Bf16, (6, 2));
        assert_eq!(value(&options, "device_type"), Some("CPU"));
        assert_eq!(value(&options, "num_streams"), Some("2"));
        assert_eq!(
            value(&options, "load_config"),
            Some(
                r#"{"CPU":{"INFERENCE_PRECISION_HINT":"bf16","NUM_STREAMS":"2","INFERENCE_NUM_THREADS":"6","ENABLE_CPU_PINNING":"NO"}}"#
            )
        );
        for (device, precision) in [(OpenVinoDevice::Gpu, Precision::F16), (OpenVinoDevice::Npu, Precision::F16)] {
            let options = openvino(device, precision, (6, 2));
            let config: serde_json::Value = serde_json::from_str(value(&options, "load_config").unwrap()).unwrap();
            assert_eq!(value(&options, "device_type"), Some(device.name()));
            assert!(config[device.name()].is_object() && config[device.name()]["INFERENCE_NUM_THREADS"].is_null());
        }
    }

    #[test]
    fn the_others_say_where_they_keep_what_they_compile() {
        assert_eq!(value(&coreml(Some("/c")), "ModelCacheDirectory"), Some("/c"));
        assert_eq!(value(&coreml(None), "ModelCacheDirectory"), None);
        assert_eq!(value(&coreml(None), "ModelFormat"), Some("MLProgram"));
        assert_eq!(value(&webgpu(), "preferredLayout"), Some("NHWC"));
    }
}
