// Pictures to tensors: 8-bit RGB, RGBA or NV12 with a stride -> planar f32 or f16, with crop, resize and normalisation in one
// pass. The CPU twin is resample.rs.

// As `PictureArguments` in gpu/arguments.rs.
struct PictureArguments {
    const u8* planes[2]; // NV12: luma, then interleaved chroma of half the size
    u64 strides[2];      // bytes from row to row
    u32 left, top;       // of the rectangle that is taken
    u32 crop_width, crop_height;
    u32 width, height;   // of the tensor
    u32 filter;          // 0: the rectangle has the tensor's size, 1: bilinear, 2: area
    float ratio_x, ratio_y; // crop over tensor
    float scale, bias;      // 0 to 255 -> what the network takes
    float luma_scale, luma_offset, red_v, green_u, green_v, blue_u;
};

struct Colour {
    float v[3];
};

__device__ inline float clamp_to_byte(float value) { return fminf(fmaxf(value, 0.0f), 255.0f); }

struct Rgb8 {
    static const u32 bytes = 3;
    static __device__ Colour at(const PictureArguments& a, u32 x, u32 y) {
        const u8* pixel = a.planes[0] + y * a.strides[0] + u64(x) * 3;
        return Colour{{float(pixel[0]), float(pixel[1]), float(pixel[2])}};
    }
};

struct Rgba8 {
    static const u32 bytes = 4;
    static __device__ Colour at(const PictureArguments& a, u32 x, u32 y) {
        const u8* pixel = a.planes[0] + y * a.strides[0] + u64(x) * 4;
        return Colour{{float(pixel[0]), float(pixel[1]), float(pixel[2])}};
    }
};

struct Nv12 {
    static const u32 bytes = 0; // not interleaved: read pixel by pixel
    static __device__ Colour at(const PictureArguments& a, u32 x, u32 y) {
        const u8* chroma = a.planes[1] + (y / 2) * a.strides[1] + u64(x / 2) * 2;
        float luma = (float(a.planes[0][y * a.strides[0] + x]) - a.luma_offset) * a.luma_scale;
        float u = float(chroma[0]) - 128.0f, v = float(chroma[1]) - 128.0f;
        return Colour{{clamp_to_byte(luma + a.red_v * v), clamp_to_byte(luma + a.green_u * u + a.green_v * v),
                       clamp_to_byte(luma + a.blue_u * u)}};
    }
};

// Pixel centres at halves, as in torch's `interpolate(align_corners=False)`.
struct Tap {
    u32 low, high;
    float weight; // of `high`
};

__device__ inline Tap tap(u32 at, float ratio, u32 size) {
    float centre = (float(at) + 0.5f) * ratio - 0.5f;
    centre = fminf(fmaxf(centre, 0.0f), float(size - 1));
    u32 low = u32(centre);
    return Tap{low, low + 1 < size ? low + 1 : low, centre - float(low)};
}

template <class Format> __device__ Colour bilinear(const PictureArguments& a, u32 x, u32 y) {
    Tap h = tap(x, a.ratio_x, a.crop_width), v = tap(y, a.ratio_y, a.crop_height);
    Colour corners[4] = {
        Format::at(a, a.left + h.low, a.top + v.low), Format::at(a, a.left + h.high, a.top + v.low),
        Format::at(a, a.left + h.low, a.top + v.high), Format::at(a, a.left + h.high, a.top + v.high)};
    Colour out;
    for (int c = 0; c < 3; ++c) {
        float upper = corners[0].v[c] + h.weight * (corners[1].v[c] - corners[0].v[c]);
        float lower = corners[2].v[c] + h.weight * (corners[3].v[c] - corners[2].v[c]);
        out.v[c] = upper + v.weight * (lower - upper);
    }
    return out;
}

// The source pixels that a target pixel covers, with the lengths that it covers of the first and the last.
struct Box {
    u32 first, end;
    float from, to;
    // At least something: the ends of a tiny box may round to the same value.
    __device__ float weight(u32 at) const {
        return fmaxf(fminf(float(at + 1), to) - fmaxf(float(at), from), 1e-6f);
    }
};

__device__ inline Box box(u32 at, float ratio, u32 size) {
    float from = float(at) * ratio, to = float(at + 1) * ratio;
    u32 first = u32(from), end = u32(ceilf(to));
    first = first < size ? first : size - 1;
    end = end < size ? end : size;
    return Box{first, end > first ? end : first + 1, from, to};
}

