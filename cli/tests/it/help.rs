//! Outputs that are fixed: help and usage errors, as snapshots.

use std::path::Path;

/// `TRYCMD=overwrite cargo test -p livediffusion help` writes the snapshots anew.
#[test]
fn help_and_usage_errors_are_as_recorded() {
    trycmd::TestCases::new()
        .register_bin("livediffusion", Path::new(env!("CARGO_BIN_EXE_livediffusion")))
        .env("COLUMNS", "100")
        .case("tests/cmd/*.trycmd");
}
