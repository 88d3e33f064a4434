// A sweep over all tensors in one launch: which chunk a warp has, which elements of it a thread has, how they are loaded
// and stored, how lanes fold. No optimizer mathematics.
//
// Grid: any number of blocks of FADAM_SWEEP_THREADS threads. Each warp takes chunks in grid strides. A row of a chunk is
// FADAM_LANES elements, four neighbours a thread: one 16-byte access an array where the task's arrays are aligned and the
// four are all there, else element by element within bounds. Elements beyond the tensor read as 0 and are not stored; a 0
// adds nothing to any sum.
#ifndef FADAM_SWEEP_CUH
#define FADAM_SWEEP_CUH
#include "access.cuh"
#include "args.h"
#include "moments.cuh"

#define FADAM_VECTOR (FADAM_LANES / FADAM_WARP)
#define FADAM_WHOLE_WARP 0xffffffffu

// What an optimizer keeps is defined when a kernel is compiled for it:
// FADAM_BF16_PARAMETERS  some parameters are bf16, each with a master, with a remainder or alone
// FADAM_BF16_MOMENTS     else f32
// FADAM_STOCHASTIC       bf16 is rounded by chance, else to nearest
// FADAM_EMA              each parameter has an exponential moving average
#define FADAM_NARROW (FADAM_BF16_PARAMETERS || FADAM_BF16_MOMENTS)

// Of a sweep's block. With bf16 the assembler would spill a register, once a chunk, to get below a step of occupancy; told
// that one block at a time is enough, it does not. Of f32 alone it finds the fewest registers untold.
#if FADAM_NARROW
#define FADAM_SWEEP_BOUNDS __launch_bounds__(FADAM_SWEEP_THREADS, 1)
#else
#define FADAM_SWEEP_BOUNDS __launch_bounds__(FADAM_SWEEP_THREADS)
#endif

#if FADAM_BF16_MOMENTS
typedef unsigned short Moment;
#else
typedef float Moment;
#endif

/// The chunk that a warp works on, as one of its threads sees it: a share of FADAM_VECTOR elements of each row, or what
/// is left of them. One address an array and one count move on row by row, because that takes the fewest registers.
struct Chunk {
    u64 index;      // in the row of all chunks
    u64 task_index; // of its tensor
    unsigned int group;
    unsigned int rest;        // elements from this thread's share on, to the chunk's end; 0 beyond it
    unsigned int vector_rest; // what `rest` must be at least for vector accesses
    bool bf16_gradient;
    u64 parameter, gradient, exp_avg, exp_avg_sq, max_exp_avg_sq; // of the share, in each array
#if FADAM_BF16_PARAMETERS
    u64 master;
    unsigned int parameter_flags;
    bool has_master; // else it begins with the parameter's value in this step
#endif
#if FADAM_EMA
    u64 ema;
    bool starts; // it begins with the parameter's value in this step
#endif
#if FADAM_NARROW && FADAM_STOCHASTIC
    u64 seed, element; // the share's first element in the tensor
    unsigned int step, stream;
#endif

    __device__ __forceinline__ void next_row() {
        rest = rest > FADAM_LANES ? rest - FADAM_LANES : 0;
        parameter += FADAM_LANES * parameter_size();
        gradient += FADAM_LANES * (bf16_gradient ? sizeof(unsigned short) : sizeof(float));
        exp_avg += FADAM_LANES * sizeof(Moment);
        exp_avg_sq += FADAM_LANES * sizeof(Moment);
        max_exp_avg_sq += FADAM_LANES * sizeof(Moment);
#if FADAM_BF16_PARAMETERS
        master += FADAM_LANES * master_size();
#endif
#if FADAM_EMA
        ema += FADAM_LANES * sizeof(float);
#endif
#if FADAM_NARROW && FADAM_STOCHASTIC
        element += FADAM_LANES;
#endif
    }

#if FADAM_BF16_PARAMETERS
    __device__ __forceinline__ unsigned int parameter_size() const {
        return parameter_flags & FADAM_TASK_BF16 ? sizeof(unsigned short) : sizeof(float);
    }
    __device__ __forceinline__ unsigned int master_size() const {
        return parameter_flags & FADAM_TASK_REMAINDER ? sizeof(unsigned short) : sizeof(float);
    }
#else
    __device__ __forceinline__ unsigned int parameter_size() const { return sizeof(float); }
#endif

