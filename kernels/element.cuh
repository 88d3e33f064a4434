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

FADAM_FN unsigned int bits_of(float value) {
    union {
        float value;
        unsigned int bits;
    } word;
    word.value = value;
    return word.bits;
}

FADAM_FN float from_bits(unsigned int bits) {
    union {
        unsigned int bits;
        float value;
    } word;
    word.bits = bits;
    return word.value;
}

/// bf16 is the high half of an f32: exact.
FADAM_FN float bf16_to_f32(unsigned short bits) { return from_bits((unsigned int)bits << 16); }

FADAM_FN bool is_nan_bits(unsigned int bits) { return (bits & 0x7fffffffu) > 0x7f800000u; }

/// The high half of a NaN may be that of an infinity: the quiet bit keeps it a NaN.
FADAM_FN unsigned short bf16_nan(unsigned int bits) { return (unsigned short)(bits >> 16 | 0x40u); }

/// To nearest, ties to even.
FADAM_FN unsigned short bf16_nearest(float x) {
    unsigned int bits = bits_of(x);
    if (is_nan_bits(bits)) return bf16_nan(bits);
    return (unsigned short)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/// Up with a probability that is the part cut off, by 16 random bits. Infinities have none, and stay.
FADAM_FN unsigned short bf16_stochastic(float x, unsigned int random) {
    unsigned int bits = bits_of(x);
    if (is_nan_bits(bits)) return bf16_nan(bits);
    return (unsigned short)((bits + random) >> 16);
}

/// An f32 as a bf16 value, nearest with ties away from zero, and the signed rest of its bits. `join` restores it
/// exactly, except that all NaNs become one with the rest 0.
FADAM_FN unsigned short split_value(float x) {
    unsigned int bits = bits_of(x);
    return is_nan_bits(bits) ? bf16_nan(bits) : (unsigned short)((bits + 0x8000u) >> 16);
}
FADAM_FN unsigned short split_remainder(float x) {
    unsigned int bits = bits_of(x);
    return is_nan_bits(bits) ? 0 : (unsigned short)bits;
}
FADAM_FN float join(unsigned short value, unsigned short remainder) {
    return from_bits(((unsigned int)value << 16) + (unsigned int)(int)(short)remainder);
}

/// Philox4x32-10 (Salmon et al. 2011): 128 random bits of a key and a counter.
FADAM_FN void philox(unsigned long long seed, unsigned long long block, unsigned int step, unsigned int stream,
                     unsigned int *random) {
    unsigned int key0 = (unsigned int)seed, key1 = (unsigned int)(seed >> 32);
    unsigned int c0 = (unsigned int)block, c1 = (unsigned int)(block >> 32), c2 = step, c3 = stream;
    for (unsigned int round = 0; round < 10; round++) {
        unsigned long long a = (unsigned long long)0xd2511f53u * c0, b = (unsigned long long)0xcd9e8d57u * c2;
        c0 = (unsigned int)(b >> 32) ^ c1 ^ key0;
        c1 = (unsigned int)b;
        c2 = (unsigned int)(a >> 32) ^ c3 ^ key1;
        c3 = (unsigned int)a;
        key0 += 0x9e3779b9u;
        key1 += 0xbb67ae85u;
    }
    random[0] = c0;
    random[1] = c1;
    random[2] = c2;
    random[3] = c3;
}

#endif
