// Adam (Kingma & Ba 2015) and AdamW (Loshchilov & Hutter 2019).
#ifndef FADAM_ADAM_CUH
#define FADAM_ADAM_CUH
#include "moments.cuh"

/// The scalars of one step. `grad_scale` is clip coefficient / grad_scale.
FADAM_FN AdamStep adam_scalars(const AdamHyper &h, const Progress &progress, double grad_scale) {
    AdamStep k;
    double sign = h.maximize ? -1.0 : 1.0;
    k.moments = moments_scalars(h.beta1, h.beta2, h.eps, sign * grad_scale, progress, h.flags);
    k.neg_lr = (float)-h.lr;
    k.weight_decay = (float)h.weight_decay;
    return k;
}

/// Commits the moments of one element. `grad` is the gradient as loaded. Returns the effective gradient before decay.
FADAM_FN float adam_moments(const AdamStep &k, float grad, float p, float *m, float *v) {
    const unsigned int flags = k.moments.flags;
    const float scaled = grad * k.moments.grad_scale;                   // 1
    float g = scaled;
    if (flags & FADAM_WEIGHT_DECAY && !(flags & FADAM_DECOUPLED)) g = fmaf(k.weight_decay, p, g); // 2
    *m = exp_avg(*m, g, k.moments.exp_avg_mix, flags);                  // 3
    *v = exp_avg_sq(*v, g, k.moments.exp_avg_sq_mix, flags);            // 4
    return scaled;
}

/// Applies the moments as stored; `vmax` is touched under FADAM_AMSGRAD alone. Returns delta.
FADAM_FN float adam_apply(const AdamStep &k, float *p, float m, float v, float *vmax) {
    const unsigned int flags = k.moments.flags;
    float second = v;
    if (flags & FADAM_AMSGRAD) second = *vmax = select_max(v, *vmax);   // 5
    float d = denominator(second, k.moments);                           // 6
    float delta = direction(m, d, k.moments);                           // 7
    const bool decay = flags & FADAM_WEIGHT_DECAY && flags & FADAM_DECOUPLED;
    float r = decay ? fmaf(k.weight_decay, *p, delta) : delta;          // 8
    *p = fmaf(k.neg_lr, r, *p);                                         // 9
    return delta;
}

#endif
