//! What can go wrong on the way of a frame, with the next thing to try.

use crate::frame::Size;
use crate::model::ModelError;
use crate::schedule::PlanError;

/// Why the engine could not be made or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A network failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The noise schedule or the t_index_list cannot be done.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A picture size that the networks cannot take.
    #[error("size {size} is not a multiple of {unit} on both sides, as this model needs")]
    Size {
        /// The size asked for.
        size: Size,
        /// What both sides must be a multiple of.
        unit: usize,
        /// The nearest size that works.
        nearest: Size,
    },
    /// More rows in a call of the U-Net than it was compiled for.
    #[error("{rows} rows in a call of the U-Net, which was compiled for at most {most}")]
    Rows {
        /// Steps × frame buffer, and those of the negative prompt.
        rows: usize,
        /// As many as there may be.
        most: usize,
    },
    /// A frame of another size than the stream's.
    #[error("a frame of {got} came into a stream of {expected}")]
    Picture {
        /// The stream's size.
        expected: Size,
        /// The frame's.
        got: Size,
    },
    /// A parameter that cannot change while the stream runs.
    #[error("{parameter} cannot change while the stream runs; it stays {value}")]
    NeedsRestart {
        /// The parameter.
        parameter: &'static str,
        /// The value that stays.
        value: String,
    },
    /// A pack without a VAE encoder was given pictures.
    #[error("this model has no VAE encoder: it cannot repaint pictures")]
    NoEncoder,
    /// A lane's thread could not be started or is gone.
    #[error("a lane of the engine stopped: {0}")]
    Lane(String),
    /// A thread beside the engine could not be started.
    #[error("cannot start the {name}'s thread: {what}")]
    Thread {
        /// Whose it is.
        name: &'static str,
        /// What the system said.
        what: String,
    },
    /// Several frames in a row came out of the networks as NaN or infinity.
    #[error("the networks gave NaN or infinity for {frames} frames in a row")]
    NotFinite {
        /// Frames in a row.
        frames: u32,
    },
}

impl EngineError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Model(error) => error.hint.clone(),
            Self::Plan(error) => Some(error.hint.clone()),
            Self::Size { nearest, .. } => Some(format!("use --size {nearest}")),
            Self::Rows { .. } => Some(
                "shorten --t-index, or take --cfg self in place of full; or start again with these settings: engines for them are built then"
                    .into(),
            ),
            Self::NeedsRestart { .. } => Some("start the stream anew with it".into()),
            Self::NoEncoder => Some("use --input noise:// (txt2img), or a pack with vae_encoder/".into()),
            Self::NotFinite { .. } => Some(
                "f16 networks overflow where f32 ones do not: use an f32 pack or --precision f32, lower --guidance, or \
                 check the pack with livediffusion models inspect"
                    .into(),
            ),
            Self::Picture { .. } | Self::Thread { .. } => None,
            Self::Lane(_) => Some("try it with --lanes 1, and report it with the log of -vv".into()),
        }
    }
}
