// A VAE's latents: sampled from a posterior, and brought back to the decoder's scale. The CPU twin is latent.rs.

// out = mean + exp(log_variance / 2) * noise, the log-variance clamped as diffusers clamps it.
template <class T>
__device__ void posterior(const T* __restrict__ mean, const T* __restrict__ log_variance, const float* __restrict__ noise,
                          float* __restrict__ out, u64 count) {
    const bool aligned =
        is_aligned(mean, 4 * sizeof(T)) && is_aligned(log_variance, 4 * sizeof(T)) && is_aligned(noise, 16) && is_aligned(out, 16);
    const auto one = [](float m, float l, float n) {
        // NaN stays NaN, as in Rust's clamp.
        const float clamped = l < -30.0f ? -30.0f : (l > 20.0f ? 20.0f : l);
        return m + expf(0.5f * clamped) * n;
    };
    for_each<4>(
        count, aligned,
        [&](u64 at) {
            Pack<T, 4> m = load<4>(mean + at), l = load<4>(log_variance + at);
            Pack<float, 4> n = load<4>(noise + at), to;
            for (int k = 0; k < 4; ++k) to.v[k] = one(to_float(m.v[k]), to_float(l.v[k]), n.v[k]);
            store<4>(out + at, to);
        },
        [&](u64 at) { out[at] = one(to_float(mean[at]), to_float(log_variance[at]), noise[at]); });
}

extern "C" __global__ void posterior_f32(const float* mean, const float* log_variance, const float* noise, float* out, u64 count) {
    posterior(mean, log_variance, noise, out, count);
}

extern "C" __global__ void posterior_f16(const f16* mean, const f16* log_variance, const float* noise, float* out, u64 count) {
    posterior(mean, log_variance, noise, out, count);
}

// out = latent / scale + shift, 16 bytes of it at a time.
template <class T>
__device__ void unscale(float scale, float shift, const float* __restrict__ latent, T* __restrict__ out, u64 count) {
    constexpr int N = 16 / sizeof(T);
    for_each<N>(
        count, is_aligned(latent, 16) && is_aligned(out, 16),
        [&](u64 at) {
            Pack<T, N> to;
            for (int part = 0; part < N; part += 4) {
                Pack<float, 4> from = load<4>(latent + at + part);
                for (int k = 0; k < 4; ++k) to.v[part + k] = from_float<T>(from.v[k] / scale + shift);
            }
            store<N>(out + at, to);
        },
        [&](u64 at) { out[at] = from_float<T>(latent[at] / scale + shift); });
}

extern "C" __global__ void unscale_f32(float scale, float shift, const float* latent, float* out, u64 count) {
    unscale(scale, shift, latent, out, count);
}

extern "C" __global__ void unscale_f16(float scale, float shift, const float* latent, f16* out, u64 count) {
    unscale(scale, shift, latent, out, count);
}
