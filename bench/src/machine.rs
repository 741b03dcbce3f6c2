//! What the measuring machine is and what it has used so far, where the system tells.

use std::path::Path;

/// The processor's name, from `/proc/cpuinfo`.
pub fn cpu_model() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Resident memory of this process now, in MB of 2²⁰ bytes.
pub fn resident_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kilobytes: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes / 1024.0)
}

/// Energy that the processor packages have used since some moment, in joules, from RAPL's counters; `None` where they
/// are absent or not readable (they often are for root alone).
pub fn package_joules() -> Option<f64> {
    package_joules_in(Path::new("/sys/class/powercap"))
}

fn package_joules_in(folder: &Path) -> Option<f64> {
    let mut total = None;
    for entry in std::fs::read_dir(folder).ok()?.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        // `intel-rapl:0` is a package (of AMD's too); `intel-rapl:0:0` is a part of it.
        let is_package = name.starts_with("intel-rapl:") && name.matches(':').count() == 1;
        if is_package {
            let text = std::fs::read_to_string(entry.path().join("energy_uj")).ok()?;
            *total.get_or_insert(0.0) += text.trim().parse::<f64>().ok()? / 1e6;
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joules_are_those_of_all_packages_and_none_of_their_parts() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(package_joules_in(folder.path()), None);
        for (name, energy) in [("intel-rapl:0", "2000000\n"), ("intel-rapl:1", "500000"), ("intel-rapl:0:0", "9")] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            std::fs::write(folder.path().join(name).join("energy_uj"), energy).unwrap();
        }
        assert_eq!(package_joules_in(folder.path()), Some(2.5));
    }
}
