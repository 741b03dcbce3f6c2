// What every kernel starts from: types, 16-byte accesses, 16-bit floats and the grid-stride loop.
//
// The kernels have no includes, since NVRTC finds none where only its library is installed. All .cu files are joined behind
// this one and compiled as one module: by NVRTC for the device, and by a C++ compiler behind a header that stands for what
// the device has (tests/it/host/shim.h), so that their arithmetic is compared with the CPU's where there is no GPU.
//
// Compiled without contraction into fused multiply-adds: memory is what these kernels wait for, and without it the element-wise
// ones give the CPU's values bit by bit.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// A struct of arguments that is read where it lies. Cards before Volta know no such word, and copy it first.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 700
#define IN_PLACE
#else
#define IN_PLACE __grid_constant__
#endif

// A 16-bit float in memory; arithmetic is in f32.
struct f16 {
    u16 bits;
};

#ifndef LIVEDIFFUSION_HOST
__device__ inline float half_to_float(u16 bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

// Ties to even.
__device__ inline u16 float_to_half(float value) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(f16 value) { return half_to_float(value.bits); }

template <class T> __device__ T from_float(float value);
template <> __device__ inline float from_float<float>(float value) { return value; }
template <> __device__ inline f16 from_float<f16>(float value) { return f16{float_to_half(value)}; }

// N neighbours that travel in one access of up to 16 bytes.
template <class T, int N> struct alignas(N * sizeof(T)) Pack {
    T v[N];
};

template <int N, class T> __device__ inline Pack<T, N> load(const T* from) {
    return *reinterpret_cast<const Pack<T, N>*>(from);
}

template <int N, class T> __device__ inline void store(T* to, const Pack<T, N>& pack) {
#ifndef LIVEDIFFUSION_HOST
    if constexpr (sizeof(pack) == 16) {
        // Written out, since the compiler splits some of these stores up again.
        const uint4 words = *reinterpret_cast<const uint4*>(&pack);
        asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};"
                     :
                     : "l"(__cvta_generic_to_global(to)), "r"(words.x), "r"(words.y), "r"(words.z), "r"(words.w)
                     : "memory");
        return;
    }
#endif
    *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

__device__ inline bool is_aligned(const void* address, u64 bytes) {
    return reinterpret_cast<u64>(address) % bytes == 0;
}

// Whether all bits of the exponent are set: infinity or NaN.
__device__ inline bool is_broken(float value) { return !(value - value == 0.0f); }

__device__ inline u64 thread_index() { return u64(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline u64 thread_count() { return u64(gridDim.x) * blockDim.x; }

// Runs `wide` on groups of N neighbours, and `narrow` on single ones at the end or where an address is not aligned.
template <int N, class Wide, class Narrow>
__device__ inline void for_each(u64 count, bool aligned, Wide wide, Narrow narrow) {
    const u64 groups = aligned ? count / N : 0;
    for (u64 at = thread_index(); at < groups; at += thread_count()) wide(at * N);
    for (u64 at = groups * N + thread_index(); at < count; at += thread_count()) narrow(at);
}