template <class Format> __device__ Colour area(const PictureArguments& a, u32 x, u32 y) {
    Box h = box(x, a.ratio_x, a.crop_width), v = box(y, a.ratio_y, a.crop_height);
    float total[3] = {0.0f, 0.0f, 0.0f}, width = 0.0f, height = 0.0f;
    for (u32 i = h.first; i < h.end; ++i) width += h.weight(i);
    for (u32 j = v.first; j < v.end; ++j) {
        float row[3] = {0.0f, 0.0f, 0.0f};
        for (u32 i = h.first; i < h.end; ++i) {
            Colour colour = Format::at(a, a.left + i, a.top + j);
            float weight = h.weight(i);
            for (int c = 0; c < 3; ++c) row[c] += weight * colour.v[c];
        }
        float weight = v.weight(j);
        height += weight;
        for (int c = 0; c < 3; ++c) total[c] += weight * row[c];
    }
    float whole = width * height;
    return Colour{{total[0] / whole, total[1] / whole, total[2] / whole}};
}

// Reads N neighbours of a row as they are, in accesses of four bytes or more where their address allows it.
template <class Format, int N> __device__ void read_row(const PictureArguments& a, u32 x, u32 y, Colour (&out)[N]) {
    const u8* from = a.planes[0] + (a.top + y) * a.strides[0] + u64(a.left + x) * Format::bytes;
    if (Format::bytes == 0 || !is_aligned(from, 4)) {
#pragma unroll
        for (int k = 0; k < N; ++k) out[k] = Format::at(a, a.left + x + k, a.top + y);
        return;
    }
    const int words = Format::bytes == 0 ? 1 : N * Format::bytes / 4;
    u32 word[words];
    if (Format::bytes == 4 && is_aligned(from, 16)) {
#pragma unroll
        for (int i = 0; i < words / 4; ++i) {
            Pack<u32, 4> four = load<4>(reinterpret_cast<const u32*>(from) + 4 * i);
            for (int k = 0; k < 4; ++k) word[4 * i + k] = four.v[k];
        }
    } else {
#pragma unroll
        for (int i = 0; i < words; ++i) word[i] = reinterpret_cast<const u32*>(from)[i];
    }
#pragma unroll
    for (int k = 0; k < N; ++k) {
        for (int c = 0; c < 3; ++c) {
            const int byte = k * Format::bytes + c;
            out[k].v[c] = float((word[byte / 4] >> (8 * (byte % 4))) & 0xff);
        }
    }
}

template <class T> __device__ T normalise(const PictureArguments& a, float value) {
    return from_float<T>(value * a.scale + a.bias);
}

// Each thread makes the pixels of one 16-byte store in each of the three planes.
template <class Format, class T> __device__ void copy_in_groups(const PictureArguments& a, T* chw) {
    const int N = 16 / sizeof(T);
    const u64 plane = u64(a.width) * a.height;
    const u32 groups = a.width / N, all = groups * a.height;
    for (u32 at = u32(thread_index()); at < all; at += u32(thread_count())) {
        const u32 y = at / groups, x = at % groups * N;
        Colour pixels[N];
        read_row<Format, N>(a, x, y, pixels);
#pragma unroll
        for (int c = 0; c < 3; ++c) {
            Pack<T, N> out;
            for (int k = 0; k < N; ++k) out.v[k] = normalise<T>(a, pixels[k].v[c]);
            store<N>(chw + c * plane + u64(y) * a.width + x, out);
        }
    }
}

// Neighbouring threads make neighbouring pixels, whose sources lie side by side too.
template <class Format, class T> __device__ void pixel_by_pixel(const PictureArguments& a, T* chw) {
    const u32 all = a.width * a.height;
    for (u32 at = u32(thread_index()); at < all; at += u32(thread_count())) {
        const u32 y = at / a.width, x = at % a.width;
        const Colour pixel = a.filter == 0   ? Format::at(a, a.left + x, a.top + y)
                             : a.filter == 1 ? bilinear<Format>(a, x, y)
                                             : area<Format>(a, x, y);
        for (int c = 0; c < 3; ++c) chw[u64(c) * all + at] = normalise<T>(a, pixel.v[c]);
    }
}

template <class Format, class T> __device__ void picture_to_chw(const PictureArguments& a, T* chw) {
    if (a.filter == 0 && a.width % (16 / sizeof(T)) == 0 && is_aligned(chw, 16)) {
        copy_in_groups<Format>(a, chw);
    } else {
        pixel_by_pixel<Format>(a, chw);
    }
}

#define PICTURE_KERNELS(name, Format)                                                                         \
    extern "C" __global__ void name##_to_chw_f32(const IN_PLACE PictureArguments a, float* chw) { \
        picture_to_chw<Format>(a, chw);                                                                       \
    }                                                                                                         \
    extern "C" __global__ void name##_to_chw_f16(const IN_PLACE PictureArguments a, f16* chw) {   \
        picture_to_chw<Format>(a, chw);                                                                       \
    }
PICTURE_KERNELS(rgb8, Rgb8)
PICTURE_KERNELS(rgba8, Rgba8)
PICTURE_KERNELS(nv12, Nv12)
