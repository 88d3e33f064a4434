// FisherAdam: Algorithm 1 of Hwang 2024 (arXiv:2405.12807). Preconditioning, then clipping, then momentum.
#ifndef FADAM_FISHER_ADAM_CUH
#define FADAM_FISHER_ADAM_CUH
#include "moments.cuh"

/// f^rho, and eps^(2 rho) in f64. FADAM_SQRT_ONLY leaves the powers out of kernels that have rho = 1/2 throughout.
#ifdef FADAM_SQRT_ONLY
FADAM_FN float fisher_adam_root(const FisherAdamStep &, float f) { return sqrtf(f); }
FADAM_FN double fisher_adam_eps(const FisherAdamHyper &, double eps) { return eps; }
#else
FADAM_FN float fisher_adam_root(const FisherAdamStep &k, float f) {
    return k.flags & FADAM_RHO ? powf(f, k.rho) : sqrtf(f);
}
FADAM_FN double fisher_adam_eps(const FisherAdamHyper &h, double eps) {
    return h.flags & FADAM_RHO ? pow(eps, 2.0 * h.rho) : eps;
}
#endif

/// The scalars of one step. `previous` is beta2^(t-1): beta2_hat = beta2 (1 - beta2^(t-1)) / (1 - beta2^t).
FADAM_FN FisherAdamStep fisher_adam_scalars(const FisherAdamHyper &h, const Progress &progress, double previous,
                                            double grad_scale) {
    FisherAdamStep k;
    double beta2_hat = h.beta2 * (1.0 - previous) / (1.0 - progress.beta2_power);
    k.grad_scale = (float)grad_scale;
    k.exp_avg_mix = (float)(h.flags & FADAM_EXP_AVG_NEW ? h.beta1 : 1.0 - h.beta1);
    k.fisher_mix = (float)(h.flags & FADAM_EXP_AVG_SQ_NEW ? beta2_hat : 1.0 - beta2_hat);
    k.neg_lr = (float)-h.lr;
    k.weight_decay = (float)h.weight_decay;
    k.rho = (float)h.rho;
    k.flags = h.flags;
    return k;
}

/// eps_hat^(2 rho) of a tensor whose effective gradient has this RMS; a NaN or 0 keeps eps.
FADAM_FN FisherAdamDamping fisher_adam_damping(const FisherAdamHyper &h, double grad_rms) {
    bool smaller = grad_rms != 0.0 && h.eps2 * grad_rms < h.eps;
    double eps = smaller ? h.eps2 * grad_rms : h.eps;
    FisherAdamDamping damping;
    damping.eps = (float)fisher_adam_eps(h, eps);
    return damping;
}

/// 1 / max(1, RMS / c), and 0 where the sum overflowed.
FADAM_FN double fisher_adam_shrink(const FisherAdamHyper &h, double sum, unsigned long long len) {
    double excess = sqrt(sum / (double)len) / h.clip;
    if (excess - excess != 0.0 && excess == excess) return 0.0; // infinite
    return excess > 1.0 ? 1.0 / excess : 1.0;
}

/// What the sums of n^2 and w^2 over a tensor leave of n and of weight_decay * w.
FADAM_FN FisherAdamClip fisher_adam_clip(const FisherAdamHyper &h, double natural_sum, double decay_sum,
                                         unsigned long long len) {
    FisherAdamClip clip;
    clip.natural = (float)fisher_adam_shrink(h, natural_sum, len);
    clip.decay = (float)(h.weight_decay * fisher_adam_shrink(h, decay_sum, len));
    return clip;
}

/// Commits the Fisher diagonal of one element; returns the effective gradient.
FADAM_FN float fisher_adam_fisher(const FisherAdamStep &k, float grad, float *f) {
    float g = grad * k.grad_scale;                       // 1
    *f = exp_avg_sq(*f, g, k.fisher_mix, k.flags);       // 2
    return g;
}

/// d = f^rho + eps_hat^(2 rho)
FADAM_FN float fisher_adam_denominator(const FisherAdamStep &k, FisherAdamDamping damping, float f) {
    return fisher_adam_root(k, f) + damping.eps; // 3
}

/// Commits the momentum of the clipped natural gradient n; `f` already holds this step's value.
FADAM_FN void fisher_adam_momentum(const FisherAdamStep &k, FisherAdamDamping damping, FisherAdamClip clip, float grad,
                                   float f, float *m) {
    float g = grad * k.grad_scale;                                          // 1
    float d = fisher_adam_denominator(k, damping, f);                       // 3
    float n = clip.natural == 0.0f ? 0.0f : div_or_zero(g, d) * clip.natural; // 4
    *m = exp_avg(*m, n, k.exp_avg_mix, k.flags);                            // 5
}

/// The step, by the momentum as stored.
FADAM_FN void fisher_adam_apply(const FisherAdamStep &k, FisherAdamDamping damping, FisherAdamClip clip, float f,
                                float *p, float m) {
    float r = m;
    if (k.flags & FADAM_WEIGHT_DECAY && clip.decay != 0.0f)
        r = fmaf(clip.decay, div_or_zero(*p, fisher_adam_denominator(k, damping, f)), r); // 3, 6
    *p = fmaf(k.neg_lr, r, *p);                                             // 7
}

#endif
