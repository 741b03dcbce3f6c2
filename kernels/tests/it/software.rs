//! The tests of a card, on one in software: its streams do their work as late or as early as CUDA allows, or its kernels are NVRTC's
//! code, run instruction by instruction.

use livediffusion_kernels::gpu::Kernel;

use crate::host::software::{schedules, under_ptx, under_schedules};
use crate::nvrtc::CAPABILITIES;

#[test]
fn enough_is_waited_for_on_a_card_in_software() {
    under_schedules(&["card::"], 0..schedules(3));
}

#[test]
fn what_nvrtc_makes_of_the_kernels_gives_the_cpus_values() {
    let parts = ["card::", "latents::", "pictures::", "similarity::"];
    let Some(ran) = under_ptx(&parts, &CAPABILITIES) else { return };
    let all = Kernel::ALL.iter().map(|kernel| kernel.name().to_owned()).collect();
    assert_eq!(ran, all, "not every kernel was run");
}
