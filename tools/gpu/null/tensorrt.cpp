// A TensorRT, and its reader of ONNX, that do nothing but tell: what ONNX Runtime's TensorRT provider asks for can be read without a
// card. An engine is a list of a network's inputs and outputs with the profile that it was built for; a call outside of it is refused,
// as TensorRT does. Nothing is computed: outputs are zeros.
//
// TensorRT's interface is one of C++: an object holds a pointer to another whose table of functions is in the order of TensorRT's
// headers (10.x, which only adds to the end). Places here are in that order, behind the two that every class's destructor has. Whatever
// is not here ends the process.
//
// Lines go to the file of LIVEDIFFUSION_CARD_TRACE, as those of stubs.c do. LIVEDIFFUSION_NULL_FACTOR says how many pixels of a side a
// latent's pixel stands for, LIVEDIFFUSION_NULL_REFUSES which load of an engine fails, from 1.
#include "tensorrt.h"

#include <atomic>
#include <cstring>
#include <sstream>

// ---- Building
struct Memory : Object {
    std::string bytes;
    explicit Memory(std::string of) : Object(table()), bytes(std::move(of)) {}
    static const Table& table() {
        static const Table table({
            {0, at([](void* self) { return static_cast<const void*>(of<Memory>(self).bytes.data()); })},
            {1, at([](void* self) { return of<Memory>(self).bytes.size(); })},
        });
        return table;
    }
};

struct Tensor : Object {
    Port port;
    explicit Tensor(Port of) : Object(table()), port(std::move(of)) {}
    static const Table& table() {
        static const Table table({
            {1, at([](void* self) { return of<Tensor>(self).port.name.c_str(); })},
            {3, at([](void* self) { return of<Tensor>(self).port.dims; })},
            {5, at([](void* self) { return of<Tensor>(self).port.dtype(); })},
            {11, at([](void*) { return 0; })}, // on the device
            {19, at([](void*) { return false; })}, // of shapes
            {20, at([](void*) { return true; })},
        });
        return table;
    }
};

struct Network : Object {
    Graph graph;
    std::vector<Tensor*> inputs, outputs;
    Network() : Object(table()) {}
    void take(Graph of) {
        graph = std::move(of);
        for (const Port& port : graph.inputs) inputs.push_back(new Tensor(port));
        for (const Port& port : graph.outputs) outputs.push_back(new Tensor(port));
    }
    static const Table& table() {
        static const Table table({
            {10, at([](void*) { return 0; })}, // layers, whose precision could be set one by one
            {12, at([](void* self) { return int32_t(of<Network>(self).inputs.size()); })},
            {13, at([](void* self, int32_t i) { return of<Network>(self).inputs[size_t(i)]; })},
            {14, at([](void* self) { return int32_t(of<Network>(self).outputs.size()); })},
            {15, at([](void* self, int32_t i) { return of<Network>(self).outputs[size_t(i)]; })},
        });
        return table;
    }
};

struct Profile : Object {
    std::map<std::string, Dims> shapes[3];
    Profile() : Object(table()) {}
    static const Table& table() {
        static const Table table({
            {0, at([](void* self, const char* input, int32_t which, const Dims& dims) {
                 return of<Profile>(self).shapes[which][input] = dims, true;
             })},
            {7, at([](void*) { return true; })},
        });
        return table;
    }
};

struct Timings : Object {
    Timings() : Object(table()) {}
    static const Table& table() {
        static const Table table({
            {0, at([](void*) { return new Memory("timings"); })},
            {1, at([](void*, const Timings&, bool) { return true; })},
        });
        return table;
    }
};

struct Config : Object {
    uint32_t flags = 0;
    const Timings* timings = nullptr;
    std::vector<const Profile*> profiles;
    Config() : Object(table()) {}
    static const Table& table() {
        static const Table table({
            {6, at([](void* self, uint32_t flags) { of<Config>(self).flags = flags; })},
            {7, at([](void* self) { return of<Config>(self).flags; })},
            {9, at([](void* self, int32_t flag) { of<Config>(self).flags |= 1u << flag; })},
            {10, at([](void* self, int32_t flag) { return (of<Config>(self).flags >> flag & 1) != 0; })},
            {23, at([](void* self, const Profile* profile) { return of<Config>(self).profiles.push_back(profile), 0; })},
            {24, at([](void* self) { return int32_t(of<Config>(self).profiles.size()); })},
            {38, at([](void*, const void*, size_t) { return new Timings; })},
            {39, at([](void* self, const Timings& timings, bool) { return of<Config>(self).timings = &timings, true; })},
            {40, at([](void* self) { return of<Config>(self).timings; })},
            {41, at([](void*, int32_t, size_t) {})},
        });
        return table;
    }
};

