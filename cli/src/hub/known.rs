//! Short names of models that people look for.

/// A model that has a short name.
#[derive(Debug)]
pub(crate) struct Known {
    /// What `models pull` and `--model` take.
    pub(crate) name: &'static str,
    /// The repository with ONNX files, where one is known.
    pub(crate) repo: Option<&'static str>,
    /// The repository with the original weights, to export from.
    pub(crate) original: &'static str,
    /// What is known of it. None of these was downloaded by the makers of this program.
    pub(crate) note: &'static str,
}

/// All of them.
pub(crate) const KNOWN: [Known; 5] = [
    Known {
        name: "sd-turbo",
        repo: Some("schmuell/sd-turbo-ort-web"),
        original: "stabilityai/sd-turbo",
        note: "not verified: f16 for the web, said to lack the tokenizer; non-commercial licence",
    },
    Known {
        name: "sdxl-turbo",
        repo: Some("stabilityai/sdxl-turbo"),
        original: "stabilityai/sdxl-turbo",
        note: "not verified: tagged onnx by its makers; non-commercial licence",
    },
    Known {
        name: "lcm",
        repo: Some("deinferno/LCM_Dreamshaper_v7-onnx"),
        original: "SimianLuo/LCM_Dreamshaper_v7",
        note: "not verified: named by others as an ONNX export",
    },
    Known {
        name: "sdxs",
        repo: None,
        original: "IDKiro/sdxs-512-0.9",
        note: "no repository with ONNX files is known: export it",
    },
    Known {
        name: "taesd",
        repo: None,
        original: "madebyollin/taesd",
        note: "no repository with ONNX files is known: export it; a VAE, no whole model",
    },
];

/// The model of that short name.
pub(crate) fn known(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.name == name)
}

/// How a model becomes a pack where nobody has exported it.
pub(crate) fn export_hint(original: &str) -> String {
    format!("export it with Optimum: optimum-cli export onnx --model {original} DIR; then give --model DIR")
}

/// The table, for `models pull --help`.
pub(crate) fn table() -> String {
    let line = |known: &Known| format!("  {:<11} {:<34} {}", known.name, known.repo.unwrap_or("-"), known.note);
    KNOWN.iter().map(line).collect::<Vec<_>>().join("\n")
}
