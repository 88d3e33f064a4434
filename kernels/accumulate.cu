// Gradient accumulation over micro-batches, all tensors in one launch. A task's parameter is the sum.
#include "sweep.cuh"

/// sum <- sum + g, rounded once. Reads sum and gradient, writes the sum: 12 bytes an element, 10 with bf16.
extern "C" __global__ void __launch_bounds__(FADAM_SWEEP_THREADS) accumulate(StepArgs args) {
    for (u64 index = first_chunk(); index < args.chunks; index += chunk_stride()) {
        for (Chunk chunk = locate(args, index); chunk.rest > 0; chunk.next_row()) {
            float sum[FADAM_VECTOR], g[FADAM_VECTOR];
            chunk.load(chunk.parameter, sum);
            chunk.load_gradient(g);
#pragma unroll
            for (unsigned int k = 0; k < FADAM_VECTOR; k++) sum[k] += g[k];
            chunk.store(chunk.parameter, sum);
        }
    }
}

/// sum <- g, whatever it held: 8 bytes an element, 6 with bf16.
extern "C" __global__ void __launch_bounds__(FADAM_SWEEP_THREADS) accumulate_first(StepArgs args) {
    for (u64 index = first_chunk(); index < args.chunks; index += chunk_stride()) {
        for (Chunk chunk = locate(args, index); chunk.rest > 0; chunk.next_row()) {
            float g[FADAM_VECTOR];
            chunk.load_gradient(g);
            chunk.store(chunk.parameter, g);
        }
    }
}
