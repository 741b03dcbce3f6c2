//! The tests of a card, on one in software whose streams do their work as late or as early as CUDA allows.

use crate::host::software::{schedules, under_schedules};

#[test]
fn enough_is_waited_for_on_a_card_in_software() {
    under_schedules(&["device::"], 0..schedules(3));
}