    __device__ __forceinline__ void load(u64 address, float *into) const {
        if (rest >= vector_rest) return load_4_f32(address, into);
#pragma unroll
        for (unsigned int k = 0; k < FADAM_VECTOR; k++)
            into[k] = k < rest ? load_f32(address + k * sizeof(float)) : 0.0f;
    }

    __device__ __forceinline__ void store(u64 address, const float *from) const {
        if (rest >= vector_rest) return store_4_f32(address, from);
#pragma unroll
        for (unsigned int k = 0; k < FADAM_VECTOR; k++)
            if (k < rest) store_f32(address + k * sizeof(float), from[k]);
    }

    __device__ __forceinline__ void load(u64 address, unsigned short *into) const {
        if (rest >= vector_rest) return load_4_u16(address, into);
#pragma unroll
        for (unsigned int k = 0; k < FADAM_VECTOR; k++)
            into[k] = k < rest ? load_u16(address + k * sizeof(unsigned short)) : 0;
    }

    __device__ __forceinline__ void store(u64 address, const unsigned short *from) const {
        if (rest >= vector_rest) return store_4_u16(address, from);
#pragma unroll
        for (unsigned int k = 0; k < FADAM_VECTOR; k++)
            if (k < rest) store_u16(address + k * sizeof(unsigned short), from[k]);
    }

    __device__ __forceinline__ void load_bf16(u64 address, float *into) const {
        unsigned short bits[FADAM_VECTOR];
        load(address, bits);
#pragma unroll
        for (unsigned int k = 0; k < FADAM_VECTOR; k++) into[k] = bf16_to_f32(bits[k]);
    }

    /// To be called after the other loads: to widen bf16 waits for it, and they should be under way by then.
    __device__ __forceinline__ void load_gradient(float *into) const {
        if (bf16_gradient) return load_bf16(gradient, into);
        load(gradient, into);
    }

    __device__ __forceinline__ void load_moment(u64 address, float *into) const {
#if FADAM_BF16_MOMENTS
        load_bf16(address, into);
#else
        load(address, into);
#endif
    }

    /// Of values that `round_moment` has made what they are.
    __device__ __forceinline__ void store_moment(u64 address, const float *from) const {
#if FADAM_BF16_MOMENTS
        unsigned short bits[FADAM_VECTOR];
#pragma unroll
        for (unsigned int k = 0; k < FADAM_VECTOR; k++) bits[k] = (unsigned short)(bits_of(from[k]) >> 16);
        store(address, bits);
#else
        store(address, from);
#endif
    }

    /// To what the moment's type can hold: what a step computes from it is computed from it as stored.
    __device__ __forceinline__ void round_moment(unsigned int purpose, float *m) const {
#if FADAM_BF16_MOMENTS
        unsigned short bits[FADAM_VECTOR];
        round(purpose, m, bits);
#pragma unroll
        for (unsigned int k = 0; k < FADAM_VECTOR; k++) m[k] = bf16_to_f32(bits[k]);
#endif
    }

#if FADAM_NARROW
    __device__ __forceinline__ void round(unsigned int purpose, const float *from, unsigned short *into) const {
#if FADAM_STOCHASTIC
        unsigned int random[4];
        philox(seed, element / FADAM_RANDOM_BLOCK, step, stream | purpose, random);
        // A draw serves this thread and its neighbour, two elements a word.
        const bool second = element % FADAM_RANDOM_BLOCK != 0;
#pragma unroll
        for (unsigned int k = 0; k < FADAM_VECTOR; k++) {
            unsigned int word = second ? random[k / 2 + 2] : random[k / 2];
            into[k] = bf16_stochastic(from[k], k % 2 ? word >> 16 : word & 0xffffu);
        }
#else
#pragma unroll
        for (unsigned int k = 0; k < FADAM_VECTOR; k++) into[k] = bf16_nearest(from[k]);
#endif
    }
#endif

