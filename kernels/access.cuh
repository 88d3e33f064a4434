// Loads and stores of device memory. Arrays are addresses out of a table, of which the compiler cannot know that they
// are global memory: the instructions are named.
#ifndef FADAM_ACCESS_CUH
#define FADAM_ACCESS_CUH
#include "args.h"
#include "element.cuh"

typedef unsigned long long u64;

/// A struct, or an array of them, in device memory.
template <class T> __device__ __forceinline__ T *global(u64 address) {
    return (T *)__cvta_global_to_generic(address);
}

/// The thread's place in its warp, asked for where it is wanted: known from before a loop, it would hold a register
/// through all of it.
__device__ __forceinline__ unsigned int lane_in_warp() {
    unsigned int thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    return thread % FADAM_WARP;
}

__device__ __forceinline__ float load_f32(u64 address) {
    float x;
    asm volatile("ld.global.f32 %0, [%1];" : "=f"(x) : "l"(address));
    return x;
}

__device__ __forceinline__ unsigned short load_u16(u64 address) {
    unsigned short x;
    asm volatile("ld.global.u16 %0, [%1];" : "=h"(x) : "l"(address));
    return x;
}

/// 16 bytes, at a multiple of 16.
__device__ __forceinline__ void load_4_f32(u64 address, float *x) {
    asm volatile("ld.global.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(x[0]), "=f"(x[1]), "=f"(x[2]), "=f"(x[3])
                 : "l"(address));
}

/// 8 bytes, at a multiple of 8.
__device__ __forceinline__ void load_4_u16(u64 address, unsigned short *x) {
    asm volatile("ld.global.v4.u16 {%0, %1, %2, %3}, [%4];"
                 : "=h"(x[0]), "=h"(x[1]), "=h"(x[2]), "=h"(x[3])
                 : "l"(address));
}

__device__ __forceinline__ void store_f32(u64 address, float x) {
    asm volatile("st.global.f32 [%0], %1;" : : "l"(address), "f"(x) : "memory");
}

/// 16 bytes, at a multiple of 16.
__device__ __forceinline__ void store_4_f32(u64 address, const float *x) {
    asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};"
                 :
                 : "l"(address), "f"(x[0]), "f"(x[1]), "f"(x[2]), "f"(x[3])
                 : "memory");
}

__device__ __forceinline__ void store_u16(u64 address, unsigned short x) {
    asm volatile("st.global.u16 [%0], %1;" : : "l"(address), "h"(x) : "memory");
}

/// 8 bytes, at a multiple of 8.
__device__ __forceinline__ void store_4_u16(u64 address, const unsigned short *x) {
    asm volatile("st.global.v4.u16 [%0], {%1, %2, %3, %4};"
                 :
                 : "l"(address), "h"(x[0]), "h"(x[1]), "h"(x[2]), "h"(x[3])
                 : "memory");
}

#endif
