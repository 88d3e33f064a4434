// Between sweeps: one block of FADAM_FINALIZE_THREADS threads folds the chunks' partial sums in f64 and decides.
#ifndef FADAM_FINALIZE_CUH
#define FADAM_FINALIZE_CUH
#include "sweep.cuh"

/// PyTorch's `clip_grad_norm_` adds this to the norm.
#define FADAM_CLIP_EPS 1e-6

/// Within, the loss scale and its inverse are normal f32 numbers.
#define FADAM_LOSS_SCALE_MIN 0x1p-126
#define FADAM_LOSS_SCALE_MAX 0x1p126

/// Sums one tensor's partials: lane j takes partials j, j + 256, ..., eight lanes a thread of one warp; then lanes j and
/// j + width fold for width = 128, 64, ..., 1. The result is the first thread's. Lanes without partials hold 0.
__device__ __forceinline__ double fold_partials(const float *partials, u64 count) {
    const unsigned int per_thread = FADAM_FOLD_LANES / FADAM_WARP, thread = threadIdx.x % FADAM_WARP;
    double lanes[per_thread];
#pragma unroll
    for (unsigned int k = 0; k < per_thread; k++) lanes[k] = 0.0;
    for (u64 row = 0; row < count; row += FADAM_FOLD_LANES)
#pragma unroll
        for (unsigned int k = 0; k < per_thread; k++) {
            u64 i = row + k * FADAM_WARP + thread;
            if (i < count) lanes[k] += (double)partials[i];
        }
#pragma unroll
    for (unsigned int width = per_thread / 2; width > 0; width /= 2)
#pragma unroll
        for (unsigned int k = 0; k < width; k++) lanes[k] += lanes[k + width];
#pragma unroll
    for (unsigned int distance = FADAM_WARP / 2; distance > 0; distance /= 2)
        lanes[0] += __shfl_down_sync(FADAM_WHOLE_WARP, lanes[0], distance);
    return lanes[0];
}

__device__ __forceinline__ double *sums_of(const StepArgs &args, unsigned int slot) {
    return global<double>(args.sums) + slot * args.task_count;
}

__device__ __forceinline__ Control *control_of(const StepArgs &args) { return global<Control>(args.control); }

/// What the loss was multiplied with, which every gradient is to be divided by.
__device__ __forceinline__ double loss_scale(const Settings &settings, const Control &control) {
    return settings.growth_interval ? control.loss_scale : 1.0;
}

__device__ __forceinline__ Record &record_of(const StepArgs &args, u64 task) {
    return *global<Record>(global<const Task>(args.tasks)[task].record);
}

/// The chunks of a task, from `begin` up to `end`.
__device__ __forceinline__ void find_chunks(const StepArgs &args, u64 task, u64 *begin, u64 *end) {
    const Task *tasks = global<const Task>(args.tasks);
    *begin = tasks[task].first_chunk;
    *end = task + 1 < args.task_count ? tasks[task + 1].first_chunk : args.chunks;
}

/// The sum over each tensor, a warp a tensor, into `sums`. The block must meet at a barrier before it reads them.
__device__ __forceinline__ void fold_tasks(const StepArgs &args, unsigned int slot) {
    for (u64 i = threadIdx.x / FADAM_WARP; i < args.task_count; i += blockDim.x / FADAM_WARP) {
        u64 begin, end;
        find_chunks(args, i, &begin, &end);
        double sum = fold_partials(global<const float>(args.partials[slot]) + begin, end - begin);
        if (threadIdx.x % FADAM_WARP == 0) sums_of(args, slot)[i] = sum;
    }
}

/// All tensors' sums, added in the order of registration.
__device__ __forceinline__ double total(const StepArgs &args, unsigned int slot) {
    const double *sums = sums_of(args, slot);
    double total = 0.0;
    for (u64 i = 0; i < args.task_count; i++) total += sums[i];
    return total;
}

/// What the schedule multiplies the learning rates with in this step.
__device__ __forceinline__ double scheduled_factor(const Settings &settings, const Control &control) {
    if (!settings.factors) return 1.0;
    const u64 step = control.schedule_step;
    return global<const double>(settings.factors)[step < settings.last_factor ? step : settings.last_factor];
}

