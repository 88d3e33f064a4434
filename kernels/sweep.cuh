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

/// The chunk that a warp works on: where it begins in each of its tensor's arrays.
struct Chunk {
    u64 index;      // in the row of all chunks
    u64 task_index; // of its tensor
    unsigned int len, group;
    bool vector, bf16_gradient;
    u64 parameter, gradient, exp_avg, exp_avg_sq, max_exp_avg_sq;
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
    const u64 start = (index - task.first_chunk) * FADAM_CHUNK, rest = task.len - start;
    chunk.len = rest < FADAM_CHUNK ? (unsigned int)rest : FADAM_CHUNK;
    chunk.group = task.group;
    chunk.vector = task.flags & FADAM_TASK_VECTOR;
    chunk.bf16_gradient = task.flags & FADAM_TASK_BF16_GRADIENT;
    chunk.parameter = task.parameter + start * sizeof(float);
    chunk.gradient = task.gradient + start * (chunk.bf16_gradient ? sizeof(unsigned short) : sizeof(float));
    chunk.exp_avg = task.exp_avg + start * sizeof(float);
    chunk.exp_avg_sq = task.exp_avg_sq + start * sizeof(float);
    chunk.max_exp_avg_sq = task.max_exp_avg_sq + start * sizeof(float);
    return chunk;
}

/// The first chunk of this warp, and the stride to its next.
__device__ __forceinline__ u64 first_chunk() { return ((u64)blockIdx.x * blockDim.x + threadIdx.x) / FADAM_WARP; }
__device__ __forceinline__ u64 chunk_stride() { return (u64)gridDim.x * blockDim.x / FADAM_WARP; }

/// A thread's share of one row: `count` elements of the chunk from `start` on, FADAM_VECTOR at most, perhaps none.
struct Share {
    unsigned int start, count;
    bool vector;

    __device__ __forceinline__ Share(const Chunk &chunk, unsigned int row) {
        start = row + threadIdx.x % FADAM_WARP * FADAM_VECTOR;
        unsigned int rest = start < chunk.len ? chunk.len - start : 0;
        count = rest < FADAM_VECTOR ? rest : FADAM_VECTOR;
        vector = chunk.vector && count == FADAM_VECTOR;
    }

    __device__ __forceinline__ void load(u64 array, float *into) const {
        u64 address = array + start * sizeof(float);
        if (vector) return load_4_f32(address, into);
#pragma unroll
        for (unsigned int k = 0; k < FADAM_VECTOR; k++)
            into[k] = k < count ? load_f32(address + k * sizeof(float)) : 0.0f;
    }

    __device__ __forceinline__ void store(u64 array, const float *from) const {
        u64 address = array + start * sizeof(float);
        if (vector) return store_4_f32(address, from);
#pragma unroll
        for (unsigned int k = 0; k < FADAM_VECTOR; k++)
            if (k < count) store_f32(address + k * sizeof(float), from[k]);
    }

    __device__ __forceinline__ void load_gradient(const Chunk &chunk, float *into) const {
        if (!chunk.bf16_gradient) return load(chunk.gradient, into);
        u64 address = chunk.gradient + start * sizeof(unsigned short);
        if (vector) return load_4_bf16(address, into);
#pragma unroll
        for (unsigned int k = 0; k < FADAM_VECTOR; k++)
            into[k] = k < count ? load_bf16(address + k * sizeof(unsigned short)) : 0.0f;
    }
};

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
        if (threadIdx.x % FADAM_WARP == 0) global<float>(partials)[chunk.index] = lanes[0];
    }
};

#endif
