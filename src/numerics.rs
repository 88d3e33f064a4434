//! The promise: the same inputs give the same bits. (This module holds text alone.)
//!
//! On one thread or sixty-four, on AVX-512, AVX2, NEON or plain scalar code, with the work cut wherever a thread pool
//! likes to cut it, on an NVIDIA GPU. A CPU in continuous integration so proves what every other machine computes. NaNs
//! compare equal to NaNs: their payloads are not part of the promise. Outside it: [`FisherAdam`](crate::FisherAdam) with
//! ρ ≠ ½ on a GPU, since it needs a `pow`: there it agrees to f32 rounding.
//!
//! Nor does it matter what the process has done to the floating-point environment. A shared library linked with
//! `-ffast-math` switches subnormal numbers off for the thread that loads it, and threads inherit that: whatever computes here
//! runs with the default rounding and subnormal numbers, on every thread that helps, and gives the thread its own environment
//! back (x86-64 and aarch64; tested, though Rust itself guarantees nothing under another environment than the default).
//!
//! It costs nothing: a step is bound by memory, and exact division and square root hide behind that.
//!
//! # Element-wise arithmetic
//!
//! IEEE-754 binary32, round to nearest even, subnormals kept. Only `+ − × ÷ √ fma`, comparison and selection, and
//! conversions; no reciprocal approximations, no reassociation, no flush to zero. Each algorithm is written once as a
//! numbered sequence of such operations in `kernels/*.cuh`, which the GPU runs; the CPU code follows it line by line.
//! Tests compare the two bit for bit: compiled by a C++ compiler, and as NVRTC's PTX for three architectures executed by
//! an emulated driver. NVRTC is told not to fuse, and to divide and take roots exactly; its PTX then names every rounding.
//!
//! Moments are interpolated about the old value, `m ← fma(1−β1, g−m, m)` and `v ← fma(1−β2, fma(g, g, −v), v)`, which
//! drifts least for β near 1; for β < ½ about the new one, `m ← fma(β1, m−g, g)` and `v ← fma(β2, v−g², g²)`, which is
//! exact for β = 0. θ is rounded once a step: `θ ← fma(−η, r, θ)`, where r gathers Δ and the decay.
//!
//! Scalars of a step (bias corrections, ε_t, the clip coefficient) are computed in f64 by `+ − × ÷ √` and rounded once;
//! β^t is a running product. A [`Schedule`](crate::Schedule)'s factors are f64 as well, by such operations and one cosine in
//! software.
//!
//! # Sums
//!
//! The geometry of a sum is a constant, never a function of threads or neighbours:
//!
//! 1. A tensor is cut into chunks of 4096 elements. Lane j of 128 accumulates elements j, j+128, … of its chunk by
//!    `fma(x, x, acc)` in f32; then lane j takes lane j+64, j+32, … j+1.
//! 2. Lane j of 256 accumulates partial sums j, j+256, … of a tensor in f64; then lane j takes lane j+128, … j+1.
//! 3. The tensors' sums are added in the order of registration.
//!
//! # bf16
//!
//! bf16 is the high half of an f32; conversions are integer operations on the bits, subnormals kept, a NaN stays one.
//!
//! * [`Master::F32`](crate::Master): the value is the master, rounded to nearest, ties to even.
//! * [`Master::Remainder`](crate::Master): `value = (bits + 0x8000) >> 16` (ties away from zero) and the low 16 bits as a
//!   signed remainder, `bits = (value << 16) + remainder`: exact for every number. θ then takes the bits of an f32 parameter.
//! * Rounded without one: to nearest, ties to even; or stochastically, `(bits + r) >> 16` with 16 random bits r. They are Philox4x32-10's
//!   (Salmon et al. 2011): the key is the seed, the counter (⌊i/8⌋ in 64 bits, the parameter's own step modulo 2³², its number
//!   in the order of registration · 4 + purpose) for parameter (0), first (1) and second moment (2); a draw serves 8 elements,
//!   two a word, the low half first.
//! * bf16 moments are rounded before a step goes on from them: Δ and norms are of the moments as stored.
//!
//! # Edge cases
//!
//! * Where a denominator is 0 (ε = 0 and no gradient yet), the quotient is 0: a zero gradient moves nothing.
//! * A gradient counts as not finite where it is NaN or infinite, and where its square (or a chunk's sum of squares)
//!   overflows f32, |g| > 1.8e19: it would freeze its parameter with v = ∞.
//! * bf16 gradients are widened exactly.
//! * Subnormal numbers are kept, at a price: where a gradient is zero for some 900 steps (unused rows of an embedding, dead
//!   units), its first moment has decayed to the smallest subnormals and stays there. On x86-64 arithmetic with them is slow: a
//!   step in which all moments are such took 26 times as long in the cache, 15 times beyond it (one machine, 2^13 and 10^6
//!   elements). Leave parameters that get no gradient out of the step. GPUs compute with subnormal numbers at full speed.
//! * A parameter that takes no part in a step keeps its value, its moments and its step count.
