// FAdam: norm_partial (where gradients are clipped or checked), fadam_finalize, and then
//   kappa infinite        fadam
//   kappa, speculative    fadam, fadam_decide, fadam_correct (which does nothing unless kappa fires)
//   kappa, two sweeps     fadam_moments, fadam_decide, fadam_apply
#include "fadam.cuh"

#define FADAM_COORDINATES FADAM_NORMS
#include "finalize.cuh"

__device__ __forceinline__ FAdamScalars &scalars_of(const StepArgs &args, u64 task) {
    return global<FAdamScalars>(args.scalars)[task];
}

#if FADAM_NORMS
/// Coordinates of a chunk by where they lie, as one thread counts them: eight bits a count, for a thread has
/// FADAM_CHUNK / FADAM_WARP elements of a chunk, 128.
struct LaneCounts {
    unsigned int near_eps, near_decay_limit;

    __device__ __forceinline__ LaneCounts() : near_eps(0), near_decay_limit(0) {}

    __device__ __forceinline__ void add(const FAdamScalars &k, const FAdamPlace &place) {
        fadam_count(k.thresholds, place, &near_eps, &near_decay_limit);
    }

    /// Folds them over the warp, in sixteen bits, and keeps the chunk's.
    __device__ __forceinline__ void keep(u64 counts, const Chunk &chunk) const {
        const unsigned int every_second = 0x00ff00ffu;
        unsigned int words[4] = {near_eps & every_second, near_eps >> 8 & every_second, near_decay_limit & every_second,
                                 near_decay_limit >> 8 & every_second};
#pragma unroll
        for (unsigned int distance = FADAM_WARP / 2; distance > 0; distance /= 2)
#pragma unroll
            for (unsigned int i = 0; i < 4; i++) words[i] += __shfl_down_sync(FADAM_WHOLE_WARP, words[i], distance);
        if (lane_in_warp() != 0) return;
        ChunkCounts &kept = global<ChunkCounts>(counts)[chunk.index];
        kept.near_eps[0] = words[0];
        kept.near_eps[1] = words[1];
        kept.near_decay_limit[0] = words[2];
        kept.near_decay_limit[1] = words[3];
    }
};
#endif

/// Decides whether the step takes place, and if so advances each task's parameter and computes its scalars. One block.
extern "C" __global__ void __launch_bounds__(FADAM_FINALIZE_THREADS) fadam_finalize(StepArgs args) {
    Start start;
    if (!begin_step(args, &start)) return;
    for (u64 i = threadIdx.x; i < args.task_count; i += blockDim.x) {
        const Task &task = global<const Task>(args.tasks)[i];
        FAdamHyper hyper = global<const FAdamHyper>(args.hypers)[task.group];
        hyper.lr *= start.lr_factor;
        Progress &progress = record_of(args, i).progress;
        advance(progress, hyper.beta1, hyper.beta2);
        scalars_of(args, i).step = fadam_scalars(hyper, progress, start.grad_scale);
#if FADAM_NORMS
        scalars_of(args, i).thresholds = fadam_thresholds(hyper, progress);
        keep_gradient_norm(args, i);
#endif
    }
}

