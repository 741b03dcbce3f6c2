// What happens to latents between two U-Net calls. The CPU twins are `admit` and `advance` in advance.rs, where the formulas
// stand; the order of the arithmetic is the same.

// x = alpha * latent + sigma * noise, where the latent comes as the encoder gives it: (given - shift) * scale.
template <class T>
__device__ void admit(float alpha, float sigma, float shift, float scale, const T* __restrict__ given,
                      const float* __restrict__ noise, float* __restrict__ latent, float* __restrict__ x, u64 count) {
    const bool aligned = is_aligned(given, 4 * sizeof(T)) && is_aligned(noise, 16) && is_aligned(latent, 16) && is_aligned(x, 16);
    for_each<4>(
        count, aligned,
        [&](u64 at) {
            Pack<T, 4> g = load<4>(given + at);
            Pack<float, 4> n = load<4>(noise + at), l, out;
            for (int k = 0; k < 4; ++k) {
                l.v[k] = (to_float(g.v[k]) - shift) * scale;
                out.v[k] = alpha * l.v[k] + sigma * n.v[k];
            }
            store<4>(latent + at, l);
            store<4>(x + at, out);
        },
        [&](u64 at) {
            float l = (to_float(given[at]) - shift) * scale;
            latent[at] = l;
            x[at] = alpha * l + sigma * noise[at];
        });
}

extern "C" __global__ void admit_f32(float alpha, float sigma, float shift, float scale, const float* given,
                                     const float* noise, float* latent, float* x, u64 count) {
    admit(alpha, sigma, shift, scale, given, noise, latent, x, count);
}

extern "C" __global__ void admit_f16(float alpha, float sigma, float shift, float scale, const f16* given,
                                     const float* noise, float* latent, float* x, u64 count) {
    admit(alpha, sigma, shift, scale, given, noise, latent, x, count);
}

// As `StepCoefficients` in advance.rs.
struct StepCoefficients {
    float alpha, sigma;
    float eps_x, eps_p;
    float hist_x, hist_m, hist_h;
    float next_x, next_h[4], next_z;
};

// Guidance, solver step, read-out and re-noising of all slots of a stream batch, in one pass over memory.
enum Guidance : u32 { NONE = 0, FULL = 1, RESIDUAL = 2, INITIALIZE = 3 };

// As `SlotArguments` in gpu/arguments.rs.
struct SlotArguments {
    StepCoefficients step;
    u32 guidance;
    float scale, delta;
    u32 capacity, newest; // of the history: a ring of `capacity` entries
    const void* prediction;
    const void* negative;
    const float* noise; // read where next_z is not 0
    float* reference;
    float* history;
    float* x;
};

const u32 MAX_SLOTS = 16;

// By value: as a kernel's parameters they need no copy of their own.
struct BatchArguments {
    SlotArguments slots[MAX_SLOTS];
};

// Derived once for each thread.
struct Weights {
    float nx, nr, rx, rn;
};

template <class T, int N> __device__ void advance_at(const SlotArguments& s, const Weights& w, u64 at, u64 count) {
    const StepCoefficients& c = s.step;
    Pack<float, N> x = load<N>(s.x + at), noise, negative, reference;
    Pack<T, N> prediction = load<N>(static_cast<const T*>(s.prediction) + at);
    if (s.guidance == FULL || s.guidance == INITIALIZE) {
        Pack<T, N> raw = load<N>(static_cast<const T*>(s.negative) + at);
        for (int k = 0; k < N; ++k) negative.v[k] = to_float(raw.v[k]);
    }
    if (s.guidance == RESIDUAL) reference = load<N>(s.reference + at);
    if (c.next_z != 0.0f) noise = load<N>(s.noise + at);

    Pack<float, N> entry, next;
    for (int k = 0; k < N; ++k) {
        const float p = to_float(prediction.v[k]), e = c.eps_x * x.v[k] + c.eps_p * p;
        float m = e;
        if (s.guidance == FULL) {
            const float u = c.eps_x * x.v[k] + c.eps_p * negative.v[k];
            m = u + s.scale * (e - u);
        } else if (s.guidance == RESIDUAL) {
            const float u = w.nx * x.v[k] - w.nr * reference.v[k];
            m = u + s.scale * (e - u);
        } else if (s.guidance == INITIALIZE) {
            const float n = c.eps_x * x.v[k] + c.eps_p * negative.v[k];
            reference.v[k] = w.rx * x.v[k] - w.rn * n;
            const float u = s.delta * n;
            m = u + s.scale * (e - u);
        }
        entry.v[k] = c.hist_x * x.v[k] + c.hist_m * m;
    }
    if (s.guidance == INITIALIZE) store<N>(s.reference + at, reference);

    if (s.capacity != 0) {
        Pack<float, N> newest = load<N>(s.history + s.newest * count + at);
        for (int k = 0; k < N; ++k) entry.v[k] = entry.v[k] + c.hist_h * newest.v[k];
    }
    for (int k = 0; k < N; ++k) next.v[k] = c.next_x * x.v[k] + c.next_h[0] * entry.v[k];
    for (u32 age = 0; age < s.capacity; ++age) {
        Pack<float, N> old = load<N>(s.history + (s.newest + age) % s.capacity * count + at);
        for (int k = 0; k < N; ++k) next.v[k] += c.next_h[age + 1] * old.v[k];
    }
    if (c.next_z != 0.0f) {
        for (int k = 0; k < N; ++k) next.v[k] += c.next_z * noise.v[k];
    }
    // The new entry takes the place of the oldest, which has been read.
    if (s.capacity != 0) store<N>(s.history + (s.newest + s.capacity - 1) % s.capacity * count + at, entry);
    store<N>(s.x + at, next);
}

template <class T> __device__ void advance(const BatchArguments& batch, u64 count) {
    const SlotArguments& s = batch.slots[blockIdx.y];
    const float sigma = s.step.sigma, alpha = s.step.alpha;
    const Weights w = {s.delta / sigma, s.delta * alpha / sigma, 1.0f / alpha, sigma / alpha};
    // A null pointer is aligned; every entry of the history is if the first one is and `count` is a multiple of 4.
    const bool aligned = count % 4 == 0 && is_aligned(s.x, 16) && is_aligned(s.prediction, 4 * sizeof(T)) &&
                         is_aligned(s.negative, 4 * sizeof(T)) && is_aligned(s.noise, 16) &&
                         is_aligned(s.reference, 16) && is_aligned(s.history, 16);
    for_each<4>(
        count, aligned, [&](u64 at) { advance_at<T, 4>(s, w, at, count); },
        [&](u64 at) { advance_at<T, 1>(s, w, at, count); });
}

// One row of the grid for each slot.
extern "C" __global__ void advance_f32(const IN_PLACE BatchArguments batch, u64 count) { advance<float>(batch, count); }
extern "C" __global__ void advance_f16(const IN_PLACE BatchArguments batch, u64 count) { advance<f16>(batch, count); }