static Memory* build(const Network& network, const Config& config) {
    trace("tensorrt_build", nullptr);
    std::ostringstream engine;
    engine << "engine " << (config.flags & 1 ? "f16" : "f32") << '\n';
    for (const auto* ports : {&network.graph.inputs, &network.graph.outputs}) {
        for (const Port& port : *ports) {
            const bool is_input = ports == &network.graph.inputs;
            engine << (is_input ? "input " : "output ") << port.name << ' ' << port.type << ' ' << port.dims.count;
            bool is_open = false;
            for (int i = 0; i < port.dims.count; ++i) {
                engine << ' ' << port.dims.sides[i];
                is_open |= port.dims.sides[i] < 0;
            }
            Dims before = {0, {}};
            for (int which = LEAST; is_input && which <= MOST; ++which) {
                const Dims* told = nullptr;
                for (const Profile* profile : config.profiles) {
                    const auto found = profile->shapes[which].find(port.name);
                    if (found != profile->shapes[which].end()) told = &found->second;
                }
                if (!told && is_open) {
                    std::fprintf(stderr, "no profile names the input %s\n", port.name.c_str());
                    return nullptr;
                }
                const Dims now = told ? *told : port.dims;
                // As many sides, those that are fixed as they are, and none that shrinks from the least to the most.
                bool fits = now.count == port.dims.count;
                for (int i = 0; fits && i < now.count; ++i) {
                    fits &= port.dims.sides[i] < 0 || now.sides[i] == port.dims.sides[i];
                    fits &= now.sides[i] >= 0 && (which == LEAST || now.sides[i] >= before.sides[i]);
                }
                if (!fits) {
                    std::fprintf(stderr, "the profile of the input %s does not fit it\n", port.name.c_str());
                    return nullptr;
                }
                for (int i = 0; i < now.count; ++i) engine << ' ' << now.sides[i];
                before = now;
            }
            engine << '\n';
        }
    }
    return new Memory(engine.str());
}

struct Builder : Object {
    Builder() : Object(table()) {}
    static const Table& table() {
        static const Table table({
            {0, at([](void*) { return true; })}, // has fast f16
            {1, at([](void*) { return true; })}, // and int8
            {5, at([](void*) { return new Config; })},
            {6, at([](void*, uint32_t) { return new Network; })},
            {7, at([](void*) { return new Profile; })},
            {12, at([](void*, const Network& network, const Config& config) { return build(network, config); })},
        });
        return table;
    }
};

// ---- Running
struct Engine : Object {
    std::vector<Port> ports;
    size_t inputs = 0;
    std::map<std::string, std::vector<Dims>> profile;
    std::atomic<int> contexts{0};
    explicit Engine(const std::string& bytes) : Object(table()) {
        std::istringstream lines(bytes);
        std::string line;
        std::getline(lines, line);
        while (std::getline(lines, line)) {
            std::istringstream words(line);
            std::string kind;
            Port port;
            words >> kind >> port.name >> port.type >> port.dims.count;
            for (int i = 0; i < port.dims.count; ++i) words >> port.dims.sides[i];
            for (int which = LEAST; kind == "input" && which <= MOST; ++which) {
                Dims dims = {port.dims.count, {}};
                for (int i = 0; i < dims.count; ++i) words >> dims.sides[i];
                profile[port.name].push_back(dims);
            }
            inputs += kind == "input";
            ports.push_back(port);
        }
    }
    const Port& port(const std::string& name) const {
        for (const Port& port : ports)
            if (port.name == name) return port;
        Table::unknown();
        std::abort();
    }
    // What its contexts work with is the engine's.
    static void destroy(Object* self) {
        trace("tensorrt_engine_end", nullptr);
        const int left = static_cast<Engine*>(self)->contexts;
        if (!left) return;
        std::fprintf(stderr, "an engine of TensorRT's ends before %d of its contexts\n", left);
        std::abort();
    }
    static const Table& table();
};

