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

#define FADAM_VECTOR (FADAM_LANES / FADAM_WARP)
#define FADAM_WHOLE_WARP 0xffffffffu

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

    __device__ __forceinline__ void next_row() {
        rest = rest > FADAM_LANES ? rest - FADAM_LANES : 0;
        parameter += FADAM_LANES * sizeof(float);
        gradient += FADAM_LANES * (bf16_gradient ? sizeof(unsigned short) : sizeof(float));
        exp_avg += FADAM_LANES * sizeof(float);
        exp_avg_sq += FADAM_LANES * sizeof(float);
        max_exp_avg_sq += FADAM_LANES * sizeof(float);
    }

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

    /// To be called after `load`: to widen bf16 waits for it, and the other loads should be under way by then.
    __device__ __forceinline__ void load_gradient(float *into) const {
        if (!bf16_gradient) return load(gradient, into);
        if (rest >= vector_rest) return load_4_bf16(gradient, into);
#pragma unroll
        for (unsigned int k = 0; k < FADAM_VECTOR; k++)
            into[k] = k < rest ? load_bf16(gradient + k * sizeof(unsigned short)) : 0.0f;
    }

    /// The gradients of this row and the next ones, and moves on behind them: loads that are under way together.
    template <unsigned int rows> __device__ __forceinline__ void take_gradients(float (&into)[rows][FADAM_VECTOR]) {
        const bool vector = rest >= vector_rest + (rows - 1) * FADAM_LANES;
        if (vector && bf16_gradient) {
#pragma unroll
            for (unsigned int row = 0; row < rows; row++, next_row()) load_4_bf16(gradient, into[row]);
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
    chunk.parameter = task.parameter + start * sizeof(float);
    chunk.gradient = task.gradient + start * (chunk.bf16_gradient ? sizeof(unsigned short) : sizeof(float));
    chunk.exp_avg = task.exp_avg + start * sizeof(float);
    chunk.exp_avg_sq = task.exp_avg_sq + start * sizeof(float);
    chunk.max_exp_avg_sq = task.max_exp_avg_sq + start * sizeof(float);
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
