// Blending of two tensors. The CPU twin is blend.rs.

// A step towards another value, none towards what is no number.
__device__ inline float step_to(float weight, float x, float other) { return is_broken(other) ? 0.0f : weight * (other - x); }

// x += weight * (other - x)
extern "C" __global__ void blend_f32(float weight, const float* __restrict__ other, float* __restrict__ x, u64 count) {
    for_each<4>(
        count, is_aligned(other, 16) && is_aligned(x, 16),
        [&](u64 at) {
            Pack<float, 4> a = load<4>(x + at), b = load<4>(other + at);
            for (int k = 0; k < 4; ++k) a.v[k] += step_to(weight, a.v[k], b.v[k]);
            store<4>(x + at, a);
        },
        [&](u64 at) { x[at] += step_to(weight, x[at], other[at]); });
}