    /// The parameter as exactly as it is kept.
    __device__ __forceinline__ void load_parameter(float *into) const {
#if FADAM_BF16_PARAMETERS
        if (parameter_flags & FADAM_TASK_BF16) {
            if (parameter_flags & FADAM_TASK_MASTER && has_master) return load(master, into);
            unsigned short value[FADAM_VECTOR], remainder[FADAM_VECTOR] = {};
            load(parameter, value);
            if (parameter_flags & FADAM_TASK_REMAINDER && has_master) load(master, remainder);
#pragma unroll
            for (unsigned int k = 0; k < FADAM_VECTOR; k++) into[k] = join(value[k], remainder[k]);
            return;
        }
#endif
        load(parameter, into);
    }

    __device__ __forceinline__ void store_parameter(const float *from) const {
#if FADAM_BF16_PARAMETERS
        if (parameter_flags & FADAM_TASK_BF16) {
            unsigned short value[FADAM_VECTOR];
            if (parameter_flags & FADAM_TASK_REMAINDER) {
                unsigned short remainder[FADAM_VECTOR];
#pragma unroll
                for (unsigned int k = 0; k < FADAM_VECTOR; k++) {
                    value[k] = split_value(from[k]);
                    remainder[k] = split_remainder(from[k]);
                }
                store(master, remainder);
            } else if (parameter_flags & FADAM_TASK_MASTER) {
#pragma unroll
                for (unsigned int k = 0; k < FADAM_VECTOR; k++) value[k] = bf16_nearest(from[k]);
                store(master, from);
            } else {
                round(FADAM_RANDOM_PARAMETER, from, value);
            }
            return store(parameter, value);
        }
#endif
        store(parameter, from);
    }

#if FADAM_EMA
    /// The parameter's exponential moving average `e`, after its step.
    __device__ __forceinline__ void store_ema(float *e, const float *p, float weight) const {
#pragma unroll
        for (unsigned int k = 0; k < FADAM_VECTOR; k++) e[k] = starts ? p[k] : ::exp_avg(e[k], p[k], weight, 0);
        store(ema, e);
    }

    /// After a correction of the parameter's step.
    __device__ __forceinline__ void correct_ema(float *e, const float *before, const float *p, float weight) const {
#pragma unroll
        for (unsigned int k = 0; k < FADAM_VECTOR; k++)
            e[k] = starts ? p[k] : fmaf(weight, p[k] - before[k], e[k]);
        store(ema, e);
    }
#endif

    /// The gradients of this row and the next ones, and moves on behind them: loads that are under way together.
    template <unsigned int rows> __device__ __forceinline__ void take_gradients(float (&into)[rows][FADAM_VECTOR]) {
        const bool vector = rest >= vector_rest + (rows - 1) * FADAM_LANES;
        if (vector && bf16_gradient) {
            unsigned short bits[rows][FADAM_VECTOR];
#pragma unroll
            for (unsigned int row = 0; row < rows; row++, next_row()) load_4_u16(gradient, bits[row]);
#pragma unroll
            for (unsigned int row = 0; row < rows; row++)
#pragma unroll
                for (unsigned int k = 0; k < FADAM_VECTOR; k++) into[row][k] = bf16_to_f32(bits[row][k]);
        } else if (vector) {
#pragma unroll
            for (unsigned int row = 0; row < rows; row++, next_row()) load_4_f32(gradient, into[row]);
        } else {
#pragma unroll
            for (unsigned int row = 0; row < rows; row++, next_row()) load_gradient(into[row]);
        }
    }
};

/// The last task whose first chunk is not beyond `chunk`: an empty tensor shares its own with the next one.
__device__ __forceinline__ u64 find_task(const StepArgs &args, u64 chunk) {
    const Task *tasks = global<const Task>(args.tasks);
    u64 low = 0, high = args.task_count;
    while (high - low > 1) {
        u64 middle = low + (high - low) / 2;
        if (tasks[middle].first_chunk <= chunk)
            low = middle;
        else
            high = middle;
    }
    return low;
}