struct Context : Object {
    Engine& engine;
    std::map<std::string, Dims> shapes;
    std::map<std::string, void*> addresses;
    explicit Context(Engine& of) : Object(table()), engine(of) {
        trace("tensorrt_context", nullptr);
        ++engine.contexts;
    }
    static void destroy(Object* self) {
        trace("tensorrt_context_end", nullptr);
        --static_cast<Context*>(self)->engine.contexts;
    }

    bool set(const char* input, const Dims& dims) {
        const auto found = engine.profile.find(input);
        if (found == engine.profile.end() || found->second[MOST].count != dims.count) return false;
        for (int i = 0; i < dims.count; ++i)
            if (dims.sides[i] < found->second[LEAST].sides[i] || dims.sides[i] > found->second[MOST].sides[i]) return false;
        return shapes[input] = dims, true;
    }
    // Zeros, so that what is not computed is at least the same for all rows.
    bool run(void* stream) {
        trace("tensorrt_run", stream);
        for (size_t i = engine.inputs; i < engine.ports.size(); ++i) {
            const Port& port = engine.ports[i];
            const Dims dims = shape(port.name.c_str());
            size_t bytes = port.dtype() == INT64 ? 8 : port.dtype() == HALF || port.dtype() == BF16 ? 2 : 4;
            for (int side = 0; side < dims.count; ++side) bytes *= size_t(dims.sides[side]);
            const auto found = addresses.find(port.name);
            if (found == addresses.end()) return false;
            std::memset(found->second, 0, bytes);
        }
        return true;
    }
    // An output's rows are the first input's; a picture's sides are a latent's times the factor; whatever else is open is as long as
    // in the input of as many sides.
    Dims shape(const char* name) const {
        const auto told = shapes.find(name);
        if (told != shapes.end()) return told->second;
        static const char* const factor = std::getenv("LIVEDIFFUSION_NULL_FACTOR");
        const int64_t pixels = factor ? std::atoi(factor) : 8;
        const Dims first = shape_of(engine.ports[0]);
        Dims like = first, dims = engine.port(name).dims;
        for (size_t i = engine.inputs; i-- > 0;)
            if (engine.ports[i].dims.count == dims.count) like = shape_of(engine.ports[i]);
        for (int i = 0; i < dims.count; ++i) {
            if (dims.sides[i] >= 0) continue;
            dims.sides[i] = i == 0 ? first.sides[0] : like.sides[i];
            if (dims.count != 4 || i < 2) continue;
            if (dims.sides[1] == 3 && like.sides[1] != 3) dims.sides[i] *= pixels;
            if (dims.sides[1] != 3 && like.sides[1] == 3) dims.sides[i] /= pixels;
        }
        return dims;
    }
    Dims shape_of(const Port& port) const {
        const auto told = shapes.find(port.name);
        return told == shapes.end() ? port.dims : told->second;
    }
    static const Table& table() {
        static const Table table({
            {15, at([](void*, int32_t, void*) { return true; })}, // the profile's number
            {19, at([](void* self, const char* input, const Dims& dims) { return of<Context>(self).set(input, dims); })},
            {20, at([](void* self, const char* name) { return of<Context>(self).shape(name); })},
            {22, at([](void* self, const char* name, void* address) { return of<Context>(self).addresses[name] = address, true; })},
            {24, at([](void*, const char*, const void*) { return true; })}, // of an input
            {35, at([](void* self, void* stream) { return of<Context>(self).run(stream); })},
        }, destroy);
        return table;
    }
};

const Table& Engine::table() {
    static const Table table({
        {3, at([](void* self, int32_t) { return new Context(of<Engine>(self)); })},
        {4, at([](void* self) { return new Context(of<Engine>(self)); })},
        {5, at([](void*) { return size_t(1) << 20; })}, // memory of a context
        {8, at([](void*) { return 1; })},               // profiles
        {17, at([](void* self, const char* name) { return of<Engine>(self).port(name).dims; })},
        {18, at([](void* self, const char* name) { return of<Engine>(self).port(name).dtype(); })},
        {19, at([](void*, const char*) { return 0; })},     // on the device
        {20, at([](void*, const char*) { return false; })}, // of shapes
        {21, at([](void* self, const char* name) {
             const Engine& engine = of<Engine>(self);
             return engine.profile.count(name) ? 1 : 2; // input, output
         })},
        {27, at([](void* self, const char* name, int32_t, int32_t which) { return of<Engine>(self).profile.at(name)[size_t(which)]; })},
        {28, at([](void* self) { return int32_t(of<Engine>(self).ports.size()); })},
        {29, at([](void* self, int32_t i) { return of<Engine>(self).ports[size_t(i)].name.c_str(); })},
        {50, at([](void*) { return int64_t(1) << 20; })},
    }, destroy);
    return table;
}

