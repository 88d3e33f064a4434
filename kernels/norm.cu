// Sums of squares over all gradients, and a global norm on its own.
#include "finalize.cuh"

/// One array alone keeps the memory busy only if several of its rows are under way.
#define NORM_ROWS 4

/// Partial sums of (g / (grad_scale loss_scale))^2, one a chunk, into partials[0]. Reads 4 bytes a parameter (2 of bf16).
extern "C" __global__ void __launch_bounds__(FADAM_SWEEP_THREADS) norm_partial(StepArgs args) {
    const Settings &settings = *global<const Settings>(args.settings);
    float scale = (float)(1.0 / (settings.grad_scale * loss_scale(settings, *control_of(args))));
    for (u64 index = first_chunk(); index < args.chunks; index += chunk_stride()) {
        Chunk chunk = locate(args, index);
        LaneSum sum;
        while (chunk.rest > 0) {
            float g[NORM_ROWS][FADAM_VECTOR];
            chunk.take_gradients(g);
#pragma unroll
            for (unsigned int row = 0; row < NORM_ROWS; row++)
#pragma unroll
                for (unsigned int k = 0; k < FADAM_VECTOR; k++) sum.add_square(k, g[row][k] * scale);
        }
        sum.keep(args.partials[0], chunk);
    }
}

/// The norm over all tensors, into control.grad_norm. One block.
extern "C" __global__ void __launch_bounds__(FADAM_FINALIZE_THREADS) global_norm(StepArgs args) {
    fold_tasks(args, 0);
    __syncthreads();
    if (threadIdx.x == 0) control_of(args)->grad_norm = sqrt(total(args, 0));
}
