// FisherAdam: norm_partial, fisher_adam_finalize, fisher_adam_sums, fisher_adam_decide, fisher_adam_apply.
#include "finalize.cuh"
#include "fisher_adam.cuh"

/// Decides whether the step takes place, and if so advances each task's parameter and computes its scalars, the damping
/// from the sum of its gradient's squares included. One block.
extern "C" __global__ void __launch_bounds__(FADAM_FINALIZE_THREADS) fisher_adam_finalize(StepArgs args) {
    Start start;
    if (!begin_step(args, &start)) return;
    for (u64 i = threadIdx.x; i < args.task_count; i += blockDim.x) {
        const Task &task = global<const Task>(args.tasks)[i];
        FisherAdamHyper hyper = global<const FisherAdamHyper>(args.hypers)[task.group];
        hyper.lr *= start.lr_factor;
        Progress &progress = record_of(args, i).progress;
        double previous = advance(progress, hyper.beta1, hyper.beta2);
        double grad_rms = sqrt(sums_of(args, 0)[i] / (double)task.len) * start.clip;
        FisherAdamScalars &scalars = global<FisherAdamScalars>(args.scalars)[i];
        scalars.step = fisher_adam_scalars(hyper, progress, previous, start.grad_scale);
        scalars.damping = fisher_adam_damping(hyper, grad_rms);
#if FADAM_NORMS
        keep_gradient_norm(args, i);
#endif
    }
}

/// Commits the Fisher diagonal and sums n^2 and, with weight decay, w^2: 12 bytes a parameter, 16 with weight decay.
extern "C" __global__ void FADAM_SWEEP_BOUNDS fisher_adam_sums(StepArgs args) {
    if (control_of(args)->skipped) return;
    for (u64 index = first_chunk(); index < args.chunks; index += chunk_stride()) {
        Chunk chunk = locate(args, index);
        const FisherAdamStep step = global<const FisherAdamScalars>(args.scalars)[chunk.task_index].step;
        const FisherAdamDamping damping = global<const FisherAdamScalars>(args.scalars)[chunk.task_index].damping;
        const bool decay = step.flags & FADAM_WEIGHT_DECAY;
        LaneSum natural, decayed;
        for (; chunk.rest > 0; chunk.next_row()) {
            float grad[FADAM_VECTOR], f[FADAM_VECTOR], p[FADAM_VECTOR] = {};
            chunk.load_moment(chunk.exp_avg_sq, f);
            if (decay) chunk.load_parameter(p);
            chunk.load_gradient(grad);
#pragma unroll
            for (unsigned int k = 0; k < FADAM_VECTOR; k++) grad[k] = fisher_adam_fisher(step, grad[k], &f[k]);
            chunk.round_moment(FADAM_RANDOM_EXP_AVG_SQ, f);
            chunk.store_moment(chunk.exp_avg_sq, f);
#pragma unroll
            for (unsigned int k = 0; k < FADAM_VECTOR; k++) {
                float d = fisher_adam_denominator(step, damping, f[k]);
                natural.add_square(k, div_or_zero(grad[k], d));
                if (decay) decayed.add_square(k, div_or_zero(p[k], d));
            }
        }
        natural.keep(args.partials[1], chunk);
        decayed.keep(args.partials[2], chunk);
    }
}

/// What the sums leave of each tensor's natural and decay gradient. One block.
extern "C" __global__ void __launch_bounds__(FADAM_FINALIZE_THREADS) fisher_adam_decide(StepArgs args) {
    if (control_of(args)->skipped) return;
    fold_tasks(args, 1);
    fold_tasks(args, 2);
    __syncthreads();
    for (u64 i = threadIdx.x; i < args.task_count; i += blockDim.x) {
        const Task &task = global<const Task>(args.tasks)[i];
        const FisherAdamHyper &hyper = global<const FisherAdamHyper>(args.hypers)[task.group];
        global<FisherAdamScalars>(args.scalars)[i].clip =
            fisher_adam_clip(hyper, sums_of(args, 1)[i], sums_of(args, 2)[i], task.len);
    }
}

/// Momentum and the step itself: 24 bytes a parameter. With FADAM_NORMS sums m^2 and theta^2.
extern "C" __global__ void FADAM_SWEEP_BOUNDS fisher_adam_apply(StepArgs args) {
    if (control_of(args)->skipped) return;
    for (u64 index = first_chunk(); index < args.chunks; index += chunk_stride()) {
        Chunk chunk = locate(args, index);
        const FisherAdamScalars scalars = global<const FisherAdamScalars>(args.scalars)[chunk.task_index];
#if FADAM_NORMS
        LaneSum updates, parameters;
#endif
        for (; chunk.rest > 0; chunk.next_row()) {
            float g[FADAM_VECTOR], f[FADAM_VECTOR], p[FADAM_VECTOR], m[FADAM_VECTOR];
            chunk.load_moment(chunk.exp_avg_sq, f);
            chunk.load_parameter(p);
#if FADAM_EMA
            float e[FADAM_VECTOR];
            chunk.load(chunk.ema, e);
#endif
            chunk.load_moment(chunk.exp_avg, m);
            chunk.load_gradient(g);
#pragma unroll
            for (unsigned int k = 0; k < FADAM_VECTOR; k++)
                fisher_adam_momentum(scalars.step, scalars.damping, scalars.clip, g[k], f[k], &m[k]);
            chunk.round_moment(FADAM_RANDOM_EXP_AVG, m);
#pragma unroll
            for (unsigned int k = 0; k < FADAM_VECTOR; k++) {
#if FADAM_NORMS
                parameters.add_square(k, p[k]);
                updates.add_square(k, m[k]);
#endif
                fisher_adam_apply(scalars.step, scalars.damping, scalars.clip, f[k], &p[k], m[k]);
            }
            chunk.store_parameter(p);
            chunk.store_moment(chunk.exp_avg, m);
#if FADAM_EMA
            chunk.store_ema(e, p, args.ema_weight);
#endif
        }
#if FADAM_NORMS
        updates.keep(args.partials[1], chunk);
        parameters.keep(args.partials[2], chunk);
#endif
    }
}
