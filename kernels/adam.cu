// Adam and AdamW: norm_partial (where gradients are clipped or checked), adam_finalize, adam.
#include "adam.cuh"
#include "finalize.cuh"

/// Decides whether the step takes place, and if so advances each task's parameter and computes its scalars. One block.
extern "C" __global__ void __launch_bounds__(FADAM_FINALIZE_THREADS) adam_finalize(StepArgs args) {
    Start start;
    if (!begin_step(args, &start)) return;
    for (u64 i = threadIdx.x; i < args.task_count; i += blockDim.x) {
        const Task &task = global<const Task>(args.tasks)[i];
        AdamHyper hyper = global<const AdamHyper>(args.hypers)[task.group];
        hyper.lr *= start.lr_factor;
        Progress &progress = record_of(args, i).progress;
        advance(progress, hyper.beta1, hyper.beta2);
        global<AdamStep>(args.scalars)[i] = adam_scalars(hyper, progress, start.grad_scale);
#if FADAM_NORMS
        keep_gradient_norm(args, i);
#endif
    }
}

/// The step, in place. Reads parameter, gradient and both moments, writes all but the gradient: 28 bytes a parameter,
/// 36 with amsgrad, 8 more with an EMA. With FADAM_NORMS also sums g^2, delta^2 and theta^2.
extern "C" __global__ void FADAM_SWEEP_BOUNDS adam(StepArgs args) {
    if (control_of(args)->skipped) return;
    for (u64 index = first_chunk(); index < args.chunks; index += chunk_stride()) {
        Chunk chunk = locate(args, index);
        const AdamStep step = global<const AdamStep>(args.scalars)[chunk.task_index];
        const bool amsgrad = step.moments.flags & FADAM_AMSGRAD;
#if FADAM_NORMS
        LaneSum gradients, updates, parameters;
#endif
        for (; chunk.rest > 0; chunk.next_row()) {
            float g[FADAM_VECTOR], p[FADAM_VECTOR], m[FADAM_VECTOR], v[FADAM_VECTOR], vmax[FADAM_VECTOR] = {};
            chunk.load_parameter(p);
#if FADAM_EMA
            float e[FADAM_VECTOR];
            chunk.load(chunk.ema, e);
#endif
            chunk.load_moment(chunk.exp_avg, m);
            chunk.load_moment(chunk.exp_avg_sq, v);
            if (amsgrad) chunk.load_moment(chunk.max_exp_avg_sq, vmax);
            chunk.load_gradient(g);
#pragma unroll
            for (unsigned int k = 0; k < FADAM_VECTOR; k++) {
                g[k] = adam_moments(step, g[k], p[k], &m[k], &v[k]);
#if FADAM_NORMS
                gradients.add_square(k, g[k]);
#endif
            }
            chunk.round_moment(FADAM_RANDOM_EXP_AVG, m);
            chunk.round_moment(FADAM_RANDOM_EXP_AVG_SQ, v);
#pragma unroll
            for (unsigned int k = 0; k < FADAM_VECTOR; k++) {
#if FADAM_NORMS
                parameters.add_square(k, p[k]);
                updates.add_square(k, adam_apply(step, &p[k], m[k], v[k], &vmax[k]));
#else
                adam_apply(step, &p[k], m[k], v[k], &vmax[k]);
#endif
            }
            chunk.store_parameter(p);
            chunk.store_moment(chunk.exp_avg, m);
            chunk.store_moment(chunk.exp_avg_sq, v);
            if (amsgrad) chunk.store_moment(chunk.max_exp_avg_sq, vmax);
#if FADAM_EMA
            chunk.store_ema(e, p, args.ema_weight);
#endif
        }
#if FADAM_NORMS
        if (!global<const Settings>(args.settings)->reads_gradients) gradients.keep(args.partials[0], chunk);
        updates.keep(args.partials[1], chunk);
        parameters.keep(args.partials[2], chunk);
#endif
    }
}
