// The diagonal empirical Fisher and the natural-gradient step, for their own sake. One element a thread and stride.
#include "fisher.cuh"
#include "sweep.cuh"

__device__ __forceinline__ float gradient_at(u64 gradient, bool bf16, u64 i) {
    return bf16 ? bf16_to_f32(global<const unsigned short>(gradient)[i]) : global<const float>(gradient)[i];
}

/// sum[i] += g^2 for each of `samples` rows of `len` gradients, in their order.
extern "C" __global__ void __launch_bounds__(FADAM_SWEEP_THREADS) fisher_accumulate(FisherArgs args) {
    double *sum = global<double>(args.fisher);
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < args.len; i += (u64)gridDim.x * blockDim.x) {
        double total = sum[i];
        for (u64 sample = 0; sample < args.samples; sample++)
            total = fisher_accumulate(total, gradient_at(args.gradient, args.bf16_gradient, sample * args.len + i));
        sum[i] = total;
    }
}

/// theta <- theta - lr g / (F + damping), or by the root of F.
extern "C" __global__ void __launch_bounds__(FADAM_SWEEP_THREADS) natural_gradient(FisherArgs args) {
    float *parameter = global<float>(args.parameter);
    const float *fisher = global<const float>(args.fisher);
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < args.len; i += (u64)gridDim.x * blockDim.x)
        parameter[i] = natural_gradient(parameter[i], gradient_at(args.gradient, args.bf16_gradient, i), fisher[i],
                                        args.neg_lr, args.damping, args.root);
}
