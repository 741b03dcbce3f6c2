//! What an NVIDIA card says of itself: its memory and the energy that it has used.

use nvml_wrapper::Nvml;

/// A card, asked through the driver's management library, which is loaded when it is asked for.
pub struct GpuMeter {
    nvml: Nvml,
    index: u32,
}

impl GpuMeter {
    /// The card of that number, or why there is none.
    pub fn open(index: u32) -> Result<Self, String> {
        let nvml = Nvml::init().map_err(|error| format!("no NVML: {error}"))?;
        nvml.device_by_index(index).map_err(|error| format!("no card {index}: {error}"))?;
        Ok(Self { nvml, index })
    }

    /// Bytes of its memory that are in use, by everybody.
    pub fn used_bytes(&self) -> Result<u64, String> {
        let device = self.nvml.device_by_index(self.index).map_err(|error| error.to_string())?;
        device.memory_info().map(|memory| memory.used).map_err(|error| error.to_string())
    }

    /// Energy since the driver was loaded, in joules; cards since Volta count it.
    pub fn joules(&self) -> Result<f64, String> {
        let device = self.nvml.device_by_index(self.index).map_err(|error| error.to_string())?;
        device.total_energy_consumption().map(|mj| mj as f64 / 1e3).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::GpuMeter;

    #[test]
    fn a_machine_without_a_card_says_so() {
        match GpuMeter::open(0) {
            Ok(meter) => assert!(meter.used_bytes().is_ok()),
            Err(reason) => assert!(reason.starts_with("no "), "{reason}"),
        }
    }
}
