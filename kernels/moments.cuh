// The two moments and the preconditioned direction that Adam and FAdam share.
#ifndef FADAM_MOMENTS_CUH
#define FADAM_MOMENTS_CUH
#include "args.h"
#include "element.cuh"

/// 1/(1 - beta^t) and the rest of a step's shared scalars; progress already counts this step.
FADAM_FN Moments moments_scalars(double beta1, double beta2, double eps, double grad_scale, const Progress &progress,
                                 unsigned int flags) {
    Moments k;
    k.grad_scale = (float)grad_scale;
    k.exp_avg_mix = (float)(flags & FADAM_EXP_AVG_NEW ? beta1 : 1.0 - beta1);
    k.exp_avg_sq_mix = (float)(flags & FADAM_EXP_AVG_SQ_NEW ? beta2 : 1.0 - beta2);
    k.inv_bias1 = (float)(1.0 / (1.0 - progress.beta1_power));
    k.inv_sqrt_bias2 = (float)(1.0 / sqrt(1.0 - progress.beta2_power));
    k.eps = (float)eps;
    k.flags = flags;
    return k;
}

/// m <- beta1 m + (1 - beta1) g, by interpolation about the value that keeps its bits.
FADAM_FN float exp_avg(float m, float g, float mix, unsigned int flags) {
    if (flags & FADAM_EXP_AVG_NEW) return fmaf(mix, m - g, g); // M1'
    return fmaf(mix, g - m, m);                                // M1
}

/// v <- beta2 v + (1 - beta2) g^2
FADAM_FN float exp_avg_sq(float v, float g, float mix, unsigned int flags) {
    if (flags & FADAM_EXP_AVG_SQ_NEW) {
        float q = g * g;              // M2'
        return fmaf(mix, v - q, q);   // M3'
    }
    return fmaf(mix, fmaf(g, g, -v), v); // M2
}

/// d = sqrt(v / (1 - beta2^t)) + eps
FADAM_FN float denominator(float v, const Moments &k) { return fmaf(sqrtf(v), k.inv_sqrt_bias2, k.eps); } // M4

/// delta = m / (1 - beta1^t) / d
FADAM_FN float direction(float m, float d, const Moments &k) { return div_or_zero(m * k.inv_bias1, d); } // M5

#endif
