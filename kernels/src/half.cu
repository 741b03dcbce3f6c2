// Conversion between 16- and 32-bit floats, eight a thread. The CPU twin is half.rs.

extern "C" __global__ void f16_to_f32(const f16* __restrict__ from, float* __restrict__ to, u64 count) {
    for_each<8>(
        count, is_aligned(from, 16) && is_aligned(to, 16),
        [&](u64 at) {
            Pack<f16, 8> in = load<8>(from + at);
            Pack<float, 4> out[2];
            for (int k = 0; k < 8; ++k) out[k / 4].v[k % 4] = to_float(in.v[k]);
            store<4>(to + at, out[0]);
            store<4>(to + at + 4, out[1]);
        },
        [&](u64 at) { to[at] = to_float(from[at]); });
}

extern "C" __global__ void f32_to_f16(const float* __restrict__ from, f16* __restrict__ to, u64 count) {
    for_each<8>(
        count, is_aligned(from, 16) && is_aligned(to, 16),
        [&](u64 at) {
            Pack<float, 4> in[2] = {load<4>(from + at), load<4>(from + at + 4)};
            Pack<f16, 8> out;
            for (int k = 0; k < 8; ++k) out.v[k] = from_float<f16>(in[k / 4].v[k % 4]);
            store<8>(to + at, out);
        },
        [&](u64 at) { to[at] = from_float<f16>(from[at]); });
}
