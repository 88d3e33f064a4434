/* What Rust and CUDA share: geometry and argument structs, declared once. Plain C, no includes (NVRTC has none).
 * `cargo build --features bindgen` writes the Rust mirror, src/args.rs. */
#ifndef FADAM_ARGS_H
#define FADAM_ARGS_H

/* Geometry of every reduction. It is part of the numerics contract, never a function of the machine. */
#define FADAM_CHUNK 4096u     /* elements that share one f32 partial sum; a chunk never straddles tensors */
#define FADAM_LANES 128u      /* lane j of a chunk accumulates elements j, j+128, ...: a warp of float4, 8 zmm, 16 ymm */
#define FADAM_FOLD_LANES 256u /* f64 lane j of a tensor accumulates chunk partials j, j+256, ... */

/* Structure of a step: fixed with the hyper-parameters, a compile-time constant in a kernel. */
#define FADAM_EXP_AVG_NEW 1u     /* beta1 < 1/2: m is interpolated about the new value */
#define FADAM_EXP_AVG_SQ_NEW 2u  /* beta2 < 1/2: v, s or f likewise */
#define FADAM_WEIGHT_DECAY 4u    /* weight_decay != 0 */
#define FADAM_DECOUPLED 8u       /* Adam: the decay is AdamW's, not L2 */
#define FADAM_AMSGRAD 16u        /* Adam: the largest v so far takes v's place */
#define FADAM_DECAY_CAP 32u      /* FAdam: lr * weight_decay / d is bounded */
#define FADAM_RHO 64u            /* FisherAdam: rho != 1/2, so f^rho is a pow and not a sqrt */

/* How far one parameter has come. It advances only in a step that the parameter takes part in and that is not skipped. */
struct Progress {
    unsigned long long step;
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

#endif
