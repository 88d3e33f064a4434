// The diagonal empirical Fisher and the natural-gradient step by it (Amari 1998), for their own sake.
#ifndef FADAM_FISHER_CUH
#define FADAM_FISHER_CUH
#include "element.cuh"

/// sum <- sum + g^2: the square of an f32 is exact in f64.
FADAM_FN double fisher_accumulate(double sum, float g) { return sum + (double)g * (double)g; }

/// theta <- theta - lr g / (F + damping), or g / (sqrt(F) + damping) where `root`.
FADAM_FN float natural_gradient(float p, float g, float fisher, float neg_lr, float damping, bool root) {
    float d = (root ? sqrtf(fisher) : fisher) + damping; // 1
    return fmaf(neg_lr, div_or_zero(g, d), p);           // 2
}

#endif
