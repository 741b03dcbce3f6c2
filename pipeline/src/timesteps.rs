//! From `num_inference_steps` to diffusion times.

use crate::schedule::{PlanError, SchedulerConfig, TimestepSpacing};

/// LCM's and TCD's table: `num_inference_steps` times picked evenly from the `original_inference_steps` that the model
/// was distilled on, descending. With 50 of 50: 999, 979, …, 19 (diffusers' `LCMScheduler.set_timesteps`).
///
/// # Errors
/// More inference steps than original ones, more original steps than training steps, or none.
pub fn consistency_timesteps(config: &SchedulerConfig, num_inference_steps: usize) -> Result<Vec<f64>, PlanError> {
    let (train, original) = (config.num_train_timesteps, config.original_inference_steps);
    if original == 0 || original > train {
        return Err(PlanError::new(
            format!("original_inference_steps is {original}, outside 1..={train}"),
            "set it to the number of steps that the model was distilled on (50 for LCM)",
        ));
    }
    if num_inference_steps == 0 || num_inference_steps > original {
        return Err(PlanError::new(
            format!("{num_inference_steps} steps were asked of a table of {original} (original_inference_steps)"),
            format!("use --steps 1 to {original}, or raise --original-inference-steps"),
        ));
    }
    let stride = train / original;
    Ok((0..num_inference_steps)
        .map(|i| {
            // Descending origin table: entry j is stride·(original - j) - 1.
            let j = i * original / num_inference_steps;
            (stride * (original - j) - 1) as f64
        })
        .collect())
}

/// The other solvers' table, by the scheduler configuration's `timestep_spacing`, descending.
///
/// # Errors
/// No steps, or more than training steps.
pub fn spaced_timesteps(config: &SchedulerConfig, num_inference_steps: usize) -> Result<Vec<f64>, PlanError> {
    let (train, steps) = (config.num_train_timesteps, num_inference_steps);
    if steps == 0 || steps > train {
        return Err(PlanError::new(
            format!("{steps} steps were asked of a model trained on {train}"),
            format!("use --steps 1 to {train}"),
        ));
    }
    let last = (train - 1) as f64;
    Ok(match config.timestep_spacing {
        TimestepSpacing::Linspace => {
            let at = |i: usize| if steps == 1 { last } else { last * (steps - 1 - i) as f64 / (steps - 1) as f64 };
            (0..steps).map(at).collect()
        }
        TimestepSpacing::Leading => {
            let stride = train / steps;
            let at = |i: usize| ((stride * (steps - 1 - i)) as i64 + config.steps_offset) as f64;
            (0..steps).map(|i| at(i).clamp(0.0, last)).collect()
        }
        TimestepSpacing::Trailing => {
            let stride = train as f64 / steps as f64;
            (0..steps).map(|i| ((train as f64 - stride * i as f64).round_ties_even() - 1.0).max(0.0)).collect()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lcm_tables() {
        let config = SchedulerConfig::default();
        let table = |m| consistency_timesteps(&config, m).unwrap();
        assert_eq!(table(1), [999.0]);
        assert_eq!(table(2), [999.0, 499.0]);
        assert_eq!(table(4), [999.0, 759.0, 499.0, 259.0]);
        assert_eq!(table(8), [999.0, 879.0, 759.0, 639.0, 499.0, 379.0, 259.0, 139.0]);
        assert!((0..50).all(|i| table(50)[i] == (999 - 20 * i) as f64));
    }

    #[test]
    fn more_steps_than_original_ones_is_an_error_that_says_both() {
        let error = consistency_timesteps(&SchedulerConfig::default(), 51).unwrap_err();
        assert!(error.what.contains("51") && error.what.contains("50"), "{}", error.what);
        let wide = SchedulerConfig { original_inference_steps: 100, ..SchedulerConfig::default() };
        assert_eq!(consistency_timesteps(&wide, 100).unwrap()[99], 9.0);
    }

    #[test]
    fn spacings_as_in_diffusers() {
        let table = |spacing, offset, m| {
            let config =
                SchedulerConfig { timestep_spacing: spacing, steps_offset: offset, ..SchedulerConfig::default() };
            spaced_timesteps(&config, m).unwrap()
        };
        assert_eq!(table(TimestepSpacing::Trailing, 0, 1), [999.0]);
        assert_eq!(table(TimestepSpacing::Trailing, 0, 4), [999.0, 749.0, 499.0, 249.0]);
        assert_eq!(table(TimestepSpacing::Leading, 1, 4), [751.0, 501.0, 251.0, 1.0]);
        assert_eq!(table(TimestepSpacing::Linspace, 0, 4), [999.0, 666.0, 333.0, 0.0]);
    }
}
