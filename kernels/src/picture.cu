// Tensors to pictures: planar f32 or f16 in [-1, 1] -> interleaved 8-bit RGB without padding. The CPU twin is `chw_to_rgb8` in
// picture.rs.

__device__ inline u32 quantise(float value) {
    // fmaxf gives 0 for NaN. Round half to even.
    return u32(__float2int_rn(fminf(fmaxf(value * 127.5f + 127.5f, 0.0f), 255.0f)));
}

// N pixels a thread: a 16-byte load from each plane, and whole words of bytes.
template <class T> __device__ bool quantise_in_groups(const T* __restrict__ chw, u32 pixels, u8* __restrict__ rgb) {
    const int N = 16 / sizeof(T), words = 3 * N / 4;
    bool bad = false;
    for (u32 at = u32(thread_index()); at < pixels / N; at += u32(thread_count())) {
        u32 word[words] = {};
#pragma unroll
        for (int c = 0; c < 3; ++c) {
            const Pack<T, N> pack = load<N>(chw + u64(c) * pixels + u64(at) * N);
#pragma unroll
            for (int k = 0; k < N; ++k) {
                const float value = to_float(pack.v[k]);
                const int byte = 3 * k + c;
                bad |= is_broken(value);
                word[byte / 4] |= quantise(value) << (8 * (byte % 4));
            }
        }
        u32* to = reinterpret_cast<u32*>(rgb) + u64(at) * words;
#pragma unroll
        for (int i = 0; i < words; ++i) to[i] = word[i];
    }
    return bad;
}

template <class T> __device__ bool quantise_pixel_by_pixel(const T* __restrict__ chw, u32 pixels, u8* __restrict__ rgb) {
    bool bad = false;
    for (u32 at = u32(thread_index()); at < pixels; at += u32(thread_count())) {
        for (int c = 0; c < 3; ++c) {
            const float value = to_float(chw[u64(c) * pixels + at]);
            bad |= is_broken(value);
            rgb[u64(at) * 3 + c] = u8(quantise(value));
        }
    }
    return bad;
}

// `broken` is set to 1 where a value is infinite or NaN, and left alone otherwise; it may be null.
template <class T> __device__ void chw_to_rgb8(const T* chw, u32 pixels, u8* rgb, u32* broken) {
    const bool aligned = pixels % (16 / sizeof(T)) == 0 && is_aligned(chw, 16) && is_aligned(rgb, 4);
    const bool bad = aligned ? quantise_in_groups(chw, pixels, rgb) : quantise_pixel_by_pixel(chw, pixels, rgb);
    // All who write write the same.
    if (bad && broken) *broken = 1;
}

extern "C" __global__ void chw_to_rgb8_f32(const float* chw, u32 pixels, u8* rgb, u32* broken) {
    chw_to_rgb8(chw, pixels, rgb, broken);
}

extern "C" __global__ void chw_to_rgb8_f16(const f16* chw, u32 pixels, u8* rgb, u32* broken) {
    chw_to_rgb8(chw, pixels, rgb, broken);
}
