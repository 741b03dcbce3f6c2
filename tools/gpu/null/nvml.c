// An NVML that knows the version of a driver, the memory that was asked of memory.cpp's driver, and a card of 200 W.
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
const char* nvmlErrorString(int error) { return "an error of an NVML that does nothing"; }
int nvmlSystemGetDriverVersion(char* version, unsigned room) { return snprintf(version, room, "580.65.06") < 0; }
int nvmlDeviceGetHandleByPciBusId_v2(const char* place, void** device) { return *device = &nvmlInit_v2, 0; }

// As nvmlMemory_v2_t. Others use a GiB of it.
typedef struct {
    unsigned version;
    unsigned long long total, reserved, free, used;
} Memory;
int nvmlDeviceGetMemoryInfo_v2(void* device, Memory* memory) {
    static size_t (*taken)(void);
    if (memory->version != (sizeof *memory | 2 << 24)) return 25;
    if (!taken) taken = (size_t(*)(void))dlsym(dlopen("libcuda.so.1", RTLD_NOW), "livediffusion_null_taken");
    memory->total = 16ull << 30, memory->reserved = 0;
    memory->used = (1ull << 30) + taken();
    return memory->free = memory->total - memory->used, 0;
}

// In thousandths of a joule.
int nvmlDeviceGetTotalEnergyConsumption(void* device, unsigned long long* energy) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return *energy = 200 * (now.tv_sec * 1000ull + now.tv_nsec / 1000000), 0;
}
