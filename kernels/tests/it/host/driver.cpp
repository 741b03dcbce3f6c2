// A card in software behind the entry points of libcuda that this program calls, for what the host as a queue cannot show: whether
// enough is waited for. Memory of the card is the host's, kernels are host.cpp's, and each stream does its work as late or as early
// as CUDA allows: LIVEDIFFUSION_CARD_SCHEDULE, in base 3, says for each stream in the order of their making whether it does nothing
// before somebody waits for it (0), some of it at random (1) or all that no event holds up (2). What the driver would not allow ends
// the process with a line that says what.
//
// A cubin is taken apart as far as its kernels' names and the sizes of their parameters, which have to be those of host.cpp.
//
// LIVEDIFFUSION_CARD_TRACE names a file for a line of each copy, launch, allocation and wait; what tools/gpu/null puts in place of
// CUDA's other libraries writes into the same one.
#include "host.cpp"

#include <elf.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <deque>
#include <map>
#include <mutex>
#include <string>

namespace {

// cuda.h's numbers.
enum Result {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    NOT_SUPPORTED = 801,
};
enum Attribute {
    MULTIPROCESSORS = 16,
    THREADS_PER_MULTIPROCESSOR = 39,
    CAPABILITY_MAJOR = 75,
    CAPABILITY_MINOR = 76,
    MEMORY_POOLS = 115,
};
enum EventFlag { BLOCKING = 1, NO_TIMING = 2 };

// One that the pinned NVRTC makes machine code for.
const int CAPABILITY[2] = {8, 9};
const size_t ALL_MEMORY = size_t(16) << 30;
const size_t PAGE = 4096;

typedef unsigned long long Address;

struct Stream;

// All that was put into a stream up to a place.
struct Point {
    Stream* stream;
    uint64_t place;
};

struct Op {
    std::function<void()> run;
    Point after; // a stream of null waits for nothing
};

struct Stream {
    std::deque<Op> todo;
    uint64_t done, put;
    int eagerness;
    bool reached(uint64_t place) const { return done >= place; }
};

// Of the last record of an event: an earlier one that is on its way has another.
struct Event {
    Point point;
    unsigned flags;
    std::shared_ptr<uint64_t> time;
};

struct Block {
    size_t bytes, inner;
    bool pinned;
};

struct Function {
    const char* name;
    std::vector<size_t> sizes;
};

struct Module {
    std::map<std::string, Function> functions;
};

struct Card {
    std::recursive_mutex lock;
    std::map<uintptr_t, Block> blocks;
    std::vector<Stream*> streams;
    size_t used = 0, events = 0, ops = 0;
    int next_eagerness = 0;
    uint64_t clock = 0, random = 0x9e3779b97f4a7c15ull;
    int context = 0;
} card;

Stream null_stream;
thread_local void* current = nullptr;

void trace(const char* call, size_t bytes, const void* stream) {
    static std::FILE* const file = [] {
        const char* name = std::getenv("LIVEDIFFUSION_CARD_TRACE");
        std::FILE* opened = name ? std::fopen(name, "a") : nullptr;
        if (opened) std::setvbuf(opened, nullptr, _IOLBF, 1 << 12);
        return opened;
    }();
    if (file) std::fprintf(file, "%s %zu %p\n", call, bytes, stream);
}

[[noreturn]] void wrong(const char* call, const char* what) {
    std::fprintf(stderr, "the card in software: %s: %s\n", call, what);
    std::fflush(stderr);
    std::_Exit(99);
}

uint64_t schedule() {
    static const uint64_t set = [] {
        const char* text = std::getenv("LIVEDIFFUSION_CARD_SCHEDULE");
        return text ? std::strtoull(text, nullptr, 10) : 0;
    }();
    return set;
}

int eagerness_of_next_stream() {
    uint64_t digits = schedule();
    for (int i = 0; i < card.next_eagerness; ++i) digits /= 3;
    ++card.next_eagerness;
    return int(digits % 3);
}

bool coin() {
    card.random ^= card.random << 13;
    card.random ^= card.random >> 7;
    card.random ^= card.random << 17;
    return card.random & 1;
}

void run_first(Stream& stream) {
    Op op = std::move(stream.todo.front());
    stream.todo.pop_front();
    if (op.run) op.run();
    ++stream.done;
    ++card.clock;
    ++card.ops;
}

// Does what has to be done before the point is reached, and no more.
void reach(Point point) {
    while (point.stream && !point.stream->reached(point.place)) {
        const Point after = point.stream->todo.front().after;
        reach(after);
        run_first(*point.stream);
    }
}

void drain(Stream& stream) { reach(Point{&stream, stream.put}); }

// What the card does by itself between two calls.
void stir() {
    for (Stream* stream : card.streams) {
        while (!stream->todo.empty() && stream->eagerness > 0) {
            const Point after = stream->todo.front().after;
            const bool held = after.stream && !after.stream->reached(after.place);
            if (held || (stream->eagerness == 1 && coin())) break;
            run_first(*stream);
        }
    }
}

void put(Stream& stream, std::function<void()> run, Point after = Point{nullptr, 0}) {
    stream.todo.push_back(Op{std::move(run), after});
    ++stream.put;
    stir();
}

Stream& of(void* handle) { return handle ? *static_cast<Stream*>(handle) : null_stream; }

// The block that holds these bytes whole.
Block* block(uintptr_t start, size_t bytes, bool pinned) {
    auto next = card.blocks.upper_bound(start);
    if (next == card.blocks.begin()) return nullptr;
    auto& found = *std::prev(next);
    const bool inside = start + bytes <= found.first + found.second.bytes;
    return inside && found.second.pinned == pinned ? &found.second : nullptr;
}

// Between pages that nobody may touch, and not to be touched once it is freed.
int allocate(uintptr_t* start, size_t bytes, bool pinned) {
    if (bytes == 0) return INVALID_VALUE;
    if (!pinned && card.used + bytes > ALL_MEMORY) return OUT_OF_MEMORY;
    const size_t inner = (bytes + PAGE - 1) / PAGE * PAGE;
    char* memory = static_cast<char*>(mmap(nullptr, inner + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (memory == MAP_FAILED || mprotect(memory + PAGE, inner, PROT_READ | PROT_WRITE)) return OUT_OF_MEMORY;
    // Nobody may take it for zeros.
    std::memset(memory + PAGE, 0xa5, inner);
    *start = reinterpret_cast<uintptr_t>(memory + PAGE);
    card.blocks[*start] = Block{bytes, inner, pinned};
    card.used += pinned ? 0 : bytes;
    return SUCCESS;
}

int release(const char* call, uintptr_t start, bool pinned) {
    auto found = card.blocks.find(start);
    if (found == card.blocks.end() || found->second.pinned != pinned) wrong(call, "memory that was not allocated");
    for (Stream* stream : card.streams) {
        if (!pinned && !stream->todo.empty()) wrong(call, "work is on its way that may use the memory");
    }
    card.used -= pinned ? 0 : found->second.bytes;
    // Its place stays taken, so that whoever comes too late is stopped.
    mmap(reinterpret_cast<char*>(start), found->second.inner, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    card.blocks.erase(found);
    return SUCCESS;
}

// Names of kernels and the sizes of their parameters: sections .nv.info.NAME, attribute EIATTR_KPARAM_INFO.
bool take_apart(const char* image, Module& module) {
    if (std::memcmp(image, ELFMAG, SELFMAG) != 0) return false;
    const Elf64_Ehdr& head = *reinterpret_cast<const Elf64_Ehdr*>(image);
    const Elf64_Shdr* sections = reinterpret_cast<const Elf64_Shdr*>(image + head.e_shoff);
    const char* names = image + sections[head.e_shstrndx].sh_offset;
    const std::string prefix = ".nv.info.";
    for (int i = 0; i < head.e_shnum; ++i) {
        const std::string name = names + sections[i].sh_name;
        if (name.compare(0, prefix.size(), prefix) != 0) continue;
        Function function{strdup(name.c_str() + prefix.size()), {}};
        const unsigned char* at = reinterpret_cast<const unsigned char*>(image + sections[i].sh_offset);
        const unsigned char* end = at + sections[i].sh_size;
        while (at + 4 <= end) {
            uint16_t bytes = 0;
            if (at[0] == 4) std::memcpy(&bytes, at + 2, 2);
            if (at[0] == 4 && at[1] == 0x17) {
                uint16_t ordinal;
                uint32_t packed;
                std::memcpy(&ordinal, at + 8, 2);
                std::memcpy(&packed, at + 12, 4);
                if (function.sizes.size() <= ordinal) function.sizes.resize(ordinal + 1);
                function.sizes[ordinal] = packed >> 18;
            }
            at += 4 + bytes;
        }
        module.functions[function.name] = function;
    }
    return !module.functions.empty();
}

} // namespace

#define ENTER(call)                                      \
    std::lock_guard<std::recursive_mutex> guard(card.lock); \
    if (!current) return INVALID_CONTEXT;                \
    stir();

extern "C" {

int cuInit(unsigned) { return SUCCESS; }
int cuDriverGetVersion(int* version) { return *version = 12040, SUCCESS; }
int cuDeviceGetCount(int* count) { return *count = 1, SUCCESS; }
int cuDeviceGet(int* device, int ordinal) { return *device = ordinal, ordinal == 0 ? SUCCESS : INVALID_DEVICE; }
int cuDeviceGetName(char* name, int size, int) { return std::snprintf(name, size_t(size), "a card in software"), SUCCESS; }

int cuDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {
    case MULTIPROCESSORS: return *value = 2, SUCCESS;
    case THREADS_PER_MULTIPROCESSOR: return *value = 1536, SUCCESS;
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
        if (card.streams[i] == stream) return card.streams.erase(card.streams.begin() + long(i)), SUCCESS;
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
    Module* made = new Module;
    if (!take_apart(static_cast<const char*>(image), *made)) return delete made, INVALID_IMAGE;
    *module = made;
    return SUCCESS;
}

int cuModuleUnload(void*) { return SUCCESS; }

int cuModuleGetFunction(void** function, void* module, const char* name) {
    ENTER();
    auto& all = static_cast<Module*>(module)->functions;
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
    trace(name, 0, stream);
    put(of(stream), [=] {
        std::vector<void*> pointers;
        for (auto& value : *values) pointers.push_back(value.data());
        if (livediffusion_launch(name, x, y, threads, pointers.data())) wrong(name, "host.cpp has it not");
    });
    return SUCCESS;
}

// What NVIDIA's own libraries look for in a driver, and do without.
int cuGetProcAddress(const char*, void** function, int, uint64_t) { return *function = nullptr, NOT_FOUND; }
int cuGetProcAddress_v2(const char*, void** function, int, uint64_t, void*) { return *function = nullptr, NOT_FOUND; }
int cuGetExportTable(const void** table, const void*) { return *table = nullptr, NOT_FOUND; }
int cuGetErrorString(int, const char** text) { return *text = "an error of the card in software", SUCCESS; }
int cuTensorMapEncodeTiled() { return NOT_SUPPORTED; }
int cuTensorMapEncodeIm2col() { return NOT_SUPPORTED; }

// What is left: allocations, streams, events; and how much was done.
void livediffusion_card_left(size_t* left) {
    std::lock_guard<std::recursive_mutex> guard(card.lock);
    left[0] = card.blocks.size();
    left[1] = card.streams.size();
    left[2] = card.events;
    left[3] = card.ops;
}

} // extern "C"
