// f32 arithmetic as the numerics contract wants it, on the GPU and in a host compiler (-ffp-contract=off).
// No optimizer mathematics.
#ifndef FADAM_ELEMENT_CUH
#define FADAM_ELEMENT_CUH

#ifdef __CUDACC__
#define FADAM_FN static __device__ __forceinline__
#else
#define FADAM_FN static inline
#endif

/// a / d, and 0 where d = 0 (a coordinate that has never seen a gradient, with eps = 0).
FADAM_FN float div_or_zero(float a, float d) { return d == 0.0f ? 0.0f : a / d; }

/// The larger, by compare and select: b where either is NaN.
FADAM_FN float select_max(float a, float b) { return a > b ? a : b; }

/// The smaller, by compare and select: a where either is NaN.
FADAM_FN float select_min(float a, float b) { return a > b ? b : a; }

/// bf16 is the high half of an f32: exact.
FADAM_FN float bf16_to_f32(unsigned short bits) {
    union {
        unsigned int bits;
        float value;
    } word;
    word.bits = (unsigned int)bits << 16;
    return word.value;
}

#endif
