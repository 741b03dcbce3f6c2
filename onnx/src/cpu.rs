//! What the processor offers: physical cores and bf16 arithmetic.

use std::collections::HashSet;

/// Physical cores that this process may use. Two threads of one core share its vector units, so that more threads
/// than that only contend.
pub fn physical_cores() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    let listing = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    match count_cores(&listing) {
        0 => allowed,
        cores => cores.min(allowed),
    }
}

/// Whether bf16 arithmetic is in hardware. Where it is emulated, bf16 is slower than f32 and less exact.
pub fn has_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx512bf16") {
        return true;
    }
    // AMX cannot be asked for by the stable macro.
    let listing = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    listing.lines().find(|l| l.starts_with("flags")).is_some_and(|l| l.split_whitespace().any(|f| f == "amx_bf16"))
}

/// Distinct (package, core) pairs in a `/proc/cpuinfo`; 0 where it does not tell.
fn count_cores(listing: &str) -> usize {
    let mut cores = HashSet::new();
    let mut package = "";
    for line in listing.lines() {
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        match key.trim() {
            "physical id" => package = value.trim(),
            "core id" => {
                cores.insert((package, value.trim()));
            }
            _ => {}
        }
    }
    cores.len()
}

#[cfg(test)]
mod tests {
    use super::count_cores;

    #[test]
    fn two_threads_of_a_core_count_once() {
        let listing =
            "physical id\t: 0\ncore id\t\t: 0\n\nphysical id\t: 0\ncore id\t\t: 0\n\nphysical id : 0\ncore id : 1\n";
        assert_eq!(count_cores(listing), 2);
        assert_eq!(count_cores(""), 0);
    }
}
