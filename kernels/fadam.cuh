// FAdam: Adam as natural gradient descent with a diagonal empirical Fisher.
// Momentum, then preconditioning; adaptive epsilon; clipping of the natural gradient; Riemannian weight decay.
#ifndef FADAM_FADAM_CUH
#define FADAM_FADAM_CUH
#include "moments.cuh"

/// eps_t
FADAM_FN double fadam_eps(const FAdamHyper &h, const Progress &progress) {
    return h.eps0 / (1.0 + h.eps_decay * (double)progress.step);
}

/// The scalars of one step.
FADAM_FN FAdamStep fadam_scalars(const FAdamHyper &h, const Progress &progress, double grad_scale) {
    FAdamStep k;
    k.moments = moments_scalars(h.beta1, h.beta2, fadam_eps(h, progress), grad_scale, progress, h.flags);
    k.neg_lr = (float)-h.lr;
    k.weight_decay = (float)h.weight_decay;
    k.decay_cap = (float)(h.decay_cap / h.lr);
    return k;
}

/// What coordinates are counted against. The limit of the decay is decay_cap; without one, 1, where it takes all of theta.
FADAM_FN FAdamThresholds fadam_thresholds(const FAdamHyper &h, const Progress &progress) {
    const double eps = fadam_eps(h, progress), limit = h.flags & FADAM_DECAY_CAP ? h.decay_cap : 1.0;
    FAdamThresholds t;
    t.eps[0] = (float)(2.0 * eps);
    t.eps[1] = (float)(10.0 * eps);
    t.eps[2] = (float)(100.0 * eps);
    t.eps[3] = (float)(1000.0 * eps);
    t.limit[0] = (float)(limit / h.lr);
    t.limit[1] = (float)(limit / (10.0 * h.lr));
    t.limit[2] = (float)(limit / (100.0 * h.lr));
    return t;
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

/// Where a coordinate lies.
struct FAdamPlace {
    float d;
    float q; // the decay of theta before its cap and lr, 0 without decay
};

/// Applies `clip` * delta and the Riemannian decay. Returns delta before clipping; `place` takes where the coordinate lies.
FADAM_FN float fadam_apply(const FAdamStep &k, float clip, float *p, float m, float s, FAdamPlace *place) {
    float d = denominator(s, k.moments);                                // 4
    float delta = direction(m, d, k.moments);                           // 5
    float r = clip * delta;                                             // 6
    place->d = d;
    place->q = 0.0f;
    if (k.moments.flags & FADAM_WEIGHT_DECAY) {
        float q = div_or_zero(k.weight_decay, d);                       // 7
        place->q = q;
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

/// Counts one coordinate, eight bits a threshold.
FADAM_FN void fadam_count(const FAdamThresholds &t, const FAdamPlace &place, unsigned int *near_eps,
                          unsigned int *near_decay_limit) {
    for (unsigned int i = 0; i < FADAM_NEAR_EPS; i++)
        if (place.d < t.eps[i]) *near_eps += 1u << 8 * i;
    for (unsigned int i = 0; i < FADAM_NEAR_DECAY_LIMIT; i++)
        if (place.q > t.limit[i]) *near_decay_limit += 1u << 8 * i;
}

#endif
