//! The guidance scale as an input of the network: LCM full models take it in place of guidance between two branches.

/// diffusers' `get_guidance_scale_embedding` of w = γ - 1: [sin, cos] of 1000·w at `width`/2 frequencies from 1 down to
/// 1/10000, a zero at the end of an odd width (LCM, arXiv 2310.04378, §4.2: w-conditioning).
pub fn guidance_embedding(scale: f32, width: usize) -> Vec<f32> {
    let half = width / 2;
    let w = (f64::from(scale) - 1.0) * 1000.0;
    let decay = 10_000.0_f64.ln() / (half.max(2) - 1) as f64;
    let angle = |i: usize| w * (-decay * i as f64).exp();
    let mut embedding: Vec<f32> = (0..half).map(|i| angle(i).sin() as f32).collect();
    embedding.extend((0..half).map(|i| angle(i).cos() as f32));
    embedding.resize(width, 0.0);
    embedding
}

#[cfg(test)]
mod tests {
    use super::guidance_embedding;

    #[test]
    fn values_of_diffusers() {
        // γ = 1 is w = 0: all sines 0, all cosines 1.
        let none = guidance_embedding(1.0, 256);
        assert!(none[..128].iter().all(|v| *v == 0.0) && none[128..].iter().all(|v| *v == 1.0));
        // γ = 8.5: sin(7500), and at the last frequency sin(7500/10000).
        let strong = guidance_embedding(8.5, 256);
        assert!((f64::from(strong[0]) - 7500.0_f64.sin()).abs() < 1e-5);
        assert!((f64::from(strong[127]) - 0.75_f64.sin()).abs() < 1e-5);
        assert!((f64::from(strong[255]) - 0.75_f64.cos()).abs() < 1e-5);
        assert_eq!(guidance_embedding(2.0, 7).len(), 7);
    }
}
