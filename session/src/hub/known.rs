//! Short names of models that people look for.

/// A model that has a short name.
#[derive(Debug)]
pub struct Known {
    /// What `models pull` and `--model` take.
    pub name: &'static str,
    /// The repository with ONNX files, where one is known.
    pub repo: Option<&'static str>,
    /// The repository with the original weights, to export from.
    pub original: &'static str,
    /// What others say of it: none of these was downloaded by the makers of this program.
    pub note: &'static str,
}

/// All of them.
const KNOWN: [Known; 5] = [
    Known {
        name: "sd-turbo",
        repo: Some("schmuell/sd-turbo-ort-web"),
        original: "stabilityai/sd-turbo",
        note: "f16, may lack its tokenizer; non-commercial",
    },
    Known {
        name: "sdxl-turbo",
        repo: Some("stabilityai/sdxl-turbo"),
        original: "stabilityai/sdxl-turbo",
        note: "tagged onnx by its makers; non-commercial",
    },
    Known {
        name: "lcm",
        repo: Some("deinferno/LCM_Dreamshaper_v7-onnx"),
        original: "SimianLuo/LCM_Dreamshaper_v7",
        note: "named by others as an export",
    },
    Known { name: "sdxs", repo: None, original: "IDKiro/sdxs-512-0.9", note: "none known: export it" },
    Known { name: "taesd", repo: None, original: "madebyollin/taesd", note: "none known: export it; only a VAE" },
];

/// The model of that short name.
pub fn known(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.name == name)
}

/// How a model becomes a pack where nobody has exported it.
pub fn export_hint(original: &str) -> String {
    format!("export it with Optimum: optimum-cli export onnx --model {original} DIR; then give --model DIR")
}

/// The table, for `models pull --help`.
pub fn table() -> String {
    let line = |known: &Known| format!("  {:<11} {:<33} {}", known.name, known.repo.unwrap_or("-"), known.note);
    KNOWN.iter().map(line).collect::<Vec<_>>().join("\n")
}
