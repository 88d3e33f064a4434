// The arithmetic of kernels/*.cuh, compiled for the host: arrays through the element functions, and the scalars of a
// step. tests/host_twin.rs makes whole steps of them and compares the bits with the library's.
#include <cmath>
#include <cstddef>

// C libraries round pow differently; the kernels' formulas are what is compared, so both sides call the test's.
extern "C" float twin_powf(float base, float exponent);
extern "C" double twin_pow(double base, double exponent);
#define powf twin_powf
#define pow twin_pow

#include "args.h"
#include "adam.cuh"
#include "fadam.cuh"
#include "fisher.cuh"
#include "fisher_adam.cuh"

// The other half of the layout check in src/args.rs.
static_assert(sizeof(Progress) == 32 && offsetof(Progress, beta1_power) == 16, "Progress");
static_assert(sizeof(AdamHyper) == 48, "AdamHyper");
static_assert(sizeof(FAdamHyper) == 64, "FAdamHyper");
static_assert(sizeof(FisherAdamHyper) == 72, "FisherAdamHyper");
static_assert(sizeof(Moments) == 28, "Moments");
static_assert(sizeof(AdamStep) == 36 && offsetof(AdamStep, neg_lr) == 28, "AdamStep");
static_assert(sizeof(FAdamStep) == 40 && offsetof(FAdamStep, decay_cap) == 36, "FAdamStep");
static_assert(sizeof(FisherAdamStep) == 28 && offsetof(FisherAdamStep, flags) == 24, "FisherAdamStep");
static_assert(sizeof(FisherAdamDamping) == 4, "FisherAdamDamping");
static_assert(sizeof(FisherAdamClip) == 8 && offsetof(FisherAdamClip, decay) == 4, "FisherAdamClip");

extern "C" {

void twin_bf16_to_f32(size_t n, const unsigned short *from, float *to) {
    for (size_t i = 0; i < n; i++) to[i] = bf16_to_f32(from[i]);
}

void twin_bf16_nearest(size_t n, const float *from, unsigned short *to) {
    for (size_t i = 0; i < n; i++) to[i] = bf16_nearest(from[i]);
}

void twin_bf16_stochastic(size_t n, const float *from, const unsigned short *random, unsigned short *to) {
    for (size_t i = 0; i < n; i++) to[i] = bf16_stochastic(from[i], random[i]);
}

void twin_split(size_t n, const float *from, unsigned short *value, unsigned short *remainder) {
    for (size_t i = 0; i < n; i++) value[i] = split_value(from[i]), remainder[i] = split_remainder(from[i]);
}

void twin_join(size_t n, const unsigned short *value, const unsigned short *remainder, float *to) {
    for (size_t i = 0; i < n; i++) to[i] = join(value[i], remainder[i]);
}

void twin_philox(unsigned long long seed, unsigned long long block, unsigned int step, unsigned int stream,
                 unsigned int *random) {
    philox(seed, block, step, stream, random);
}

void twin_adam_scalars(const AdamHyper *h, const Progress *progress, double grad_scale, AdamStep *k) {
    *k = adam_scalars(*h, *progress, grad_scale);
}

/// `g` takes the effective gradient.
void twin_adam_moments(const AdamStep *k, size_t n, const float *grad, const float *p, float *m, float *v, float *g) {
    for (size_t i = 0; i < n; i++) g[i] = adam_moments(*k, grad[i], p[i], m + i, v + i);
}

void twin_adam_apply(const AdamStep *k, size_t n, float *p, const float *m, const float *v, float *vmax, float *delta) {
    for (size_t i = 0; i < n; i++) delta[i] = adam_apply(*k, p + i, m[i], v[i], vmax + i);
}

void twin_fadam_scalars(const FAdamHyper *h, const Progress *progress, double grad_scale, FAdamStep *k) {
    *k = fadam_scalars(*h, *progress, grad_scale);
}

double twin_fadam_clip(double kappa, double update_norm) { return fadam_clip(kappa, update_norm); }

void twin_fadam_moments(const FAdamStep *k, size_t n, const float *grad, float *m, float *s) {
    for (size_t i = 0; i < n; i++) fadam_moments(*k, grad[i], m + i, s + i);
}

void twin_fadam_delta(const FAdamStep *k, size_t n, const float *m, const float *s, float *delta) {
    for (size_t i = 0; i < n; i++) delta[i] = fadam_delta(*k, m[i], s[i]);
}

void twin_fadam_apply(const FAdamStep *k, float clip, size_t n, float *p, const float *m, const float *s, float *delta) {
    FAdamPlace place;
    for (size_t i = 0; i < n; i++) delta[i] = fadam_apply(*k, clip, p + i, m[i], s[i], &place);
}

void twin_fadam_correct(const FAdamStep *k, float back, size_t n, float *p, const float *m, const float *s) {
    for (size_t i = 0; i < n; i++) fadam_correct(*k, back, p + i, m[i], s[i]);
}

void twin_fisher_adam_scalars(const FisherAdamHyper *h, const Progress *progress, double previous, double grad_scale,
                              FisherAdamStep *k) {
    *k = fisher_adam_scalars(*h, *progress, previous, grad_scale);
}

void twin_fisher_adam_damping(const FisherAdamHyper *h, double grad_rms, FisherAdamDamping *damping) {
    *damping = fisher_adam_damping(*h, grad_rms);
}

void twin_fisher_adam_clip(const FisherAdamHyper *h, double natural_sum, double decay_sum, unsigned long long len,
                           FisherAdamClip *clip) {
    *clip = fisher_adam_clip(*h, natural_sum, decay_sum, len);
}

/// `g` takes the effective gradient.
void twin_fisher_adam_fisher(const FisherAdamStep *k, size_t n, const float *grad, float *f, float *g) {
    for (size_t i = 0; i < n; i++) g[i] = fisher_adam_fisher(*k, grad[i], f + i);
}

/// x / d, whose squares decide the clipping.
void twin_fisher_adam_quotient(const FisherAdamStep *k, const FisherAdamDamping *damping, size_t n, const float *x,
                               const float *f, float *quotient) {
    for (size_t i = 0; i < n; i++) quotient[i] = div_or_zero(x[i], fisher_adam_denominator(*k, *damping, f[i]));
}

void twin_fisher_adam_momentum(const FisherAdamStep *k, const FisherAdamDamping *damping, const FisherAdamClip *clip,
                               size_t n, const float *grad, const float *f, float *m) {
    for (size_t i = 0; i < n; i++) fisher_adam_momentum(*k, *damping, *clip, grad[i], f[i], m + i);
}

void twin_fisher_adam_apply(const FisherAdamStep *k, const FisherAdamDamping *damping, const FisherAdamClip *clip,
                            size_t n, const float *f, float *p, const float *m) {
    for (size_t i = 0; i < n; i++) fisher_adam_apply(*k, *damping, *clip, f[i], p + i, m[i]);
}

void twin_fisher_accumulate(size_t n, const float *g, double *sum) {
    for (size_t i = 0; i < n; i++) sum[i] = fisher_accumulate(sum[i], g[i]);
}

void twin_natural_gradient(size_t n, float *p, const float *g, const float *fisher, float neg_lr, float damping,
                           bool root) {
    for (size_t i = 0; i < n; i++) p[i] = natural_gradient(p[i], g[i], fisher[i], neg_lr, damping, root);
}

}
