// A CUDA runtime, cuBLAS and cuDNN that do nothing but tell of it: what ONNX Runtime's CUDA provider asks of a card can be read
// without one. Memory is the host's and copies are made, so that shapes that the graph reckons with on the host are right; kernels
// are not run, so that numbers are not. stubs.py adds every other function that the provider asks for, which returns success.
//
// Lines go to the file of LIVEDIFFUSION_CARD_TRACE, as those of driver.cpp do: what, bytes, stream.
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void trace(const char* call, size_t bytes, const void* stream) {
    static FILE* file;
    if (!file) {
        const char* name = getenv("LIVEDIFFUSION_CARD_TRACE");
        if (!name || !(file = fopen(name, "a"))) return;
        setvbuf(file, NULL, _IOLBF, 1 << 12);
    }
    fprintf(file, "%s %zu %p\n", call, bytes, stream);
}

// Something to point to. Nothing is freed: a measurement ends before it matters.
static int handle(void** made) { return *made = calloc(1, 64), 0; }
static int memory(const char* call, void** made, size_t bytes) {
    trace(call, bytes, NULL);
    const size_t room = (bytes + 511) / 256 * 256;
    // Zeros, so that what is not computed is at least a number.
    if (!(*made = aligned_alloc(256, room))) return 2;
    return memset(*made, 0, room), 0;
}

typedef struct {
    unsigned x, y, z;
} dim3;

// ---- cudart
static __thread int failed; // the last error, until somebody asks for it
int cudaGetDeviceCount(int* count) { return *count = 1, 0; }
int cudaGetDevice(int* device) { return *device = 0, 0; }
int cudaDeviceGetByPCIBusId(int* device, const char* place) { return *device = 0, 0; }
int cudaDriverGetVersion(int* version) { return *version = 13000, 0; }
int cudaRuntimeGetVersion(int* version) { return *version = 13000, 0; }

// An Ada card with 16 GB, as far as the provider asks: places in cudaDeviceProp of CUDA 12 and 13.
int cudaGetDeviceProperties(char* of, int device) {
    memset(of, 0, 1008);
    strcpy(of, "a card that does nothing");
    *(size_t*)(of + 288) = (size_t)16 << 30; // totalGlobalMem
    *(size_t*)(of + 296) = 48 << 10;         // sharedMemPerBlock
    *(int*)(of + 304) = 65536;               // regsPerBlock
    *(int*)(of + 308) = 32;                  // warpSize
    const int most[] = {1024, 1024, 1024, 64, 0x7fffffff, 65535, 65535};
    memcpy(of + 320, most, sizeof most); // threads of a block, in all and along each side, and blocks
    *(int*)(of + 360) = 8;               // major
    *(int*)(of + 364) = 9;               // minor
    *(int*)(of + 384) = *(int*)(of + 388) = 128; // multiProcessorCount, of CUDA 13 and 12
    return 0;
}
int cudaGetDeviceProperties_v2(char* of, int device) { return cudaGetDeviceProperties(of, device); }
int cudaDeviceGetAttribute(int* value, int attribute, int device) {
    switch (attribute) {
    case 8: return *value = 48 << 10, 0;   // shared memory of a block
    case 10: return *value = 32, 0;        // threads of a warp
    case 16: return *value = 128, 0;       // multiprocessors
    case 75: return *value = 8, 0;         // capability
    case 76: return *value = 9, 0;
    case 97: return *value = 99 << 10, 0;  // shared memory of a block that asks for it
    }
    return *value = 1024, 0;
}
int cudaMemGetInfo(size_t* free, size_t* all) { return *all = (size_t)16 << 30, *free = (size_t)15 << 30, 0; }

