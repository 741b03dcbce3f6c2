// A card in software behind the entry points of libcuda that this program calls, for what the host as a queue cannot show: whether
// enough is waited for. Memory of the card is the host's, kernels are host.cpp's, and each stream does its work as late or as early
// as CUDA allows: LIVEDIFFUSION_CARD_SCHEDULE, in base 3, says for each stream in the order of their making whether it does nothing
// before somebody waits for it (0), some of it at random (1) or all that no event holds up (2). What the driver would not allow ends
// the process with a line that says what.
//
// A cubin is taken apart as far as its kernels' names and the sizes of their parameters, which have to be those of host.cpp. PTX is
// run as it is, instruction by instruction, by the machine in ptx/ where a test has set it.
//
// LIVEDIFFUSION_CARD_TRACE names a file for a line of each copy, launch, allocation and wait; what tools/gpu/null puts in place of
// CUDA's other libraries writes into the same one.
#include "card.h"

#define ENTER(call)                                      \
    std::lock_guard<std::recursive_mutex> guard(card.lock); \
    if (!current) return INVALID_CONTEXT;                \
    stir();

extern "C" {

int cuInit(unsigned) { return SUCCESS; }
// LIVEDIFFUSION_CARD_CUDA: the CUDA that it speaks, 12 or 13.
int cuDriverGetVersion(int* version) {
    const char* cuda = std::getenv("LIVEDIFFUSION_CARD_CUDA");
    return *version = cuda ? std::atoi(cuda) * 1000 : 12040, SUCCESS;
}
int cuDeviceGetCount(int* count) { return *count = 1, SUCCESS; }
int cuDeviceGet(int* device, int ordinal) { return *device = ordinal, ordinal == 0 ? SUCCESS : INVALID_DEVICE; }
int cuDeviceGetName(char* name, int size, int) { return std::snprintf(name, size_t(size), "a card in software"), SUCCESS; }

int cuDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {
    case MULTIPROCESSORS: return *value = 2, SUCCESS;
    case THREADS_PER_MULTIPROCESSOR: return *value = 1536, SUCCESS;
    case PCI_DOMAIN: return *value = 0, SUCCESS;
    case PCI_BUS: return *value = 0x65, SUCCESS;
    case PCI_DEVICE: return *value = 0, SUCCESS;
    case CAPABILITY_MAJOR: return *value = CAPABILITY[0], SUCCESS;
    case CAPABILITY_MINOR: return *value = CAPABILITY[1], SUCCESS;
    case MEMORY_POOLS: return *value = 0, SUCCESS;
    }
    wrong("cuDeviceGetAttribute", "an attribute that it has not");
}

int cuDevicePrimaryCtxRetain(void** context, int) { return *context = &card.context, SUCCESS; }
int cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
int cuCtxGetCurrent(void** context) { return *context = current, SUCCESS; }
int cuCtxSetCurrent(void* context) { return current = context, SUCCESS; }

int cuCtxSynchronize() {
    ENTER();
    trace("cuCtxSynchronize", 0, nullptr);
    drain(null_stream);
    for (Stream* stream : card.streams) drain(*stream);
    has_waited = true;
    return SUCCESS;
}

int cuMemGetInfo_v2(size_t* free, size_t* all) {
    ENTER();
    *free = ALL_MEMORY - card.used;
    *all = ALL_MEMORY;
    return SUCCESS;
}

int cuMemAlloc_v2(Address* address, size_t bytes) {
    ENTER();
    trace("cuMemAlloc", bytes, nullptr);
    uintptr_t start = 0;
    const int result = allocate(&start, bytes, false);
    *address = start;
    return result;
}

int cuMemFree_v2(Address address) {
    ENTER();
    return release("cuMemFree", address, false);
}

int cuMemHostAlloc(void** address, size_t bytes, unsigned) {
    ENTER();
    trace("cuMemHostAlloc", bytes, nullptr);
    uintptr_t start = 0;
    const int result = allocate(&start, bytes, true);
    *address = reinterpret_cast<void*>(start);
    return result;
}

int cuMemFreeHost(void* address) {
    ENTER();
    return release("cuMemFreeHost", reinterpret_cast<uintptr_t>(address), true);
}

static int set(Stream& stream, Address address, unsigned char value, size_t bytes) {
    if (!block(address, bytes, false)) return INVALID_VALUE;
    put(stream, [=] { std::memset(reinterpret_cast<void*>(address), value, bytes); });
    return SUCCESS;
}

