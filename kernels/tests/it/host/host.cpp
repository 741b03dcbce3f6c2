// The kernels behind one entry point. `kernels.cu` is the text that NVRTC gets.
#include "shim.h"
#include "kernels.cu"

// Each with whether its threads wait for each other.
#define ALL_KERNELS \
    KERNEL(rgb8_to_chw_f32, false) \
    KERNEL(rgb8_to_chw_f16, false) \
    KERNEL(rgba8_to_chw_f32, false) \
    KERNEL(rgba8_to_chw_f16, false) \
    KERNEL(nv12_to_chw_f32, false) \
    KERNEL(nv12_to_chw_f16, false) \
    KERNEL(chw_to_rgb8_f32, false) \
    KERNEL(chw_to_rgb8_f16, false) \
    KERNEL(f16_to_f32, false) \
    KERNEL(f32_to_f16, false) \
    KERNEL(blend_f32, false) \
    KERNEL(admit_f32, false) \
    KERNEL(admit_f16, false) \
    KERNEL(advance_f32, false) \
    KERNEL(advance_f16, false) \
    KERNEL(posterior_f32, false) \
    KERNEL(posterior_f16, false) \
    KERNEL(unscale_f32, false) \
    KERNEL(unscale_f16, false) \
    KERNEL(similarity_f32, true)

extern "C" int livediffusion_launch(const char* name, unsigned blocks, unsigned rows, unsigned threads, void** arguments) {
#define KERNEL(kernel, cooperates)                                                  \
    if (std::strcmp(name, #kernel) == 0) {                                          \
        shim::launch(kernel, cooperates, blocks, rows, threads, arguments);         \
        return 0;                                                                   \
    }
    ALL_KERNELS
#undef KERNEL
    return 1;
}

// Sizes of a kernel's parameters; none where there is no such kernel.
inline std::vector<size_t> livediffusion_parameters(const char* name) {
#define KERNEL(kernel, cooperates) \
    if (std::strcmp(name, #kernel) == 0) return shim::sizes(kernel);
    ALL_KERNELS
#undef KERNEL
    return {};
}