// The card's, of which memory.cpp's driver keeps count.
static int of_the_card(const char* call, void** made, size_t bytes) {
    static int (*take)(size_t);
    void* const driver = take ? NULL : dlopen("libcuda.so.1", RTLD_NOW);
    if (driver) take = (int (*)(size_t))dlsym(driver, "livediffusion_null_take");
    if (!take) return failed = 35; // a driver that is too old, or none
    return take(bytes) ? memory(call, made, bytes) : (failed = 2);
}
int cudaMalloc(void** made, size_t bytes) { return of_the_card("cudaMalloc", made, bytes); }
int cudaMallocAsync(void** made, size_t bytes, void* stream) { return of_the_card("cudaMallocAsync", made, bytes); }
int cudaMallocHost(void** made, size_t bytes) { return memory("cudaMallocHost", made, bytes); }
int cudaHostAlloc(void** made, size_t bytes, unsigned flags) { return memory("cudaHostAlloc", made, bytes); }
int cudaFree(void* address) { return trace("cudaFree", 0, NULL), 0; }
int cudaFreeHost(void* address) { return trace("cudaFreeHost", 0, NULL), 0; }

static int copy(const char* const calls[5], void* to, const void* from, size_t bytes, int kind, void* stream) {
    trace(calls[kind < 0 || kind > 4 ? 4 : kind], bytes, stream);
    // What kernels would have made is nothing: zeros, so that it stays a number.
    return kind == 3 ? memset(to, 0, bytes) : memmove(to, from, bytes), 0;
}
int cudaMemcpy(void* to, const void* from, size_t bytes, int kind) {
    static const char* const calls[] = {"cudaMemcpy(host)", "cudaMemcpy(up)", "cudaMemcpy(down)", "cudaMemcpy(within)", "cudaMemcpy"};
    return copy(calls, to, from, bytes, kind, NULL);
}
int cudaMemcpyAsync(void* to, const void* from, size_t bytes, int kind, void* stream) {
    static const char* const calls[] = {"cudaMemcpyAsync(host)", "cudaMemcpyAsync(up)", "cudaMemcpyAsync(down)", "cudaMemcpyAsync(within)",
                                        "cudaMemcpyAsync"};
    return copy(calls, to, from, bytes, kind, stream);
}
int cudaMemset(void* to, int value, size_t bytes) { return trace("cudaMemset", bytes, NULL), memset(to, value, bytes), 0; }
int cudaMemsetAsync(void* to, int value, size_t bytes, void* stream) {
    return trace("cudaMemsetAsync", bytes, stream), memset(to, value, bytes), 0;
}

int cudaStreamCreate(void** stream) { return handle(stream); }
int cudaStreamCreateWithFlags(void** stream, unsigned flags) { return handle(stream); }
int cudaStreamCreateWithPriority(void** stream, unsigned flags, int priority) { return handle(stream); }
int cudaStreamSynchronize(void* stream) { return trace("cudaStreamSynchronize", 0, stream), 0; }
int cudaDeviceSynchronize(void) { return trace("cudaDeviceSynchronize", 0, NULL), 0; }
int cudaEventSynchronize(void* event) { return trace("cudaEventSynchronize", 0, NULL), 0; }
int cudaStreamWaitEvent(void* stream, void* event, unsigned flags) { return trace("cudaStreamWaitEvent", 0, stream), 0; }
int cudaStreamIsCapturing(void* stream, int* state) { return *state = 0, 0; }
int cudaStreamBeginCapture(void* stream, int mode) { return trace("cudaStreamBeginCapture", 0, stream), 0; }
int cudaStreamEndCapture(void* stream, void** graph) { return trace("cudaStreamEndCapture", 0, stream), handle(graph); }
int cudaGraphInstantiate(void** made, void* graph, unsigned long long flags) { return handle(made); }
int cudaGraphLaunch(void* graph, void* stream) { return trace("cudaGraphLaunch", 0, stream), 0; }
int cudaEventCreate(void** event) { return handle(event); }
int cudaEventCreateWithFlags(void** event, unsigned flags) { return handle(event); }
int cudaEventElapsedTime(float* ms, void* from, void* to) { return *ms = 0, 0; }

