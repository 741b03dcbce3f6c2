// Blending of two tensors. The CPU twin is blend.rs.

// x += weight * (other - x)
extern "C" __global__ void blend_f32(float weight, const float* __restrict__ other, float* __restrict__ x, u64 count) {
    for_each<4>(
        count, is_aligned(other, 16) && is_aligned(x, 16),
        [&](u64 at) {
            Pack<float, 4> a = load<4>(x + at), b = load<4>(other + at);
            for (int k = 0; k < 4; ++k) a.v[k] += weight * (b.v[k] - a.v[k]);
            store<4>(x + at, a);
        },
        [&](u64 at) { x[at] += weight * (other[at] - x[at]); });
}