/// The loss scale after a step, as PyTorch's GradScaler has it, but in f64 and within bounds.
__device__ __forceinline__ void adapt_loss_scale(const Settings &settings, Control &control, bool finite) {
    if (!finite) {
        double smaller = control.loss_scale * settings.backoff_factor;
        control.loss_scale = smaller < FADAM_LOSS_SCALE_MIN ? FADAM_LOSS_SCALE_MIN : smaller;
        control.good_steps = 0;
        return;
    }
    control.good_steps += 1;
    if (control.good_steps < settings.growth_interval) return;
    double larger = control.loss_scale * settings.growth_factor;
    if (larger <= FADAM_LOSS_SCALE_MAX) control.loss_scale = larger;
    control.good_steps = 0;
}

/// What every tensor's scalars depend on.
struct Start {
    double clip;       // the coefficient of clipping by max_grad_norm
    double grad_scale; // clip over all that the gradients were multiplied with
    double lr_factor;  // of the schedule
};

/// Counts the call, judges the gradients and finds the clip coefficient; moves the schedule and the loss scale on. All
/// threads get the same answer: whether the step takes place, and if so `start`.
__device__ __forceinline__ bool begin_step(const StepArgs &args, Start *start) {
    const Settings &settings = *global<const Settings>(args.settings);
    __shared__ Start found;
    __shared__ bool skipped;
    if (settings.reads_gradients) {
        fold_tasks(args, 0);
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        Control &control = *control_of(args);
        const double scale = loss_scale(settings, control);
        double coefficient = 1.0;
        control.step += 1;
        skipped = false;
        if (settings.reads_gradients) {
            const double *sums = sums_of(args, 0);
            const Task *tasks = global<const Task>(args.tasks);
            double total = 0.0;
            for (u64 i = 0; i < args.task_count; i++) {
                if (settings.skips && !skipped && sums[i] - sums[i] != 0.0) {
                    skipped = true;
                    control.failed_step = control.step;
                    control.failed_parameter = tasks[i].parameter_index;
                }
                total += sums[i];
            }
            control.grad_norm = sqrt(total);
            if (settings.max_grad_norm > 0.0) {
                double c = settings.max_grad_norm / (control.grad_norm + FADAM_CLIP_EPS);
                coefficient = c > 1.0 ? 1.0 : c;
            }
        }
        found.clip = coefficient;
        found.grad_scale = coefficient / (settings.grad_scale * scale);
        found.lr_factor = scheduled_factor(settings, control);
        control.learning_rate_factor = found.lr_factor;
        control.last_loss_scale = settings.growth_interval ? scale : 0.0;
        if (skipped) control.skipped_steps += 1;
        if (!skipped || settings.counts_skipped) control.schedule_step += 1;
        if (settings.growth_interval) adapt_loss_scale(settings, control, !skipped);
        control.skipped = skipped;
        control.clip_coefficient = coefficient;
    }
    __syncthreads();
    *start = found;
    return !skipped;
}

/// One step further for this parameter, whose record is all zeros before its first. Returns the beta2 power before it.
__device__ __forceinline__ double advance(Progress &progress, double beta1, double beta2) {
    const bool first = progress.step == 0;
    const double before = first ? 1.0 : progress.beta2_power;
    progress.step += 1;
    if (progress.start == 0) progress.start = progress.step;
    progress.beta1_power = (first ? 1.0 : progress.beta1_power) * beta1;
    progress.beta2_power = before * beta2;
    return before;
}

#if FADAM_NORMS
/// Norms of each tensor's gradient, from the pass before the step.
__device__ __forceinline__ void keep_gradient_norm(const StepArgs &args, u64 i) {
    if (!global<const Settings>(args.settings)->reads_gradients) return;
    record_of(args, i).grad_norm = sqrt(sums_of(args, 0)[i]);
}

