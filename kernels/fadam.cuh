// FAdam: Adam as natural gradient descent with a diagonal empirical Fisher.
// Momentum, then preconditioning; adaptive epsilon; clipping of the natural gradient; Riemannian weight decay.
#ifndef FADAM_FADAM_CUH
#define FADAM_FADAM_CUH
#include "moments.cuh"

/// The scalars of one step: eps_t = eps0 / (1 + eps_decay t).
FADAM_FN FAdamStep fadam_scalars(const FAdamHyper &h, const Progress &progress, double grad_scale) {
    FAdamStep k;
    double eps = h.eps0 / (1.0 + h.eps_decay * (double)progress.step);
    k.moments = moments_scalars(h.beta1, h.beta2, eps, grad_scale, progress, h.flags);
    k.neg_lr = (float)-h.lr;
    k.weight_decay = (float)h.weight_decay;
    k.decay_cap = (float)(h.decay_cap / h.lr);
    return k;
}

/// kappa / |delta| where the natural gradient is longer than kappa, else 1.
FADAM_FN double fadam_clip(double kappa, double update_norm) { return update_norm > kappa ? kappa / update_norm : 1.0; }

/// Commits the moments of one element. Returns the effective gradient.
FADAM_FN float fadam_moments(const FAdamStep &k, float grad, float *m, float *s) {
    float g = grad * k.moments.grad_scale;                              // 1
    *m = exp_avg(*m, g, k.moments.exp_avg_mix, k.moments.flags);        // 2
    *s = exp_avg_sq(*s, g, k.moments.exp_avg_sq_mix, k.moments.flags);  // 3
    return g;
}

/// delta before clipping, from the moments as stored.
FADAM_FN float fadam_delta(const FAdamStep &k, float m, float s) {
    return direction(m, denominator(s, k.moments), k.moments); // 4, 5
}

/// Applies `clip` * delta and the Riemannian decay. Returns delta before clipping.
FADAM_FN float fadam_apply(const FAdamStep &k, float clip, float *p, float m, float s) {
    float d = denominator(s, k.moments);                                // 4
    float delta = direction(m, d, k.moments);                           // 5
    float r = clip * delta;                                             // 6
    if (k.moments.flags & FADAM_WEIGHT_DECAY) {
        float q = div_or_zero(k.weight_decay, d);                       // 7
        if (k.moments.flags & FADAM_DECAY_CAP) q = select_min(q, k.decay_cap); // 8
        r = fmaf(q, *p, r);                                             // 9
    }
    *p = fmaf(k.neg_lr, r, *p);                                         // 10
    return delta;
}

/// Takes back what a speculative step applied too much: `back` = lr (1 - clip).
FADAM_FN void fadam_correct(const FAdamStep &k, float back, float *p, float m, float s) {
    *p = fmaf(back, fadam_delta(k, m, s), *p); // 11
}

#endif
