// The sums that the similarity filter needs of two pictures, on every `step`-th pixel of every `step`-th row. The CPU twin is
// `dot_products_sampled` in similarity.rs.

const u32 SUM_THREADS = 256;

// Blocks add up their share in shared memory and leave it in `partial` (4 values each); the last one to finish adds those up in
// the order of the blocks, so that equal pictures give equal sums on every run. `ticket` is 0 before and after.
extern "C" __global__ void similarity_f32(const float* __restrict__ x, const float* __restrict__ y, u32 width, u32 height,
                                          u32 planes, u32 step, double* partial, u32* ticket, double* sums) {
    __shared__ double shared[4][SUM_THREADS];
    __shared__ u32 is_last;
    const u32 columns = (width + step - 1) / step, rows = (height + step - 1) / step;
    const u32 all = columns * rows * planes;
    double total[4] = {0.0, 0.0, 0.0, 0.0};
    u32 at = u32(thread_index());
    while (at < all) {
        // Short sums in f32, as on the CPU: good for 1e-6, and doubles are slow on most cards.
        float part[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        for (u32 n = 0; n < 32 && at < all; ++n, at += u32(thread_count())) {
            const u32 row = at / columns, plane = row / rows;
            const u64 from = (u64(plane) * height + u64(row - plane * rows) * step) * width + u64(at - row * columns) * step;
            const float a = x[from], b = y[from], d = a - b;
            part[0] += a * b;
            part[1] += a * a;
            part[2] += b * b;
            part[3] += d * d;
        }
        for (u32 k = 0; k < 4; ++k) total[k] += double(part[k]);
    }
    for (u32 k = 0; k < 4; ++k) shared[k][threadIdx.x] = total[k];
    __syncthreads();
    for (u32 half = SUM_THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) {
            for (u32 k = 0; k < 4; ++k) shared[k][threadIdx.x] += shared[k][threadIdx.x + half];
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        for (u32 k = 0; k < 4; ++k) partial[4 * blockIdx.x + k] = shared[k][0];
        // What this block wrote is seen by whoever sees its ticket.
        __threadfence();
        is_last = atomicAdd(ticket, 1u) == gridDim.x - 1 ? 1 : 0;
        // What other blocks wrote before theirs is there for this thread, and behind the barrier for its neighbours: a fence of
        // theirs would not do, since it was not they who saw the tickets (PTX ISA, memory consistency model: acquire pattern).
        __threadfence();
    }
    __syncthreads();
    if (is_last && threadIdx.x < 4) {
        double sum = 0.0;
        for (u32 block = 0; block < gridDim.x; ++block) {
            // Past the caches of this multiprocessor.
            sum += *(volatile double*)(partial + 4 * block + threadIdx.x);
        }
        sums[threadIdx.x] = sum;
        if (threadIdx.x == 0) *ticket = 0;
    }
}
