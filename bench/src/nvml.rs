//! What an NVIDIA card says of itself: its memory and the energy that it has used.

use nvml_wrapper::{Device, Nvml};

/// A card, asked through the driver's management library, which is loaded when it is asked for.
pub struct GpuMeter {
    nvml: Nvml,
    bus_id: String,
}

impl GpuMeter {
    /// The card at that place on the PCI bus (`0000:65:00.0`), or why there is none. By its number it might be another one: the library
    /// counts in another order than CUDA.
    pub fn open(bus_id: &str) -> Result<Self, String> {
        let nvml = Nvml::init().map_err(|error| format!("no NVML: {error}"))?;
        nvml.device_by_pci_bus_id(bus_id).map_err(|error| format!("no card at {bus_id}: {error}"))?;
        Ok(Self { nvml, bus_id: bus_id.to_owned() })
    }

    fn device(&self) -> Result<Device<'_>, String> {
        self.nvml.device_by_pci_bus_id(self.bus_id.as_str()).map_err(|error| error.to_string())
    }

    /// Bytes of its memory that are in use, by everybody.
    pub fn used_bytes(&self) -> Result<u64, String> {
        let device = self.device()?;
        device.memory_info().map(|memory| memory.used).map_err(|error| error.to_string())
    }

    /// Energy since the driver was loaded, in joules; cards since Volta count it.
    pub fn joules(&self) -> Result<f64, String> {
        let device = self.device()?;
        device.total_energy_consumption().map(|mj| mj as f64 / 1e3).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::GpuMeter;

    #[test]
    fn a_machine_without_a_card_says_so() {
        match GpuMeter::open("0000:65:00.0") {
            Ok(meter) => assert!(meter.used_bytes().is_ok()),
            Err(reason) => assert!(reason.starts_with("no "), "{reason}"),
        }
    }
}
