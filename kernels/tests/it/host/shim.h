// What a CUDA device has and the host has not, as far as the kernels need it. Threads of a block run one after the other, as
// fibers where the kernel waits for its neighbours: each runs to the barrier, then the next, so that the barrier means what it
// means on a device. Blocks run one after the other. One kernel at a time: the caller holds a lock.
#pragma once

#define LIVEDIFFUSION_HOST
#define __global__
#define __device__
#define __grid_constant__
// Blocks do not overlap, so that one copy serves them all; a kernel writes before it reads.
#define __shared__ static

#include <ucontext.h>

#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

struct Index {
    unsigned x, y, z;
};
static Index gridDim, blockDim, blockIdx, threadIdx;

#if defined(__aarch64__)
typedef __fp16 HostHalf;
#else
typedef _Float16 HostHalf;
#endif

inline float half_to_float(unsigned short bits) {
    HostHalf half;
    std::memcpy(&half, &bits, sizeof(half));
    return float(half);
}

inline unsigned short float_to_half(float value) {
    const HostHalf half = HostHalf(value);
    unsigned short bits;
    std::memcpy(&bits, &half, sizeof(bits));
    return bits;
}

// Ties to even, in the rounding mode that every program starts in.
inline int __float2int_rn(float value) { return int(std::nearbyintf(value)); }

inline void __threadfence() {}

inline unsigned atomicAdd(unsigned* address, unsigned value) {
    const unsigned old = *address;
    *address += value;
    return old;
}

namespace shim {

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    bool done;
};

const size_t STACK = 64 * 1024;
static std::vector<Fiber> fibers;
static ucontext_t scheduler;
static Fiber* running = nullptr;
static const std::function<void()>* body = nullptr;

inline void start() {
    (*body)();
    running->done = true;
    swapcontext(&running->context, &scheduler);
}

inline void run_block(unsigned threads, const std::function<void()>& kernel) {
    body = &kernel;
    if (fibers.size() < threads) fibers.resize(threads);
    for (unsigned i = 0; i < threads; ++i) {
        Fiber& fiber = fibers[i];
        if (!fiber.stack) fiber.stack.reset(new char[STACK]);
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, start, 0);
        fiber.done = false;
    }
    for (bool more = true; more;) {
        more = false;
        for (unsigned i = 0; i < threads; ++i) {
            if (fibers[i].done) continue;
            running = &fibers[i];
            threadIdx = Index{i, 0, 0};
            swapcontext(&scheduler, &fibers[i].context);
            more |= !fibers[i].done;
        }
    }
    running = nullptr;
}

template <class... A, size_t... I>
void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<A*>(arguments[I])...);
}

// As cuLaunchKernel takes it: a pointer to each argument.
template <class... A>
void launch(void (*kernel)(A...), bool cooperates, unsigned blocks, unsigned rows, unsigned threads, void** arguments) {
    const std::function<void()> once = [&] { call(kernel, arguments, std::index_sequence_for<A...>()); };
    gridDim = Index{blocks, rows, 1};
    blockDim = Index{threads, 1, 1};
    for (unsigned y = 0; y < rows; ++y) {
        for (unsigned x = 0; x < blocks; ++x) {
            blockIdx = Index{x, y, 0};
            if (cooperates) {
                run_block(threads, once);
            } else {
                for (unsigned i = 0; i < threads; ++i) {
                    threadIdx = Index{i, 0, 0};
                    once();
                }
            }
        }
    }
}

template <class... A> std::vector<size_t> sizes(void (*)(A...)) { return {sizeof(A)...}; }

} // namespace shim

inline void __syncthreads() {
    if (!shim::running) std::abort(); // launched as a kernel that does not wait
    swapcontext(&shim::running->context, &shim::scheduler);
}