struct Runtime : Object {
    Runtime() : Object(table()) {}
    static const Table& table() {
        static const Table table({
            {1, at([](void*, const void* bytes, size_t count) {
                 trace("tensorrt_load", nullptr);
                 static std::atomic<int> loads{0};
                 const char* refused = std::getenv("LIVEDIFFUSION_NULL_REFUSES");
                 if (++loads == (refused ? std::atoi(refused) : 0)) return static_cast<Engine*>(nullptr);
                 const std::string text(static_cast<const char*>(bytes), count);
                 if (text.rfind("engine ", 0) != 0) return static_cast<Engine*>(nullptr);
                 trace("tensorrt_engine", nullptr);
                 return new Engine(text);
             })},
        });
        return table;
    }
};

// ---- The reader of ONNX, which has its functions itself: there is nothing inside it.
struct Parser {
    void* const* functions;
    Network* network;
    Graph graph;
    bool take(const void* bytes, size_t count) { return network->take(Graph(bytes, count)), true; }
    explicit Parser(Network* into) : functions(table()), network(into) {}
    static void* const* table() {
        // Its destructor's two places are in the middle, the eighth and ninth.
        static void* functions[24];
        for (auto& function : functions) function = reinterpret_cast<void*>(Table::unknown);
        functions[0] = at([](Parser* self, const void* bytes, size_t count, const char*) { return self->take(bytes, count); });
        functions[5] = at([](Parser*) { return 0; }); // errors
        functions[7] = reinterpret_cast<void*>(Table::destroy);
        functions[8] = functions[9] = reinterpret_cast<void*>(Table::destroy);
        functions[11] = at([](Parser*, uint32_t) {});
        functions[12] = at([](Parser*) { return 0u; });
        functions[14] = at([](Parser*, int32_t) {});
        functions[17] = at([](Parser* self, const void* bytes, size_t count, const char*) {
            return self->graph = Graph(bytes, count), true;
        });
        functions[18] = at([](Parser*) { return int64_t(1); }); // all nodes are one part
        functions[19] = at([](Parser*, int64_t) { return true; });
        functions[20] = at([](Parser* self, int64_t, int64_t& count) {
            return count = int64_t(self->graph.nodes.size()), self->graph.nodes.data();
        });
        functions[21] = at([](Parser* self, const void* bytes, size_t count, const char*) {
            return self->graph = Graph(bytes, count), true;
        });
        functions[22] = at([](Parser*, const char*, const void*, size_t) { return trace("tensorrt_weight", nullptr), true; });
        functions[23] = at([](Parser* self) { return self->network->take(self->graph), true; });
        return functions;
    }
};

struct Registry {
    void* const* functions;
};

extern "C" {

void* createInferBuilder_INTERNAL(void*, int32_t) { return new Builder; }
void* createInferRuntime_INTERNAL(void*, int32_t) { return new Runtime; }
void* createInferRefitter_INTERNAL(void*, void*, int32_t) { return nullptr; }
void* createNvOnnxParser_INTERNAL(Network* network, void*, int32_t) { return new Parser(network); }
void* createNvOnnxParserRefitter_INTERNAL(void*, void*, int32_t) { return nullptr; }
int32_t getInferLibVersion() { return 101401; }

// Without a single plug-in: both lists are empty.
void* getPluginRegistry() {
    static void* functions[24];
    for (auto& function : functions) function = reinterpret_cast<void*>(Table::unknown);
    for (int list : {1, 13, 18}) functions[list] = at([](void*, int32_t* count) { return *count = 0, static_cast<void*>(nullptr); });
    static Registry registry = {functions};
    return &registry;
}

} // extern "C"