__device__ __forceinline__ Chunk locate(const StepArgs &args, u64 index) {
    Chunk chunk;
    chunk.index = index;
    chunk.task_index = find_task(args, index);
    const Task &task = global<const Task>(args.tasks)[chunk.task_index];
    const u64 chunk_start = (index - task.first_chunk) * FADAM_CHUNK, left = task.len - chunk_start;
    const unsigned int len = left < FADAM_CHUNK ? (unsigned int)left : FADAM_CHUNK;
    const unsigned int share = lane_in_warp() * FADAM_VECTOR;
    const u64 start = chunk_start + share;
    chunk.group = task.group;
    chunk.rest = len > share ? len - share : 0;
    chunk.vector_rest = task.flags & FADAM_TASK_VECTOR ? FADAM_VECTOR : FADAM_CHUNK + 1; // never
    chunk.bf16_gradient = task.flags & FADAM_TASK_BF16_GRADIENT;
#if FADAM_BF16_PARAMETERS
    chunk.parameter_flags = task.flags;
    chunk.master = task.master + start * chunk.master_size();
#endif
#if FADAM_EMA
    chunk.ema = task.ema + start * sizeof(float);
#endif
#if FADAM_NARROW || FADAM_EMA
    const Progress &progress = global<const Record>(task.record)->progress;
#endif
#if FADAM_BF16_PARAMETERS
    chunk.has_master = progress.start != progress.step;
#endif
#if FADAM_EMA
    chunk.starts = progress.start == progress.step;
#endif
#if FADAM_NARROW && FADAM_STOCHASTIC
    chunk.seed = args.seed;
    chunk.element = start;
    chunk.step = (unsigned int)progress.step;
    chunk.stream = task.parameter_index << FADAM_RANDOM_PURPOSE_BITS;
#endif
    chunk.parameter = task.parameter + start * chunk.parameter_size();
    chunk.gradient = task.gradient + start * (chunk.bf16_gradient ? sizeof(unsigned short) : sizeof(float));
    chunk.exp_avg = task.exp_avg + start * sizeof(Moment);
    chunk.exp_avg_sq = task.exp_avg_sq + start * sizeof(Moment);
    chunk.max_exp_avg_sq = task.max_exp_avg_sq + start * sizeof(Moment);
    return chunk;
}

/// The first chunk of this warp, and the stride to its next.
__device__ __forceinline__ u64 first_chunk() {
    return ((u64)blockIdx.x * FADAM_SWEEP_THREADS + threadIdx.x) / FADAM_WARP;
}
__device__ __forceinline__ u64 chunk_stride() { return (u64)gridDim.x * FADAM_SWEEP_THREADS / FADAM_WARP; }

/// A sum over the chunk, four of its FADAM_LANES lanes a thread.
struct LaneSum {
    float lanes[FADAM_VECTOR];

    __device__ __forceinline__ LaneSum() {
#pragma unroll
        for (unsigned int k = 0; k < FADAM_VECTOR; k++) lanes[k] = 0.0f;
    }

    __device__ __forceinline__ void add_square(unsigned int k, float x) { lanes[k] = fmaf(x, x, lanes[k]); }

    /// Folds lanes j and j + width for width = 64, 32, ..., 1, and keeps the chunk's partial sum.
    __device__ __forceinline__ void keep(u64 partials, const Chunk &chunk) {
#pragma unroll
        for (unsigned int distance = FADAM_WARP / 2; distance > 0; distance /= 2)
#pragma unroll
            for (unsigned int k = 0; k < FADAM_VECTOR; k++)
                lanes[k] += __shfl_down_sync(FADAM_WHOLE_WARP, lanes[k], distance);
#pragma unroll
        for (unsigned int width = FADAM_VECTOR / 2; width > 0; width /= 2)
#pragma unroll
            for (unsigned int k = 0; k < width; k++) lanes[k] += lanes[k + width];
        if (lane_in_warp() == 0) global<float>(partials)[chunk.index] = lanes[0];
    }
};

#endif
