// The driver of the kernels' tests, with a count of the card's memory: what the driver hands out itself and what stubs.c does in the
// runtime's place. nvml.c tells of it.
//
// With LIVEDIFFUSION_NULL_FULL=N the card is full from the N-th allocation on, from 1.
#define cuMemAlloc_v2 allocate_uncounted
#include "driver.cpp"
#undef cuMemAlloc_v2

#include <atomic>

extern "C" {

static std::atomic<size_t> taken{0}, allocations{0};

// Whether there is room, which is taken then. Nothing is given back, since stubs.c frees nothing.
int livediffusion_null_take(size_t bytes) {
    static const char* const full = std::getenv("LIVEDIFFUSION_NULL_FULL");
    if (full && ++allocations >= std::strtoull(full, nullptr, 10)) return trace("full", bytes, nullptr), 0;
    return taken += bytes, 1;
}
size_t livediffusion_null_taken() { return taken; }

int cuMemAlloc_v2(Address* address, size_t bytes) {
    return livediffusion_null_take(bytes) ? allocate_uncounted(address, bytes) : OUT_OF_MEMORY;
}

} // extern "C"
