// The card that driver.cpp shows: its memory, streams and events, and what is known of a module of kernels.
#pragma once

#include "host.cpp"

#include <elf.h>
#include <sys/mman.h>

#include <array>
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
    PCI_BUS = 33,
    PCI_DEVICE = 34,
    PCI_DOMAIN = 50,
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
    bool by_machine;
};

struct Module {
    std::map<std::string, Function> functions;
    bool by_machine;
};

// What runs kernels that come as PTX (ptx/mod.rs).
struct Machine {
    size_t (*parameters)(const char* name, size_t* sizes, size_t room);
    int (*run)(const char* name, unsigned blocks, unsigned rows, unsigned threads, void** arguments, const uint64_t (*memory)[2], size_t pieces);
};

struct Card {
    std::recursive_mutex lock;
    std::map<uintptr_t, Block> blocks;
    std::vector<Stream*> streams;
    size_t used = 0, events = 0, ops = 0, rounds = 0;
    int next_eagerness = 0;
    uint64_t clock = 0, random = 0x9e3779b97f4a7c15ull;
    int context = 0;
    const Machine* machine = nullptr;
} card;

Stream null_stream;
thread_local void* current = nullptr;
// Whether this thread has waited for the card since it last put work on it or freed memory: what others put since then is not of its memory.
thread_local bool has_waited = false;

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
    has_waited = false;
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
        if (!pinned && !stream->todo.empty() && !has_waited) wrong(call, "work is on its way that may use the memory");
    }
    has_waited = false;
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
        Function function{strdup(name.c_str() + prefix.size()), {}, false};
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