// It may return before it is done, and streams of their own do not wait for it.
int cuMemsetD8_v2(Address address, unsigned char value, size_t bytes) {
    ENTER();
    return set(null_stream, address, value, bytes);
}

int cuMemsetD8Async(Address address, unsigned char value, size_t bytes, void* stream) {
    ENTER();
    return set(of(stream), address, value, bytes);
}

static int copy(const char* call, Stream& stream, Address to, bool to_pinned, Address from, bool from_pinned, size_t bytes) {
    trace(call, bytes, &stream);
    // From memory that is not pinned it would be a copy that waits, which nobody here means.
    if (!block(to, bytes, to_pinned) || !block(from, bytes, from_pinned)) wrong(call, "memory that is not the card's or not pinned");
    put(stream, [=] { std::memcpy(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes); });
    return SUCCESS;
}

int cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, void* stream) {
    ENTER();
    return copy("cuMemcpyHtoDAsync", of(stream), to, false, reinterpret_cast<uintptr_t>(from), true, bytes);
}

int cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, void* stream) {
    ENTER();
    return copy("cuMemcpyDtoHAsync", of(stream), reinterpret_cast<uintptr_t>(to), true, from, false, bytes);
}

int cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void* stream) {
    ENTER();
    return copy("cuMemcpyDtoDAsync", of(stream), to, false, from, false, bytes);
}

int cuStreamCreate(void** stream, unsigned) {
    ENTER();
    card.streams.push_back(new Stream{{}, 0, 0, eagerness_of_next_stream()});
    *stream = card.streams.back();
    return SUCCESS;
}

// Its handle stays what it was: whoever uses it afterwards is told.
int cuStreamDestroy_v2(void* stream) {
    ENTER();
    drain(of(stream));
    for (size_t i = 0; i < card.streams.size(); ++i) {
        if (card.streams[i] != stream) continue;
        card.streams.erase(card.streams.begin() + long(i));
        // What comes next is as what was first.
        if (card.streams.empty()) card.next_eagerness = 0, ++card.rounds;
        return SUCCESS;
    }
    wrong("cuStreamDestroy", "a stream that does not exist");
}

int cuStreamSynchronize(void* stream) {
    ENTER();
    trace("cuStreamSynchronize", 0, stream);
    drain(of(stream));
    return SUCCESS;
}

int cuStreamWaitEvent(void* stream, void* event, unsigned) {
    ENTER();
    // What is recorded later is not waited for.
    put(of(stream), nullptr, static_cast<Event*>(event)->point);
    return SUCCESS;
}

// As the driver's, whose function must not call the driver either.
int cuLaunchHostFunc(void* stream, void (*function)(void*), void* data) {
    ENTER();
    put(of(stream), [=] { function(data); });
    return SUCCESS;
}

int cuEventCreate(void** event, unsigned flags) {
    ENTER();
    *event = new Event{{nullptr, 0}, flags, nullptr};
    ++card.events;
    return SUCCESS;
}

int cuEventDestroy_v2(void* event) {
    ENTER();
    delete static_cast<Event*>(event);
    --card.events;
    return SUCCESS;
}

int cuEventRecord(void* handle, void* stream) {
    ENTER();
    Event* event = static_cast<Event*>(handle);
    const auto time = std::make_shared<uint64_t>(0);
    event->point = Point{&of(stream), of(stream).put + 1};
    event->time = time;
    put(of(stream), [=] { *time = card.clock; });
    return SUCCESS;
}

int cuEventSynchronize(void* event) {
    ENTER();
    trace("cuEventSynchronize", 0, nullptr);
    reach(static_cast<Event*>(event)->point);
    return SUCCESS;
}

int cuEventElapsedTime(float* ms, void* from, void* to) {
    ENTER();
    const Event *a = static_cast<Event*>(from), *b = static_cast<Event*>(to);
    for (const Event* event : {a, b}) {
        if (!event->point.stream || (event->flags & NO_TIMING)) return INVALID_HANDLE;
        if (!event->point.stream->reached(event->point.place)) return NOT_READY;
    }
    *ms = float(*b->time) - float(*a->time);
    return SUCCESS;
}

int cuModuleLoadData(void** module, const void* image) {
    ENTER();
    Module* made = new Module{{}, false};
    const char* start = static_cast<const char*>(image);
    // PTX, which begins with a comment.
    made->by_machine = card.machine && start[0] == '/';
    if (!made->by_machine && !take_apart(start, *made)) return delete made, INVALID_IMAGE;
    *module = made;
    return SUCCESS;
}

