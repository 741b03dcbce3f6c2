// What tensorrt.cpp is made of: objects as TensorRT's interface has them, and a model as far as its inputs and outputs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

static void trace(const char* call, const void* stream) {
    static FILE* const file = [] {
        const char* name = std::getenv("LIVEDIFFUSION_CARD_TRACE");
        FILE* opened = name ? std::fopen(name, "a") : nullptr;
        if (opened) std::setvbuf(opened, nullptr, _IOLBF, 1 << 12);
        return opened;
    }();
    if (file) std::fprintf(file, "%s 0 %p\n", call, stream);
}

// What every object of TensorRT's looks like from outside. Nothing is freed: a measurement ends before it matters.
struct Object;
struct Table {
    void* functions[128];
    // What `delete` calls is the second of the destructor's two places.
    explicit Table(std::map<int, void*> known, void (*deleted)(Object*) = destroy) {
        for (auto& function : functions) function = reinterpret_cast<void*>(unknown);
        functions[0] = functions[1] = reinterpret_cast<void*>(deleted);
        for (auto [place, function] : known) functions[2 + place] = function;
    }
    static void destroy(Object*) {}
    static void unknown() {
        std::fprintf(stderr, "ONNX Runtime asks for something of TensorRT's that tensorrt.cpp has not\n");
        std::abort();
    }
};
struct Object {
    void* const* outside;
    Object* inside;
    void* const* functions;
    explicit Object(const Table& table) : outside(table.functions), inside(nullptr), functions(table.functions) {
        // Seen from outside it is `outside` and `inside`; from inside it begins with its functions.
        inside = reinterpret_cast<Object*>(&functions);
    }
    template <class T> static T& of(void* seen_inside) {
        return static_cast<T&>(*reinterpret_cast<Object*>(static_cast<char*>(seen_inside) - offsetof(Object, functions)));
    }
};
template <class F> static void* at(F function) { return reinterpret_cast<void*>(+function); }

struct Dims {
    int32_t count;
    int64_t sides[8];
};
enum : int32_t { LEAST, USUAL, MOST };
enum : int32_t { FLOAT = 0, HALF = 1, INT32 = 3, BOOL = 4, BF16 = 7, INT64 = 8 };

// ---- A model, as far as its ends.
struct Port {
    std::string name;
    int type = 1;
    Dims dims = {};

    int32_t dtype() const {
        switch (type) {
        case 6: return INT32;
        case 7: return INT64;
        case 9: return BOOL;
        case 10: return HALF;
        case 16: return BF16;
        }
        return FLOAT;
    }
};

// Fields of a message in protobuf's wire format.
struct Message {
    const uint8_t *now, *end;
    uint64_t number = 0, value = 0;
    const uint8_t* begin = nullptr;

    Message(const void* bytes, size_t count) : now(static_cast<const uint8_t*>(bytes)), end(now + count) {}
    Message inner() const { return Message(begin, value); }
    std::string text() const { return std::string(reinterpret_cast<const char*>(begin), value); }
    uint64_t varint() {
        uint64_t read = 0;
        for (int shift = 0; now < end; shift += 7) {
            read |= uint64_t(*now & 127) << shift;
            if (!(*now++ & 128)) break;
        }
        return read;
    }
    bool next() {
        if (now >= end) return false;
        const uint64_t key = varint();
        number = key >> 3;
        begin = nullptr;
        switch (key & 7) {
        case 0: value = varint(); break;
        case 1: now += 8; break;
        case 5: now += 4; break;
        default:
            value = varint();
            begin = now;
            now += value;
        }
        return true;
    }
};

struct Graph {
    std::vector<Port> inputs, outputs;
    std::vector<int64_t> nodes;

    Graph() = default;
    // Numbers of fields: onnx.ModelProto, GraphProto, ValueInfoProto, TypeProto, TensorShapeProto.
    Graph(const void* bytes, size_t count) {
        std::vector<std::string> weights;
        for (Message model(bytes, count); model.next();) {
            if (model.number != 7) continue;
            for (Message graph = model.inner(); graph.next();) {
                if (graph.number == 1) nodes.push_back(int64_t(nodes.size()));
                if (graph.number == 11) inputs.push_back(port(graph.inner()));
                if (graph.number == 12) outputs.push_back(port(graph.inner()));
                if (graph.number != 5) continue;
                for (Message weight = graph.inner(); weight.next();)
                    if (weight.number == 8) weights.push_back(weight.text());
            }
        }
        for (const auto& weight : weights)
            for (size_t i = 0; i < inputs.size(); ++i)
                if (inputs[i].name == weight) inputs.erase(inputs.begin() + long(i--));
    }
    static Port port(Message info) {
        Port port;
        while (info.next()) {
            if (info.number == 1) port.name = info.text();
            if (info.number != 2) continue;
            for (Message type = info.inner(); type.next();) {
                if (type.number != 1) continue;
                for (Message tensor = type.inner(); tensor.next();) {
                    if (tensor.number == 1) port.type = int(tensor.value);
                    if (tensor.number != 2) continue;
                    for (Message shape = tensor.inner(); shape.next();) {
                        int64_t side = -1;
                        for (Message dim = shape.inner(); dim.next();)
                            if (dim.number == 1) side = int64_t(dim.value);
                        port.dims.sides[port.dims.count++] = side;
                    }
                }
            }
        }
        return port;
    }
};