/// The whole step, delta unclipped, in place: 28 bytes a parameter. With FADAM_KAPPA also sums delta^2, with FADAM_NORMS
/// g^2 and theta^2 too, and counts coordinates.
extern "C" __global__ void FADAM_SWEEP_BOUNDS fadam(StepArgs args) {
    if (control_of(args)->skipped) return;
    for (u64 index = first_chunk(); index < args.chunks; index += chunk_stride()) {
        Chunk chunk = locate(args, index);
        const FAdamScalars scalars = scalars_of(args, chunk.task_index);
#if FADAM_KAPPA || FADAM_NORMS
        LaneSum updates;
#endif
#if FADAM_NORMS
        LaneSum gradients, parameters;
        LaneCounts counts;
#endif
        for (; chunk.rest > 0; chunk.next_row()) {
            float g[FADAM_VECTOR], p[FADAM_VECTOR], m[FADAM_VECTOR], s[FADAM_VECTOR];
            chunk.load_parameter(p);
#if FADAM_EMA
            float e[FADAM_VECTOR];
            chunk.load(chunk.ema, e);
#endif
            chunk.load_moment(chunk.exp_avg, m);
            chunk.load_moment(chunk.exp_avg_sq, s);
            chunk.load_gradient(g);
#pragma unroll
            for (unsigned int k = 0; k < FADAM_VECTOR; k++) {
                g[k] = fadam_moments(scalars.step, g[k], &m[k], &s[k]);
#if FADAM_NORMS
                gradients.add_square(k, g[k]);
#endif
            }
            chunk.round_moment(FADAM_RANDOM_EXP_AVG, m);
            chunk.round_moment(FADAM_RANDOM_EXP_AVG_SQ, s);
#pragma unroll
            for (unsigned int k = 0; k < FADAM_VECTOR; k++) {
#if FADAM_NORMS
                parameters.add_square(k, p[k]);
#endif
                FAdamPlace place;
                float delta = fadam_apply(scalars.step, 1.0f, &p[k], m[k], s[k], &place);
#if FADAM_NORMS
                if (k < chunk.rest) counts.add(scalars, place);
#endif
#if FADAM_KAPPA || FADAM_NORMS
                updates.add_square(k, delta);
#endif
            }
            chunk.store_parameter(p);
            chunk.store_moment(chunk.exp_avg, m);
            chunk.store_moment(chunk.exp_avg_sq, s);
#if FADAM_EMA
            chunk.store_ema(e, p, args.ema_weight);
#endif
        }
#if FADAM_KAPPA || FADAM_NORMS
        updates.keep(args.partials[1], chunk);
#endif
#if FADAM_NORMS
        if (!global<const Settings>(args.settings)->reads_gradients) gradients.keep(args.partials[0], chunk);
        parameters.keep(args.partials[2], chunk);
        counts.keep(args.counts, chunk);
#endif
    }
}

#if FADAM_KAPPA
/// Whether delta is longer than kappa, from its sums. One block.
extern "C" __global__ void __launch_bounds__(FADAM_FINALIZE_THREADS) fadam_decide(StepArgs args) {
    Control &control = *control_of(args);
    if (control.skipped) return;
    fold_tasks(args, 1);
    __syncthreads();
    if (threadIdx.x == 0) {
        control.update_norm = sqrt(total(args, 1));
        control.update_clip = fadam_clip(global<const Settings>(args.settings)->kappa, control.update_norm);
        if (control.update_clip != 1.0) control.clipped_updates += 1;
    }
}

/// Takes back what a speculative step applied too much: 16 bytes a parameter where kappa fires, 24 with an EMA, else
/// nothing.
extern "C" __global__ void FADAM_SWEEP_BOUNDS fadam_correct(StepArgs args) {
    const Control &control = *control_of(args);
    if (control.skipped || control.update_clip == 1.0) return;
    for (u64 index = first_chunk(); index < args.chunks; index += chunk_stride()) {
        Chunk chunk = locate(args, index);
#if FADAM_BF16_PARAMETERS
        chunk.has_master = true; // since the sweep before
#endif
        const FAdamScalars scalars = scalars_of(args, chunk.task_index);
        const double lr = global<const FAdamHyper>(args.hypers)[chunk.group].lr * control.learning_rate_factor;
        float back = (float)(lr * (1.0 - control.update_clip));
        for (; chunk.rest > 0; chunk.next_row()) {
            float p[FADAM_VECTOR], m[FADAM_VECTOR], s[FADAM_VECTOR];
            chunk.load_parameter(p);
            chunk.load_moment(chunk.exp_avg, m);
            chunk.load_moment(chunk.exp_avg_sq, s);
#if FADAM_EMA
            float e[FADAM_VECTOR], before[FADAM_VECTOR];
            chunk.load(chunk.ema, e);
#pragma unroll
            for (unsigned int k = 0; k < FADAM_VECTOR; k++) before[k] = p[k];
#endif
#pragma unroll
            for (unsigned int k = 0; k < FADAM_VECTOR; k++) fadam_correct(scalars.step, back, &p[k], m[k], s[k]);
            chunk.store_parameter(p);
#if FADAM_EMA
            chunk.correct_ema(e, before, p, args.ema_weight);
#endif
        }
    }
}