int cuModuleUnload(void*) { return SUCCESS; }

int cuModuleGetFunction(void** function, void* module, const char* name) {
    ENTER();
    auto& all = static_cast<Module*>(module)->functions;
    if (static_cast<Module*>(module)->by_machine && !all.count(name)) {
        size_t sizes[16];
        const size_t count = card.machine->parameters(name, sizes, 16);
        if (count > 0) all[name] = Function{strdup(name), {sizes, sizes + count}, true};
    }
    auto found = all.find(name);
    if (found == all.end()) return NOT_FOUND;
    if (found->second.sizes != livediffusion_parameters(name)) wrong(name, "its parameters are not of the sizes that the host has");
    *function = &found->second;
    return SUCCESS;
}

int cuLaunchKernel(void* handle, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y, unsigned threads_z,
                   unsigned shared, void* stream, void** arguments, void** extra) {
    ENTER();
    const Function& function = *static_cast<Function*>(handle);
    if (!x || !y || z != 1 || y > 65535 || !threads || threads > 1024 || threads_y != 1 || threads_z != 1 || shared || extra) {
        return INVALID_VALUE;
    }
    // Taken now, as the driver does: the caller's values end with the call.
    auto values = std::make_shared<std::vector<std::vector<char>>>();
    for (size_t i = 0; i < function.sizes.size(); ++i) {
        const char* value = static_cast<const char*>(arguments[i]);
        values->emplace_back(value, value + function.sizes[i]);
    }
    const char* name = function.name;
    const bool by_machine = function.by_machine;
    trace(name, 0, stream);
    put(of(stream), [=] {
        std::vector<void*> pointers;
        for (auto& value : *values) pointers.push_back(value.data());
        if (by_machine) {
            std::vector<std::array<uint64_t, 2>> memory;
            for (auto& piece : card.blocks) {
                if (!piece.second.pinned) memory.push_back({piece.first, piece.second.bytes});
            }
            const auto* pieces = reinterpret_cast<const uint64_t(*)[2]>(memory.data());
            if (card.machine->run(name, x, y, threads, pointers.data(), pieces, memory.size())) wrong(name, "as NVRTC made it");
            return;
        }
        if (livediffusion_launch(name, x, y, threads, pointers.data())) wrong(name, "host.cpp has it not");
    });
    return SUCCESS;
}

// What NVIDIA's own libraries look for in a driver, and do without.
int cuGetProcAddress(const char*, void** function, int, uint64_t) { return *function = nullptr, NOT_FOUND; }
int cuGetProcAddress_v2(const char*, void** function, int, uint64_t, void*) { return *function = nullptr, NOT_FOUND; }
int cuGetExportTable(const void** table, const void*) { return *table = nullptr, NOT_FOUND; }
int cuGetErrorString(int, const char** text) { return *text = "an error of the card in software", SUCCESS; }
int cuCtxCreate_v4() { return NOT_SUPPORTED; }
int cuCtxDestroy_v2() { return NOT_SUPPORTED; }
int cuCtxPushCurrent_v2(void* context) { return current = context, SUCCESS; }
int cuCtxPopCurrent_v2(void** context) { return *context = current, current = nullptr, SUCCESS; }
int cuStreamGetCtx(void*, void** context) { return *context = &card.context, SUCCESS; }
int cuImportExternalMemory() { return NOT_SUPPORTED; }
int cuExternalMemoryGetMappedBuffer() { return NOT_SUPPORTED; }
int cuDestroyExternalMemory() { return NOT_SUPPORTED; }
int cuImportExternalSemaphore() { return NOT_SUPPORTED; }
int cuSignalExternalSemaphoresAsync() { return NOT_SUPPORTED; }
int cuWaitExternalSemaphoresAsync() { return NOT_SUPPORTED; }
int cuDestroyExternalSemaphore() { return NOT_SUPPORTED; }
int cuTensorMapEncodeTiled() { return NOT_SUPPORTED; }
int cuTensorMapEncodeIm2col() { return NOT_SUPPORTED; }

// Has kernels that come as PTX run by somebody else.
void livediffusion_card_machine(const Machine* machine) { card.machine = machine; }

// What is left: allocations, streams, events; how much was done, and how often the schedule began anew.
void livediffusion_card_left(size_t* left) {
    std::lock_guard<std::recursive_mutex> guard(card.lock);
    left[0] = card.blocks.size();
    left[1] = card.streams.size();
    left[2] = card.events;
    left[3] = card.ops;
    left[4] = card.rounds;
}

} // extern "C"