// <<<...>>> leaves its configuration here for the launch behind it.
static __thread void* configured;
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void* stream) { return configured = stream, 0; }
int __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void** stream) {
    *grid = *block = (dim3){1, 1, 1};
    return *shared = 0, *stream = configured, 0;
}
int cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** arguments, size_t shared, void* stream) {
    return trace("launch", 0, stream), 0;
}
int __cudaLaunchKernel(void* kernel, dim3 grid, dim3 block, void** arguments, size_t shared, void* stream) {
    return trace("launch", 0, stream), 0;
}
typedef struct {
    dim3 grid, block;
    size_t shared;
    void* stream;
} LaunchConfiguration;
int cudaLaunchKernelExC(const LaunchConfiguration* with, const void* kernel, void** arguments) {
    return trace("launch", 0, with->stream), 0;
}
int __cudaGetKernel(const void** kernel, const void* entry) { return *kernel = entry, 0; }
void** __cudaRegisterFatBinary(void* binary) {
    static void* registered;
    return &registered;
}
int cudaFuncGetAttributes(void* attributes, const void* kernel) { return memset(attributes, 0, 128), 0; }
int cudaPointerGetAttributes(int* attributes, const void* address) { return attributes[0] = 2, attributes[1] = 0, 0; }
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks) { return *blocks = 2, 0; }
// As NVIDIA's word it: the program tells a full card by that.
const char* cudaGetErrorString(int error) { return error == 2 ? "out of memory" : "an error of a CUDA that does nothing"; }
const char* cudaGetErrorName(int error) { return error == 2 ? "cudaErrorMemoryAllocation" : "cudaErrorOfNothing"; }
int cudaPeekAtLastError(void) { return failed; }
int cudaGetLastError(void) {
    const int last = failed;
    return failed = 0, last;
}

// ---- cuBLAS and cuDNN
int cublasCreate_v2(void** made) { return handle(made); }
int cublasLtCreate(void** made) { return handle(made); }
int cublasGetMathMode(void* of, int* mode) { return *mode = 0, 0; }
const char* cublasGetStatusString(int status) { return "a status of a cuBLAS that does nothing"; }
const char* cublasGetStatusName(int status) { return "CUBLAS_STATUS_OF_NOTHING"; }
int cudnnCreate(void** made) { return handle(made); }
int cudnnCreateTensorDescriptor(void** made) { return handle(made); }
int cudnnCreateReduceTensorDescriptor(void** made) { return handle(made); }
int cudnnCreateConvolutionDescriptor(void** made) { return handle(made); }
int cudnnCreateFilterDescriptor(void** made) { return handle(made); }
int cudnnCreateActivationDescriptor(void** made) { return handle(made); }
int cudnnBackendCreateDescriptor(int kind, void** made) { return handle(made); }
// One of whatever is asked for, of which every number is 0.
/* Borders of convolutions: cuDNN may have no plan where the two sides differ. They come one after the other. */
int cudnnBackendSetAttribute(void* of, int name, int type, int64_t count, const int64_t* values) {
    enum { POST_PADDINGS = 104, PRE_PADDINGS = 105 };
    static __thread int64_t seen[2][4];
    static __thread void* set[2];
    (void)type;
    trace("cudnnBackendSetAttribute", 0, 0);
    if ((name == POST_PADDINGS || name == PRE_PADDINGS) && count <= 4) {
        int which = name == PRE_PADDINGS;
        memcpy(seen[which], values, (size_t)count * sizeof *values);
        set[which] = of;
        if (set[0] == set[1] && memcmp(seen[0], seen[1], (size_t)count * sizeof *values)) trace("cudnn_uneven_padding", 0, 0);
    }
    return 0;
}
int cudnnBackendGetAttribute(void* of, int name, int type, int64_t most, int64_t* count, void* values) {
    const int is_handle = type == 0 || type == 15;
    if (count) *count = values && most < 1 ? most : 1;
    if (values && !is_handle) memset(values, 0, 8);
    return 0;
}
size_t cudnnGetVersion(void) { return 91000; }
const char* cudnnGetErrorString(int status) { return "a status of a cuDNN that does nothing"; }