/// Commits the moments and sums delta^2, with FADAM_NORMS also g^2: 20 bytes a parameter.
extern "C" __global__ void FADAM_SWEEP_BOUNDS fadam_moments(StepArgs args) {
    if (control_of(args)->skipped) return;
    for (u64 index = first_chunk(); index < args.chunks; index += chunk_stride()) {
        Chunk chunk = locate(args, index);
        const FAdamScalars scalars = scalars_of(args, chunk.task_index);
        LaneSum updates;
#if FADAM_NORMS
        LaneSum gradients;
#endif
        for (; chunk.rest > 0; chunk.next_row()) {
            float g[FADAM_VECTOR], m[FADAM_VECTOR], s[FADAM_VECTOR];
            chunk.load_moment(chunk.exp_avg, m);
            chunk.load_moment(chunk.exp_avg_sq, s);
            chunk.load_gradient(g);
#pragma unroll
            for (unsigned int k = 0; k < FADAM_VECTOR; k++) {
                g[k] = fadam_moments(scalars.step, g[k], &m[k], &s[k]);
#if FADAM_NORMS
                gradients.add_square(k, g[k]);
#endif
            }
            chunk.round_moment(FADAM_RANDOM_EXP_AVG, m);
            chunk.round_moment(FADAM_RANDOM_EXP_AVG_SQ, s);
#pragma unroll
            for (unsigned int k = 0; k < FADAM_VECTOR; k++) updates.add_square(k, fadam_delta(scalars.step, m[k], s[k]));
            chunk.store_moment(chunk.exp_avg, m);
            chunk.store_moment(chunk.exp_avg_sq, s);
        }
        updates.keep(args.partials[1], chunk);
#if FADAM_NORMS
        if (!global<const Settings>(args.settings)->reads_gradients) gradients.keep(args.partials[0], chunk);
#endif
    }
}

/// Applies the committed moments, delta clipped: 16 bytes a parameter. With FADAM_NORMS sums theta^2
/// and counts coordinates.
extern "C" __global__ void FADAM_SWEEP_BOUNDS fadam_apply(StepArgs args) {
    const Control &control = *control_of(args);
    if (control.skipped) return;
    float clip = (float)control.update_clip;
    for (u64 index = first_chunk(); index < args.chunks; index += chunk_stride()) {
        Chunk chunk = locate(args, index);
        const FAdamScalars scalars = scalars_of(args, chunk.task_index);
#if FADAM_NORMS
        LaneSum parameters;
        LaneCounts counts;
#endif
        for (; chunk.rest > 0; chunk.next_row()) {
            float p[FADAM_VECTOR], m[FADAM_VECTOR], s[FADAM_VECTOR];
            chunk.load_parameter(p);
#if FADAM_EMA
            float e[FADAM_VECTOR];
            chunk.load(chunk.ema, e);
#endif
            chunk.load_moment(chunk.exp_avg, m);
            chunk.load_moment(chunk.exp_avg_sq, s);
#pragma unroll
            for (unsigned int k = 0; k < FADAM_VECTOR; k++) {
#if FADAM_NORMS
                parameters.add_square(k, p[k]);
#endif
                FAdamPlace place;
                fadam_apply(scalars.step, clip, &p[k], m[k], s[k], &place);
#if FADAM_NORMS
                if (k < chunk.rest) counts.add(scalars, place);
#endif
            }
            chunk.store_parameter(p);
#if FADAM_EMA
            chunk.store_ema(e, p, args.ema_weight);
#endif
        }
#if FADAM_NORMS
        parameters.keep(args.partials[2], chunk);
        counts.keep(args.counts, chunk);
#endif
    }
}
#endif
