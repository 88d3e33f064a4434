/* What Rust and CUDA share: geometry and argument structs, declared once. Plain C, no includes (NVRTC has none).
 * `cargo build --features bindgen` writes the Rust mirror, src/args.rs. */
#ifndef FADAM_ARGS_H
#define FADAM_ARGS_H

/* Geometry of every reduction. It is part of the numerics contract, never a function of the machine. */
#define FADAM_CHUNK 4096u     /* elements that share one f32 partial sum; a chunk never straddles tensors */
#define FADAM_LANES 128u      /* lane j of a chunk accumulates elements j, j+128, ...: a warp of float4, 8 zmm, 16 ymm */
#define FADAM_FOLD_LANES 256u /* f64 lane j of a tensor accumulates chunk partials j, j+256, ... */

/* Geometry of launches. No result depends on it. */
#define FADAM_WARP 32u
#define FADAM_SWEEP_THREADS 128u     /* threads of a block of a sweep: four warps, each with a chunk of its own */
#define FADAM_FINALIZE_THREADS 1024u /* threads of the one block of a finalize kernel: 32 warps, each with a tensor */

/* Structure of a step: fixed with the hyper-parameters, a compile-time constant in a kernel. */
#define FADAM_EXP_AVG_NEW 1u     /* beta1 < 1/2: m is interpolated about the new value */
#define FADAM_EXP_AVG_SQ_NEW 2u  /* beta2 < 1/2: v, s or f likewise */
#define FADAM_WEIGHT_DECAY 4u    /* weight_decay != 0 */
#define FADAM_DECOUPLED 8u       /* Adam: the decay is AdamW's, not L2 */
#define FADAM_AMSGRAD 16u        /* Adam: the largest v so far takes v's place */
#define FADAM_DECAY_CAP 32u      /* FAdam: lr * weight_decay / d is bounded */
#define FADAM_RHO 64u            /* FisherAdam: rho != 1/2, so f^rho is a pow and not a sqrt */

/* What random bits are for, the low bits of a counter's last word; the parameter's index is above them. */
#define FADAM_RANDOM_PARAMETER 0u
#define FADAM_RANDOM_EXP_AVG 1u
#define FADAM_RANDOM_EXP_AVG_SQ 2u
#define FADAM_RANDOM_PURPOSE_BITS 2u
#define FADAM_RANDOM_BLOCK 8u /* elements that one draw serves */

/* How far one parameter has come. It advances only in a step that the parameter takes part in and that is not skipped. */
struct Progress {
    unsigned long long step;
    unsigned long long start; /* the step in which master and EMA began with the parameter's value; 0: the next one */
    double beta1_power; /* beta1^step, one multiplication a step */
    double beta2_power;
};

struct AdamHyper {
    double lr, beta1, beta2, eps, weight_decay;
    unsigned int flags;
    unsigned int maximize;
};

struct FAdamHyper {
    double lr, beta1, beta2, eps0, eps_decay, weight_decay, decay_cap;
    unsigned int flags;
};

struct FisherAdamHyper {
    double lr, beta1, beta2, eps, eps2, rho, clip, weight_decay;
    unsigned int flags;
};

/* The scalars of one step of one parameter, each computed in f64 and rounded once. */
struct Moments {
    float grad_scale;     /* clip coefficient / grad_scale; its sign is minus to maximize */
    float exp_avg_mix;    /* 1 - beta1, or beta1 under FADAM_EXP_AVG_NEW */
    float exp_avg_sq_mix; /* 1 - beta2, or beta2 under FADAM_EXP_AVG_SQ_NEW */
    float inv_bias1;      /* 1 / (1 - beta1^t) */
    float inv_sqrt_bias2; /* 1 / sqrt(1 - beta2^t) */
    float eps;            /* eps, or FAdam's eps_t */
    unsigned int flags;
};

struct AdamStep {
    struct Moments moments;
    float neg_lr;
    float weight_decay;
};

struct FAdamStep {
    struct Moments moments;
    float neg_lr;
    float weight_decay;
    float decay_cap; /* decay_cap / lr, against weight_decay / d */
};

/* What FAdam's coordinates are counted against: see Coordinates. */
#define FADAM_NEAR_EPS 4u
#define FADAM_NEAR_DECAY_LIMIT 3u
struct FAdamThresholds {
    float eps[FADAM_NEAR_EPS];           /* for d */
    float limit[FADAM_NEAR_DECAY_LIMIT]; /* for weight_decay / d */
};

struct FisherAdamStep {
    float grad_scale;
    float exp_avg_mix;
    float fisher_mix; /* 1 - beta2_hat, or beta2_hat under FADAM_EXP_AVG_SQ_NEW */
    float neg_lr;
    float weight_decay;
    float rho;
    unsigned int flags;
};

/* What FisherAdam's sums over one tensor decide, between its sweeps. */
struct FisherAdamDamping {
    float eps; /* eps_hat^(2 rho) */
};

struct FisherAdamClip {
    float natural; /* 1 / max(1, RMS(n) / c), 0 where the sum overflowed */
    float decay;   /* weight_decay / max(1, RMS(w) / c), likewise */
};

/* From here on: what only a GPU needs. Addresses are of device memory; they are integers so that the host can hold them
 * and send them between threads. */