#if FADAM_COORDINATES
__device__ __forceinline__ void add(Coordinates &sum, const Coordinates &other) {
    sum.count += other.count;
#pragma unroll
    for (unsigned int k = 0; k < FADAM_NEAR_EPS; k++) sum.near_eps[k] += other.near_eps[k];
#pragma unroll
    for (unsigned int k = 0; k < FADAM_NEAR_DECAY_LIMIT; k++) sum.near_decay_limit[k] += other.near_decay_limit[k];
}

/// Coordinates of each tensor, a warp a tensor, and of all, from the counts that a sweep with norms has left.
__device__ __forceinline__ void keep_coordinates(const StepArgs &args) {
    const unsigned int counts = FADAM_NEAR_EPS + FADAM_NEAR_DECAY_LIMIT, warp = threadIdx.x / FADAM_WARP;
    const bool first = threadIdx.x % FADAM_WARP == 0;
    __shared__ Coordinates totals[FADAM_FINALIZE_THREADS / FADAM_WARP]; // of each warp's tensors
    if (first) totals[warp] = Coordinates();
    for (u64 i = warp; i < args.task_count; i += blockDim.x / FADAM_WARP) {
        u64 begin, end, found[counts] = {};
        find_chunks(args, i, &begin, &end);
        for (u64 chunk = begin + threadIdx.x % FADAM_WARP; chunk < end; chunk += FADAM_WARP) {
            const ChunkCounts &part = global<const ChunkCounts>(args.counts)[chunk];
#pragma unroll
            for (unsigned int k = 0; k < FADAM_NEAR_EPS; k++) found[k] += part.near_eps[k % 2] >> k / 2 * 16 & 0xffffu;
#pragma unroll
            for (unsigned int k = 0; k < FADAM_NEAR_DECAY_LIMIT; k++)
                found[FADAM_NEAR_EPS + k] += part.near_decay_limit[k % 2] >> k / 2 * 16 & 0xffffu;
        }
#pragma unroll
        for (unsigned int distance = FADAM_WARP / 2; distance > 0; distance /= 2)
#pragma unroll
            for (unsigned int k = 0; k < counts; k++)
                found[k] += __shfl_down_sync(FADAM_WHOLE_WARP, found[k], distance);
        if (!first) continue;
        Coordinates &tensor = record_of(args, i).coordinates;
        tensor.count = global<const Task>(args.tasks)[i].len;
#pragma unroll
        for (unsigned int k = 0; k < FADAM_NEAR_EPS; k++) tensor.near_eps[k] = found[k];
#pragma unroll
        for (unsigned int k = 0; k < FADAM_NEAR_DECAY_LIMIT; k++) tensor.near_decay_limit[k] = found[FADAM_NEAR_EPS + k];
        add(totals[warp], tensor);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        Coordinates all = Coordinates();
        for (unsigned int i = 0; i < blockDim.x / FADAM_WARP; i++) add(all, totals[i]);
        control_of(args)->coordinates = all;
    }
}
#endif

/// Norms from the sums that a sweep with norms has left: of delta in slot 1, of theta in slot 2 and, where no pass over
/// the gradients went before, of g in slot 0; and of FAdam its coordinates. One block.
extern "C" __global__ void __launch_bounds__(FADAM_FINALIZE_THREADS) keep_norms(StepArgs args) {
    Control &control = *control_of(args);
    if (control.skipped) return;
    bool with_gradients = !global<const Settings>(args.settings)->reads_gradients;
    if (with_gradients) fold_tasks(args, 0);
    fold_tasks(args, 1);
    fold_tasks(args, 2);
#if FADAM_COORDINATES
    keep_coordinates(args);
#endif
    __syncthreads();
    for (u64 i = threadIdx.x; i < args.task_count; i += blockDim.x) {
        Record &record = record_of(args, i);
        record.update_norm = sqrt(sums_of(args, 1)[i]);
        record.parameter_norm = sqrt(sums_of(args, 2)[i]);
        if (with_gradients) record.grad_norm = sqrt(sums_of(args, 0)[i]);
        record.norms_known = 1;
    }
    if (threadIdx.x == 0) {
        control.update_norm = sqrt(total(args, 1));
        if (with_gradients) control.grad_norm = sqrt(total(args, 0));
    }
}
#endif

#endif