#define FADAM_TASK_VECTOR 1u        /* all arrays start where a vector access may */
#define FADAM_TASK_BF16_GRADIENT 2u /* else f32 */
#define FADAM_TASK_BF16 4u          /* the parameter; else f32 */
#define FADAM_TASK_MASTER 8u        /* it has an f32 master */
#define FADAM_TASK_REMAINDER 16u    /* it has the low 16 bits of one */

/* One tensor's part in a step. Tasks are in the order of registration, their chunks in one row. */
struct Task {
    unsigned long long parameter, gradient;
    unsigned long long master; /* float[len], or short[len]: the remainder; 0 without */
    unsigned long long ema;    /* float[len]; 0 without */
    unsigned long long exp_avg, exp_avg_sq, max_exp_avg_sq; /* the last one with FADAM_AMSGRAD alone, else 0 */
    unsigned long long len;
    unsigned long long first_chunk; /* this tensor's first chunk in the row; an empty tensor has none */
    unsigned long long record;      /* Record, of the parameter */
    unsigned int parameter_index;   /* in the order of registration */
    unsigned int group;
    unsigned int flags;
};

/* What goes for a whole step; changes from the host travel on the stream, so that a replayed graph sees them. */
struct Settings {
    double grad_scale;
    double max_grad_norm; /* 0: no clipping */
    double kappa;
    double growth_factor, backoff_factor; /* of the loss scale */
    unsigned long long growth_interval;   /* likewise; 0: the loss is not scaled */
    unsigned long long factors;           /* double[last_factor + 1]: the schedule; 0: none */
    unsigned long long last_factor;       /* goes for all later steps, too */
    unsigned int reads_gradients;         /* norm_partial goes before finalize */
    unsigned int skips;                   /* a gradient that is not finite skips the step */
    unsigned int counts_skipped;          /* the schedule advances in a skipped step, too */
};

/* The scalars of a FAdam step, and with FADAM_NORMS what its coordinates are counted against. */
struct FAdamScalars {
    struct FAdamStep step;
    struct FAdamThresholds thresholds;
};

/* The scalars of a FisherAdam step, and what its sums have decided so far. */
struct FisherAdamScalars {
    struct FisherAdamStep step;
    struct FisherAdamDamping damping;
    struct FisherAdamClip clip;
};

/* How coordinates lay in a step: of FAdam, with FADAM_NORMS. */
struct Coordinates {
    unsigned long long count;
    unsigned long long near_eps[FADAM_NEAR_EPS];                 /* of these, d below each threshold */
    unsigned long long near_decay_limit[FADAM_NEAR_DECAY_LIMIT]; /* weight_decay / d above each */
};

/* The same of one chunk, two counts a word: the first and the third, the second and the fourth. */
struct ChunkCounts {
    unsigned int near_eps[2];
    unsigned int near_decay_limit[2];
};

/* What the device keeps of one parameter besides its moments: all zeros before its first step. */
struct Record {
    struct Progress progress;
    double grad_norm, update_norm, parameter_norm; /* of the last step that it took part in, with FADAM_NORMS */
    unsigned long long norms_known;                /* 0 before that */
    struct Coordinates coordinates;                /* likewise */
};

/* What a step found out and decided; the host reads it when it likes. */
struct Control {
    unsigned long long step;          /* calls so far */
    unsigned long long skipped_steps; /* of these */
    unsigned long long failed_step;   /* the last call that found a gradient not finite, 0 before that */
    double grad_norm;
    double clip_coefficient;
    double update_norm;
    double update_clip; /* FAdam: kappa / |delta|, or 1 */
    unsigned long long schedule_step; /* the place in the schedule of the next step */
    double learning_rate_factor;      /* by the schedule, of the last step; 1 without one */
    unsigned long long good_steps;    /* in a row, since the loss scale last changed */
    double loss_scale;                /* of the next loss, if it is scaled */
    double last_loss_scale;           /* of the last step's; 0: it was not scaled */
    unsigned int failed_parameter;
    unsigned int skipped; /* the last call changed nothing */
    unsigned long long clipped_updates; /* the steps so far in which kappa has fired */
    struct Coordinates coordinates;     /* of all tensors of the last step */
};

/* The argument of every kernel of a step, by value. */
struct StepArgs {
    unsigned long long tasks; /* Task[task_count] */
    unsigned long long task_count;
    unsigned long long chunks;
    unsigned long long settings;    /* Settings */
    unsigned long long hypers;      /* AdamHyper, FAdamHyper or FisherAdamHyper, by group */
    unsigned long long scalars;     /* AdamStep, FAdamScalars or FisherAdamScalars, by task */
    unsigned long long partials[3]; /* float[chunks]: sums of g^2; of delta^2, n^2 or m^2; of theta^2 or w^2 */
    unsigned long long sums;        /* double[3][task_count], folded from the partials */
    unsigned long long control;     /* Control */
    unsigned long long seed;        /* of stochastic rounding */
    float ema_weight;               /* 1 - decay, of a parameter's new value in its EMA */
    unsigned long long counts;      /* ChunkCounts[chunks], of FAdam with FADAM_NORMS */
};

/* The argument of the kernels of fisher.cu, by value. */
struct FisherArgs {
    unsigned long long parameter; /* float[len] */
    unsigned long long gradient;  /* float or bf16, [len] or [samples][len] */
    unsigned long long fisher;    /* float[len], or double[len] where samples accumulate */
    unsigned long long len, samples;
    float neg_lr, damping;
    unsigned int bf16_gradient, root;
};

#endif
