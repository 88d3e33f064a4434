#!/usr/bin/env python3
"""Do the tests notice? Breaks the arithmetic in one place after the other and expects them to fail.

Each mutant replaces one piece of text, which must occur exactly once, in a copy of the tree under target/mutants, and
runs the tests that compare values and refusals. Exits with 1 if a mutant survives, does not compile, or no longer applies.

    python3 tests/mutants.py            all, some seconds each
    python3 tests/mutants.py M1 fold    those whose name contains one of the words

Mutants of the CUDA path, "cuda ...", and of state files, "state ...", are noticed on a GPU, real or emulated:
`bash .ci/test mutants` sets that up.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "target" / "mutants"
TREE = WORK / "tree"
PARTS = ["Cargo.toml", "Cargo.lock", "build.rs", "src", "kernels", "docs", "examples", "benches", "tests"]
# Each is built and run by itself, up to the first that fails: those that notice most come first.
TESTS = ["edge_cases", "geometry", "oracle", "speculation", "bf16", "schedule", "loss_scale", "loss_scaler", "accumulate",
         "coordinates", "bad_input", "no_alloc", "lib", "properties"]
ENVIRONMENT_TESTS = ["environment"]
STATE_TESTS = ["state_mismatch", "state_files", "state_hostile", "cuda_state", "state"]
CUDA_TESTS = ["cuda_large", "cuda_folds", "cuda_draws", "cuda_graph", "cuda_schedule", "cuda_accumulate", "cuda_order", "cuda_faults", "cuda_wrong", "cuda_traffic", "cuda_parity"]
CUDA_BF16_TESTS = ["cuda_parity bf16"]
CUDA_COUNT_TESTS = ["coordinates"]
CUDA_FOLD_TESTS = ["cuda_folds"]
CUDA_DRAW_TESTS = ["cuda_draws"]
CUDA_LOAD_TESTS = ["cuda_wrong", "cuda_cubin"]
LIMIT = 600  # seconds; a mutant that hangs is noticed too

MOMENTS, ADAM, FADAM, FISHER = (f"src/cpu/{name}.rs" for name in ("moments", "adam", "fadam", "fisher_adam"))
SCALARS, ADAM_S, FADAM_S, FISHER_S = (f"src/algorithm/{name}.rs" for name in ("mod", "adam", "fadam", "fisher_adam"))
STEP, NORM, SIMD, OPTIMIZER = (
    "src/cpu/step.rs", "src/cpu/norm.rs", "src/cpu/simd/mod.rs", "src/optimizer.rs")
CHUNK, WALK, RANDOM, TASK, ALIAS, SETTINGS, CONTEXT, DEVICE_TENSOR = (
    "src/cpu/chunk.rs", "src/cpu/walk.rs", "src/cpu/random.rs", "src/cpu/task.rs", "src/alias.rs", "src/settings.rs", "src/cuda/context.rs",
    "src/tensor/cuda.rs")
CPU, STAGE, STORAGE, SCALAR, AVX2 = (
    "src/cpu/optimizer.rs", "src/cpu/stage.rs", "src/storage.rs", "src/cpu/simd/scalar.rs", "src/cpu/simd/avx2.rs")
SCHEDULE, LOSS_SCALE, SUM, ACCUMULATE = (
    "src/schedule.rs", "src/loss_scale.rs", "src/cpu/accumulate.rs", "src/accumulate.rs")

TEAM, ENVIRONMENT, LOSS_SCALER = "src/cpu/team.rs", "src/environment.rs", "src/loss_scaler.rs"

# The floating-point environment
ENVIRONMENT_MUTANTS = [
    ("environment: the caller's", ENVIRONMENT, "if is_default(found) {", "if true {"),
    ("environment: not given back", ENVIRONMENT, "Restored { control: Some(found) }", "Restored { control: None }"),
    ("environment: of helpers", TEAM, "with_default_environment(|| self.work())", "self.work()"),
]

# (name, file, text, replacement)
MUTANTS = [
    # Threads that help
    ("threads: a piece is left out", TEAM, "end: cut(i + 1)", "end: cut(i + 1) - 1"),
    ("threads: pieces are taken twice", TEAM, "AtomicUsize::new(cut(i))", "AtomicUsize::new(cut(i) / 2)"),
    ("threads: not waited for", TEAM, "while self.0.door.load(Ordering::Acquire) != CLOSED {", "while false {"),
    ("threads: their panics pass", TEAM, "self.failed.store(true, Ordering::Relaxed);", "self.failed.store(false, Ordering::Relaxed);"),
    # A loss scale that is shared
    ("loss scaler: the last step's alone", LOSS_SCALER, "shared.overflowed |= overflowed", "shared.overflowed = overflowed"),
    ("loss scaler: an overflow stays", LOSS_SCALER, "(shared.stepped, shared.overflowed) = (false, false)",
     "(shared.stepped, shared.overflowed) = (false, overflowed)"),
    ("loss scaler: adapts without a step", LOSS_SCALER, "if shared.stepped {", "if true {"),
    ("loss scaler: not restored", LOSS_SCALER, "(shared.scale, shared.good_steps) = (scale, good_steps);", "let _ = (&mut shared, scale, good_steps);"),
    ("loss scaler: no divisor", SETTINGS, "self.grad_scale * self.shared_scale", "self.grad_scale"),
    # The moments and the direction
    ("M1  m of the old value", MOMENTS, "mix.mul_add(g - m, m)", "mix.mul_add(g, m)"),
    ("M1' sign", MOMENTS, "mix.mul_add(m - g, g)", "mix.mul_add(g - m, g)"),
    ("M1' about the old value", MOMENTS, "mix.mul_add(m - g, g)", "mix.mul_add(m - g, m)"),
    ("M2  v of the old value", MOMENTS, "mix.mul_add(g.mul_sub(g, v), v)", "mix.mul_add(g * g, v)"),
    ("M2  g, not its square", MOMENTS, "g.mul_sub(g, v)", "g.mul_sub(isa.splat(1.0), v)"),
    ("M2' g, not its square", MOMENTS, "let q = g * g;", "let q = g;"),
    ("M3' of the old value", MOMENTS, "mix.mul_add(v - q, q)", "mix.mul_add(v, q)"),
    ("M4  no root", MOMENTS, "v.sqrt().mul_add(", "v.mul_add("),
    ("M4  no epsilon", MOMENTS, "isa.splat(k.eps)", "isa.splat(0.0)"),
    ("M4  the other bias", MOMENTS, "isa.splat(k.inv_sqrt_bias2)", "isa.splat(k.inv_bias1)"),
    ("M4  epsilon within the bias", MOMENTS, "v.sqrt().mul_add(isa.splat(k.inv_sqrt_bias2), isa.splat(k.eps))",
     "(v.sqrt() + isa.splat(k.eps)) * isa.splat(k.inv_sqrt_bias2)"),
    ("M5  no bias", MOMENTS, "(m * isa.splat(k.inv_bias1)).div_or_zero(d)", "m.div_or_zero(d)"),
    ("M5  multiplied", MOMENTS, "(m * isa.splat(k.inv_bias1)).div_or_zero(d)", "m * isa.splat(k.inv_bias1) * d"),
    # Adam
    ("adam 1 not scaled", ADAM, "grad * isa.splat(k.grad_scale); // 1", "grad; // 1"),
    ("adam 2 no L2", ADAM, "isa.splat(*weight_decay).mul_add(p, scaled)", "scaled"),
    ("adam 2 L2 also for AdamW", ADAM, "decay && !decoupled", "decay"),
    ("adam 3 mix of v", ADAM, "exp_avg(isa, m, g, k.exp_avg_mix,", "exp_avg(isa, m, g, k.exp_avg_sq_mix,"),
    ("adam 3 without L2", ADAM, "exp_avg(isa, m, g,", "exp_avg(isa, m, scaled,"),
    ("adam 4 without L2", ADAM, "exp_avg_sq(isa, v, g,", "exp_avg_sq(isa, v, scaled,"),
    ("adam 4 mix of m", ADAM, "v, g, k.exp_avg_sq_mix,", "v, g, k.exp_avg_mix,"),
    ("adam 5 smallest", ADAM, "v.select_max(", "v.select_min("),
    ("adam 5 stores v", ADAM, "second.store(", "v.store("),
    ("adam 6 v, not the largest", ADAM, "denominator(isa, second, k)", "denominator(isa, v, k)"),
    ("adam 7 g, not m", ADAM, "direction(isa, m, d, k)", "direction(isa, g, d, k)"),
    ("adam 8 no decay", ADAM, "isa.splat(*weight_decay).mul_add(p, delta)", "delta"),
    ("adam 8 decoupled always", ADAM, "decay && decoupled", "decay"),
    ("adam 9 without decay", ADAM, ".mul_add(r, p); // 9", ".mul_add(delta, p); // 9"),
    ("adam norm of g with L2", ADAM, "scaled.mul_add(scaled, sums[0])", "g.mul_add(g, sums[0])"),
    ("adam norm of r", ADAM, "delta.mul_add(delta, sums[1])", "r.mul_add(r, sums[1])"),
    ("adam norm after the step", ADAM, "p.mul_add(p, sums[2])", "next.mul_add(next, sums[2])"),
    # FAdam
    ("fadam 1 not scaled", FADAM, "grad * isa.splat(k.grad_scale); // 1", "grad; // 1"),
    ("fadam 2 raw gradient", FADAM, "exp_avg(isa, m, g,", "exp_avg(isa, m, grad,"),
    ("fadam 3 raw gradient", FADAM, "exp_avg_sq(isa, s, g,", "exp_avg_sq(isa, s, grad,"),
    ("fadam 4 of m", FADAM, "let d = denominator(isa, s, k); // 4", "let d = denominator(isa, m, k); // 4"),
    ("fadam 5 of s", FADAM, "let delta = direction(isa, m, d, k); // 5", "let delta = direction(isa, s, d, k); // 5"),
    ("fadam 6 not clipped", FADAM, "isa.splat(clip) * delta", "delta"),
    ("fadam 7 not Riemannian", FADAM, "isa.splat(step.weight_decay).div_or_zero(d)", "isa.splat(step.weight_decay)"),
    ("fadam 8 capped from below", FADAM, "q.select_min(", "q.select_max("),
    ("fadam 8 not capped", FADAM, "FADAM_DECAY_CAP != 0 {", "FADAM_DECAY_CAP == !0 {"),
    ("fadam 9 clip forgotten", FADAM, "r = q.mul_add(p, r);", "r = q.mul_add(p, delta);"),
    ("fadam 9 decay clipped too", FADAM, "r = q.mul_add(p, r);", "r = isa.splat(clip) * q.mul_add(p, delta);"),
    ("fadam 10 ascends", FADAM, "(isa.splat(step.neg_lr).mul_add(r, p), delta, place)",
     "(isa.splat(-step.neg_lr).mul_add(r, p), delta, place)"),
    ("fadam 10 unclipped", FADAM, "mul_add(r, p), delta, place) // 10", "mul_add(delta, p), delta, place) // 10"),
    ("fadam 11 not taken back", FADAM, "isa.splat(self.back).mul_add(delta, p)", "p"),
    ("fadam 11 taken back twice", FADAM, "isa.splat(self.back).mul_add(delta, p)",
     "isa.splat(2.0 * self.back).mul_add(delta, p)"),
    ("fadam back", FADAM, "(lr * (1.0 - clip)) as f32", "(lr * clip) as f32"),
    ("fadam back not asked for", FADAM, "if clip != 1.0 {", "if clip > 1.0 {"),
    ("fadam always speculates", FADAM, "if policy.speculate => {", "if policy.speculate || kappa > 0.0 => {"),
    ("fadam never speculates", FADAM, "if policy.speculate => {", "if policy.speculate && kappa < 0.0 => {"),
    ("fadam moments not committed", FADAM,
     "            m.store(at.exp_avg);\n            s.store(at.exp_avg_sq);\n        }\n        let k",
     "            m.store(at.exp_avg);\n        }\n        let k"),
    # What FAdam counts
    ("coordinates: the capped decay", FADAM, "place.q = q;\n        if k.flags & FADAM_DECAY_CAP != 0 {\n            q = q.select_min(isa.splat(step.decay_cap)); // 8\n        }",
     "if k.flags & FADAM_DECAY_CAP != 0 {\n            q = q.select_min(isa.splat(step.decay_cap)); // 8\n        }\n        place.q = q;"),
    ("coordinates: on eps", FADAM, "[a, b, c, d, e, f, g]", "[a.next_up(), b.next_up(), c.next_up(), d.next_up(), e, f, g]"),
    ("coordinates: on the limit", FADAM, "[a, b, c, d, e, f, g]", "[a, b, c, d, e.next_down(), f.next_down(), g.next_down()]"),
    ("coordinates: limit from below", FADAM, "counts[i].count_less(thresholds[i], q)", "counts[i].count_less(q, thresholds[i])"),
    ("coordinates: padding counts", FADAM, "count(step, place, &mut counter);", "let _ = (place, &mut counter);"),
    ("coordinates: padding of one", WALK, "- padding * *into", "- padding.min(1) * *into"),
    ("coordinates: not in the second sweep", FADAM, "[false, false, NORMS];\n    const COUNTS: bool = NORMS;",
     "[false, false, NORMS];\n    const COUNTS: bool = false;"),
    ("coordinates: twice eps", FADAM_S, "[2.0, 10.0, 100.0, 1000.0]", "[1.5, 10.0, 100.0, 1000.0]"),
    ("coordinates: a thousand eps", FADAM_S, "100.0, 1000.0]", "100.0, 999.0]"),
    ("coordinates: eps of the first step", FADAM_S, "(multiple * eps) as f32", "(multiple * self.eps0) as f32"),
    ("coordinates: parts of the limit", FADAM_S, "[1.0, 10.0, 100.0].map(", "[1.0, 10.0, 50.0].map("),
    ("coordinates: limit without the rate", FADAM_S, "limit / (part * self.lr)", "limit / part"),
    ("coordinates: limit is 2", FADAM_S, "{ self.decay_cap } else { 1.0 }", "{ self.decay_cap } else { 2.0 }"),
    ("coordinates: one chunk", STEP, "for chunk in &counts[task.chunks.clone()] {", "for chunk in counts[task.chunks.clone()].iter().take(1) {"),
    ("coordinates: of the step, not added", STEP, "add(&mut all.near_eps, &tensor.near_eps);", "all.near_eps = tensor.near_eps;"),
    ("coordinates: of the step, limit not added", STEP, "add(&mut all.near_decay_limit, &tensor.near_decay_limit);",
     "all.near_decay_limit = tensor.near_decay_limit;"),
    ("coordinates: of anybody", STEP, "if matches!(hyper, Hyper::FAdam(_)) {", "if true {"),
    ("kappa counted always", FADAM, "+= u64::from(clip != 1.0);", "+= 1;"),
    ("kappa counted never", FADAM, "+= u64::from(clip != 1.0);", "+= 0 * u64::from(clip != 1.0);"),
    ("kappa's count forgotten", STEP, "            clipped_updates: self.report.clipped_updates,\n", ""),
    # FisherAdam
    ("fisher 1 not scaled, sums", FISHER, "let g = grad * isa.splat(step.grad_scale); // 1\n        if COMMIT",
     "let g = grad; // 1\n        if COMMIT"),
    ("fisher 1 not scaled, step", FISHER, "let g = grad * isa.splat(step.grad_scale); // 1\n        let d",
     "let g = grad; // 1\n        let d"),
    ("fisher 2 mix of m", FISHER, "step.fisher_mix,", "step.exp_avg_mix,"),
    ("fisher 2 not committed", FISHER, "f.store(at.exp_avg_sq)", "{ let _ = f; }"),
    ("fisher 3 no damping", FISHER, "root + isa.splat(damping.eps)", "{ let _ = damping; root }"),
    ("fisher 3 no root", FISHER, "else { f.sqrt() }", "else { f }"),
    ("fisher 3 always the root", FISHER, "pow(isa, f, step.rho)", "{ let _ = pow::<S>; f.sqrt() }"),
    ("fisher 4 not clipped", FISHER, "g.div_or_zero(d) * isa.splat(clip.natural)", "g.div_or_zero(d)"),
    ("fisher 4 overflow kept", FISHER, "if clip.natural == 0.0 {", "if clip.natural < 0.0 {"),
    ("fisher 5 momentum of g", FISHER, "exp_avg(isa, m, n, step.exp_avg_mix", "exp_avg(isa, m, g, step.exp_avg_mix"),
    ("fisher 6 not preconditioned", FISHER, ".mul_add(p.div_or_zero(d), r)", ".mul_add(p, r)"),
    ("fisher 6 overflow kept", FISHER, " && clip.decay != 0.0", ""),
    ("fisher 7 without decay", FISHER, ".mul_add(r, p); // 7", ".mul_add(m, p); // 7"),
    ("fisher sum of g for n", FISHER, "n.mul_add(n, sums[1])", "g.mul_add(g, sums[1])"),
    ("fisher no sum of w", FISHER, "sums[2] = w.mul_add(w, sums[2])", "let _ = w"),
    ("fisher norm of n", FISHER, "sums[1] = m.mul_add(m, sums[1])", "sums[1] = n.mul_add(n, sums[1])"),
    ("fisher speculation never corrected", FISHER, "self.mistaken = !self.hyper.eps_is_full(grad_rms)",
     "self.mistaken = false"),
    ("fisher RMS before clipping", "src/cpu/fisher_adam_step.rs", "fisher.settle_damping(rms * clip)", "fisher.settle_damping(rms)"),
    ("fisher sum, not RMS", "src/cpu/fisher_adam_step.rs", "(sum / len as f64).sqrt()", "{ let _ = len; sum.sqrt() }"),
    # Scalars of a step
    ("bias 1", SCALARS, "(1.0 / (1.0 - progress.beta1_power)) as f32", "(1.0 / progress.beta1_power) as f32"),
    ("bias 1 none", SCALARS, "(1.0 / (1.0 - progress.beta1_power)) as f32", "1.0"),
    ("bias 2 not rooted", SCALARS, "(1.0 - progress.beta2_power).sqrt()", "(1.0 - progress.beta2_power)"),
    ("bias 2 of beta1", SCALARS, "(1.0 - progress.beta2_power)", "(1.0 - progress.beta1_power)"),
    ("power of the other beta", SCALARS, "self.beta1_power * beta1", "self.beta1_power * beta2"),
    ("power frozen", SCALARS, "self.beta2_power * beta2", "self.beta2_power * 0.0 + beta2"),
    ("form of m never about the new", SCALARS, "if beta1 < 0.5 {", "if beta1 < 0.0 {"),
    ("form of v never about the new", SCALARS, "if beta2 < 0.5 {", "if beta2 < 0.0 {"),
    ("form of m always about the new", SCALARS, "if beta1 < 0.5 {", "if beta1 < 1.0 {"),
    ("form of v always about the new", SCALARS, "if beta2 < 0.5 {", "if beta2 < 1.0 {"),
    ("bound of the update", SCALARS, "beta1 * beta1 < beta2", "beta1 * beta1 <= beta2"),
    ("group's betas ignored", SETTINGS, "*betas = group.betas.unwrap_or(*betas);", "let _ = betas;"),
    ("group's epsilon ignored", SETTINGS, "*eps = group.eps.unwrap_or(*eps);", "let _ = eps;"),
    ("maximize ignored", ADAM_S, "{ -1.0 } else { 1.0 }", "{ 1.0 } else { 1.0 }"),
    ("adam ascends", ADAM_S, "neg_lr: -self.lr as f32", "neg_lr: self.lr as f32"),
    ("eps_t frozen", FADAM_S, "self.eps_decay * progress.step as f64", "self.eps_decay"),
    ("eps_t one step late", FADAM_S, "progress.step as f64", "(progress.step - 1) as f64"),
    ("kappa not over the norm", FADAM_S, "{ kappa / update_norm }", "{ kappa }"),
    ("kappa scales up", FADAM_S, "if update_norm > kappa", "if update_norm < kappa"),
    ("cap without lr", FADAM_S, "(self.decay_cap / self.lr) as f32", "self.decay_cap as f32"),
    ("beta2_hat", FISHER_S, "(1.0 - before.beta2_power)", "(1.0 - now.beta2_power)"),
    ("beta2_hat not corrected", FISHER_S, "self.beta2 * (1.0 - before.beta2_power) / (1.0 - now.beta2_power)",
     "{ let _ = before; self.beta2 + 0.0 * now.beta2_power }"),
    ("damping: the larger epsilon", FISHER_S, "self.eps2 * grad_rms < self.eps", "self.eps2 * grad_rms > self.eps"),
    ("damping: RMS 0 taken literally", FISHER_S, "grad_rms == 0.0 || !smaller", "!smaller"),
    ("damping: eps2 ignored", FISHER_S, "else { self.eps2 * grad_rms };", "else { grad_rms };"),
    ("damping: power rho", FISHER_S, "libm::pow(eps, 2.0 * self.rho)", "libm::pow(eps, self.rho)"),
    ("shrink: later", FISHER_S, "excess > 1.0", "excess > 1.5"),
    ("shrink: clip multiplied", FISHER_S, ".sqrt() / self.clip;", ".sqrt() * self.clip;"),
    ("shrink: of the sum", FISHER_S, "(sum / len as f64).sqrt()", "{ let _ = len; sum.sqrt() }"),
    ("shrink: decay by n", FISHER_S, "shrink(decay_sum)", "{ let _ = decay_sum; shrink(natural_sum) }"),
    # The step around the algorithms
    ("clip without 1e-6", STEP, "const CLIP_EPS: f64 = 1e-6;", "const CLIP_EPS: f64 = 0.0;"),
    ("clip loses NaN", STEP, "if coefficient > 1.0 { 1.0 } else { coefficient }", "coefficient.min(1.0)"),
    ("clip scales up", STEP, "if coefficient > 1.0 { 1.0 } else { coefficient }", "coefficient"),
    ("clip forgotten", STEP, "let scale = clip / grad_scale;", "let scale = 1.0 / grad_scale;"),
    ("grad_scale forgotten", STEP, "let scale = clip / grad_scale;", "let scale = clip;"),
    ("norm of the scaled gradient", STEP, "(1.0 / grad_scale) as f32", "1.0"),
    ("infinity passes the check", STEP, "if !sum.is_finite() {", "if sum.is_nan() {"),
    ("NaN passes the check", STEP, "if !sum.is_finite() {", "if sum == f64::INFINITY {"),
    ("skip not counted", STEP, "self.report.skipped_steps += 1;", ""),
    ("skip counts as a step", STEP, "self.report.skipped = true;",
     "self.report.skipped = true; for t in &self.tasks { self.parameters[t.index].progress.step += 1; }"),
    ("steps not counted", STEP, "self.parameters[task.index].progress = task.progress;", ""),
    ("last chunk is whole", CHUNK, "len: (self.len - start).min(len),", "len: (self.len - start).min(len) / 2 * 2,"),
    ("kappa of the form", OPTIMIZER, "kappa >= most", "kappa > most"),
    ("form without the groups", OPTIMIZER, "exact && self.groups.iter().all(|(_, hyper)| hyper.bounds_update())",
     "exact && self.groups[0].1.bounds_update()"),
    ("first bad is the last", STEP, "pass.non_finite.get_or_insert(task.index);",
     "pass.non_finite = Some(task.index);"),
    # Sums
    ("norm not scaled", NORM, " * isa.splat(self.scale)", ""),
    ("fold of chunks: neighbours", NORM, "lanes[j] += lanes[j + width];", "lanes[j] = lanes[2 * j] + lanes[2 * j + 1];"),
    ("fold of chunks: lanes", NORM, "partials.chunks(LANES)", "partials.chunks(LANES / 2)"),
    ("fold of lanes: neighbours", SIMD, "lanes[i] = lanes[i] + lanes[i + vectors];",
     "lanes[i] = lanes[2 * i] + lanes[2 * i + 1];"),
    ("fold within a vector: neighbours", SIMD, "last[j] += last[j + width];",
     "last[j] = last[2 * j] + last[2 * j + 1];"),
    ("fold of 73 tensors: global norm", TASK, "tasks.iter().map(|task| fold(task, partials)).sum()",
     "tasks.iter().take(73).map(|task| fold(task, partials)).sum()"),
    ("fold of 73 tensors: before the step", STEP, "for task in &self.tasks {\n            let sum = fold(",
     "for task in self.tasks.iter().take(73) {\n            let sum = fold("),
    ("fold of 73 tensors: the check", STEP, "if !sum.is_finite() {", "if !sum.is_finite() && task.index < 73 {"),
    ("fold of 73 tensors: behind the step", STEP, "for task in &self.tasks {\n            let [grad, update, parameter]",
     "for task in self.tasks.iter().take(73) {\n            let [grad, update, parameter]"),
    ("order of tensors", TASK, "tasks.iter().map(|task| fold(task, partials)).sum()",
     "tasks.iter().rev().map(|task| fold(task, partials)).sum()"),
    # Refusals, and what a step promises besides values
    ("refuse: lengths", OPTIMIZER, "if found != *len {", "if found < *len {"),
    ("refuse: types", OPTIMIZER, "if parameter.dtype != *dtype {", "if parameter.dtype == *dtype {"),
    ("refuse: repeated", OPTIMIZER, "|pair| pair[0].index == pair[1].index", "|pair| pair[0].index > pair[1].index"),
    ("refuse: neighbours", ALIAS, "before.end > span.start", "before.end >= span.start"),
    ("refuse: overlap by one", ALIAS, "before.end > span.start", "before.end > span.start + 4"),
    ("refuse: gradients before", ALIAS, "if span.written { any } else { written }", "written"),
    ("refuse: gradients among them", ALIAS, "if span.written { any } else { written }", "any"),
    ("refuse: long spans", ALIAS, "span.end > best.end", "span.end > 0"),
    ("refuse: bf16 spans", OPTIMIZER, "span(job.gradient, job.gradient_dtype, false)",
     "span(job.gradient, Dtype::F32, false)"),
    ("refuse: who is named", OPTIMIZER, "let role = if other.written", "let role = if victim.written"),
    ("refuse: parameters of others", OPTIMIZER, "if id.owner == self.owner { Ok(id.index) } else { Err(Error::UnknownP",
     "if id.owner != usize::MAX { Ok(id.index) } else { Err(Error::UnknownP"),
    ("refuse: groups of others", OPTIMIZER, "if id.owner == self.owner { Ok(id.index) } else { Err(Error::UnknownG",
     "if id.owner != usize::MAX { Ok(0) } else { Err(Error::UnknownG"),
    ("lost is not remembered", OPTIMIZER, "self.lost = true;", ""),
    ("a step allocates", OPTIMIZER, "self.spans.clear();", "self.spans = Vec::new();"),
    ("learning rate comes late", OPTIMIZER, "*hyper = algorithm.resolve(group)?;",
     "let _ = (hyper, algorithm.resolve(group)?);"),
    ("last row left out", WALK, "while start < chunk.len {", "while start + 1 < chunk.len {"),
    # bf16 and the average
    ("bf16 master begins with zeros", STEP, "has_master: !starts,", "has_master: true,"),
    ("bf16 master begins anew", STEP, "has_master: !starts,", "has_master: false,"),
    ("bf16 master begins anew in a correction", STEP, "*has_master = true;", "let _ = has_master;"),
    ("bf16 master in place before it begins", STAGE, "let in_place = whole && has_master;", "let in_place = whole;"),
    ("bf16 master not written where it begins", STAGE, "                    if !in_place {\n", "                    if !whole {\n"),
    ("bf16 value of a master cut off", STAGE,
     "narrow(isa, Round::Nearest, from,", "narrow(isa, Round::No, from,"),
    ("bf16 value without a master cut off", STAGE,
     "stochastic.unwrap_or(Round::Nearest)", "stochastic.unwrap_or(Round::No)"),
    ("bf16 remainder forgotten", STAGE, "join(isa, value, array, part.len, &mut self.halves, rows.parameter);",
     "{ let _ = array; widen(isa, value, part.len, &mut self.halves[0], rows.parameter) };"),
    ("bf16 moments not kept", STAGE, "array.is_null() || K::MOMENTS[i] != Use::Writes", "array.is_null() || i == 1"),
    ("bf16 average's short row not kept", STAGE, "if !whole && !part.ema.is_null() {\n                unpad",
     "if whole && !part.ema.is_null() {\n                unpad"),
    ("bf16 reset ignored", CPU, "self.parameters[index].progress.start = 0;", "let _ = index;"),
    ("bf16 state of a master that has not begun", CPU, "let begun = progress.start != 0;", "let begun = true;"),
    ("bf16 m as computed, adam", ADAM, "(M::round::<S>(m, at.exp_avg_random), M", "(m, M"),
    ("bf16 v as computed, adam", ADAM, "M::round::<S>(v, at.exp_avg_sq_random)", "v"),
    ("bf16 m as computed, fadam", FADAM, "(g, M::round::<S>(m, at.exp_avg_random), M", "(g, m, M"),
    ("bf16 s as computed, fadam", FADAM, "M::round::<S>(s, at.exp_avg_sq_random)", "s"),
    ("bf16 f as computed, fisher", FISHER, "f = M::round::<S>(f, at.exp_avg_sq_random);", ""),
    ("bf16 m as computed, fisher", FISHER, "let m = unsafe { M::round::<S>(m, at.exp_avg_random) };", ""),
    ("bf16 moments to nearest", STAGE, "let moments = M::DTYPE == Dtype::Bf16;", "let moments = M::DTYPE == Dtype::F32;"),
    ("bf16 nearest by chance", STEP, "(storage.rounding == Rounding::Stochastic)", "(storage.rounding != Rounding::Nearest || true)"),
    ("bf16 parameter drawn as m", STAGE, "[FADAM_RANDOM_PARAMETER, FADAM_RANDOM_EXP_AVG, FADAM_RANDOM_EXP_AVG_SQ]",
     "[FADAM_RANDOM_PARAMETER + FADAM_RANDOM_EXP_AVG, FADAM_RANDOM_EXP_AVG, FADAM_RANDOM_EXP_AVG_SQ]"),
    ("bf16 v drawn as m", STAGE, "FADAM_RANDOM_EXP_AVG, FADAM_RANDOM_EXP_AVG_SQ];",
     "FADAM_RANDOM_EXP_AVG, FADAM_RANDOM_EXP_AVG + 0 * FADAM_RANDOM_EXP_AVG_SQ];"),
    ("bf16 draws of the rows before", STAGE, "random.fill(isa, purpose, part.start, bits);", "random.fill(isa, purpose, 0, bits);"),
    ("bf16 rows share draws", STAGE, "values.stochastic_bf16(random.add(at))", "values.stochastic_bf16(random.add(at % LANES))"),
    ("bf16 draw of a row", RANDOM, "start as u64 / u64::from(FADAM_RANDOM_BLOCK)", "(start as u64 / u64::from(FADAM_RANDOM_BLOCK)) % 512"),
    ("bf16 draw of 32-bit elements", RANDOM, "(block >> 32) as u32, self.step,", "0, self.step,"),
    ("bf16 draw of 32-bit seeds", RANDOM, "(self.seed >> 32) as u32", "0"),
    ("bf16 draw whatever the step", STEP, "Random::new(storage.seed, progress.step + 1, job.index)",
     "Random::new(storage.seed, 1, job.index)"),
    ("bf16 draw by the step of all", STEP, "Random::new(storage.seed, progress.step + 1, job.index)",
     "Random::new(storage.seed, self.report.step, job.index)"),
    ("bf16 draw whatever the tensor", STEP, "Random::new(storage.seed, progress.step + 1, job.index)",
     "Random::new(storage.seed, progress.step + 1, 0)"),
    ("bf16 rows of draws", SCALAR, "c0.wrapping_add(block)", "c0 + 0 * block"),
    ("bf16 ties away", SCALAR, "bits + 0x7fff + (bits >> 16 & 1)", "bits + 0x8000"),
    ("bf16 NaN becomes infinity", SCALAR, "bits | QUIET } else { bits + 0x7fff", "bits } else { bits + 0x7fff"),
    ("bf16 NaN drawn for", SCALAR, "bits | QUIET } else { bits + u32::from", "bits + u32::from(unsafe { *random }) } else { bits + u32::from"),
    ("bf16 split to even", SCALAR, "(bits + 0x8000, bits as u16)", "(bits + 0x7fff + (bits >> 16 & 1), bits as u16)"),
    ("bf16 remainder of a NaN", SCALAR, "(bits | QUIET, 0)", "(bits | QUIET, bits as u16)"),
    ("bf16 remainder without a sign", SCALAR, ".wrapping_add_signed((remainder as i16).into())", ".wrapping_add(remainder.into())"),
    ("bf16 ties away, avx2", AVX2, "_mm256_set1_epi32(0x7fff)), odd)", "_mm256_set1_epi32(0x8000)), _mm256_sub_epi32(odd, odd))"),
    ("bf16 NaN drawn for, avx2", AVX2, "Self::high(self.quiet_nan_or(_mm256_add_epi32(bits, random)))",
     "Self::high(_mm256_add_epi32(bits, random))"),
    ("bf16 remainder without a sign, avx2", AVX2, "_mm256_cvtepi16_epi32(", "_mm256_cvtepu16_epi32("),
    ("bf16 draw of the other half, avx2", AVX2, "setr_epi32(i, 0, 0, 0, i + 1, 0, 0, 0)", "setr_epi32(i + 1, 0, 0, 0, i, 0, 0, 0)"),
    ("philox rounds", SIMD, "const ROUNDS: usize = 10;", "const ROUNDS: usize = 9;"),
    ("philox keys", SIMD, "key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];",
     "key = [key[0].wrapping_add(WEYL[1]), key[1].wrapping_add(WEYL[0])];"),
    ("bf16 speculates without a master", OPTIMIZER, "!self.parameters.iter().any(has_no_master)",
     "(true || self.parameters.iter().any(has_no_master))"),
    ("bf16 speculates on bf16 moments", OPTIMIZER, "self.storage.moments == Dtype::F32 && !self", "!self"),
    ("ema begins with zeros", MOMENTS, "let ema = if self.starts { next } else {", "let ema = {"),
    ("ema begins anew", STEP, "weight: storage.ema_weight(), starts }", "weight: storage.ema_weight(), starts: starts || true }"),
    ("ema weighs the old", STORAGE, "(1.0 - decay) as f32", "decay as f32"),
    ("ema not corrected", MOMENTS, ".mul_add(next - before, isa.load(at.ema));", ".mul_add(next - next, { let _ = before; isa.load(at.ema) });"),
    ("ema corrected towards the parameter", MOMENTS, ".mul_add(next - before, isa.load(at.ema));",
     ".mul_add(next - isa.load(at.ema), { let _ = before; isa.load(at.ema) });"),
    ("ema corrected where it begins", MOMENTS, "if self.starts { next } else { moved }.store", "moved.store"),
    ("ema of the old, fadam's second sweep", FADAM, "self.ema.update(isa, &at, next);\n        }\n        if NORMS {\n            sums[2]",
     "self.ema.update(isa, &at, p);\n        }\n        if NORMS {\n            sums[2]"),
    ("ema of the old, fisher", FISHER, "ema.update(isa, &at, next);", "ema.update(isa, &at, p);"),
    ("refuse: a rounding without effect", OPTIMIZER, "self.rounding.is_some() && !storage.rounds()",
     "self.rounding.is_some() && !storage.rounds() && storage.ema.is_some()"),
    ("refuse: an average that never moves", OPTIMIZER, "(0.5..1.0).contains(&decay)", "(0.5..=1.0).contains(&decay)"),
    ("refuse: bf16 parameters' spans", OPTIMIZER, "span(job.parameter, job.parameter_dtype, true)",
     "span(job.parameter, Dtype::F32, true)"),
    # The schedule
    ("schedule: warm-up", SCHEDULE, "return step as f64 /", "return (step + 1) as f64 /"),
    ("schedule: no end", SCHEDULE, "let step = step.min(self.steps());", ""),
    ("schedule: floor added", SCHEDULE, "factor * (1.0 - floor) + floor", "factor + floor"),
    ("schedule: floor cut off", SCHEDULE, "factor * (1.0 - floor) + floor", "factor.max(floor)"),
    ("schedule: cosine from the start", SCHEDULE, "(step - self.warmup_steps) as f64 / (steps - self.warmup_steps) as f64",
     "step as f64 / steps as f64"),
    ("schedule: line from the start", SCHEDULE, "(steps - from) as f64", "{ let _ = from; steps as f64 }"),
    ("schedule: not stable", SCHEDULE, "Decay::Linear { from, .. } if step < from => 1.0,", ""),
    ("schedule: no root", SCHEDULE, "(step as f64 / self.warmup_steps as f64).sqrt()", "(step as f64 / self.warmup_steps as f64)"),
    ("schedule: refuse: floors", SCHEDULE, "(0.0..=1.0).contains(&floor)", "(floor <= 1.0)"),
    ("schedule: refuse: no decay", SCHEDULE, "check(from < steps,", "check(from <= steps,"),
    ("schedule: refuse: no warm-up", SCHEDULE, "check(self.warmup_steps > 0,", "check(true,"),
    ("schedule: refuse: too long", SCHEDULE, "check(steps <= MAX_STEPS,", "check(steps <= u64::MAX,"),
    ("schedule: refuse: a new one", OPTIMIZER, "        if let Some(schedule) = &schedule {\n            schedule.check()?;\n        }", ""),
    ("schedule: not followed", STEP, "groups[job.group].1.scheduled(factor)", "groups[job.group].1"),
    ("schedule: one group's", STEP, "groups[job.group].1.scheduled(factor)", "groups[job.group].1.scheduled(if job.group == 0 { factor } else { 1.0 })"),
    ("schedule: kappa takes back the base", STEP, "Step::FAdam(hyper.step(&task.progress, scale), hyper.lr)",
     "Step::FAdam(hyper.step(&task.progress, scale), hyper.lr / factor)"),
    ("schedule: skipped steps count", STEP, "if finite || policy", "if !finite || finite || policy"),
    ("schedule: skipped steps never count", STEP, "if finite || policy", "if finite && policy.schedule.is_none() || finite && policy"),
    ("schedule: at a standstill", STEP, "self.schedule_step += 1;", ""),
    # The loss scale
    ("loss scale: not divided by", STEP, "policy.fixed_scale() * self.report.loss_scale.unwrap_or(1.0)", "policy.fixed_scale()"),
    ("loss scale: grows late", LOSS_SCALE, "good_steps + 1 < self.growth_interval", "good_steps < self.growth_interval"),
    ("loss scale: grows for ever", LOSS_SCALE, "if larger <= MAX { larger } else { scale }", "larger"),
    ("loss scale: no floor", LOSS_SCALE, "if smaller < MIN { MIN } else { smaller }", "smaller"),
    ("loss scale: good steps survive a bad one", LOSS_SCALE, "MIN } else { smaller }, 0)", "MIN } else { smaller }, good_steps)"),
    ("loss scale: backs off by the growth", LOSS_SCALE, "scale * self.backoff_factor", "scale / self.growth_factor"),
    ("loss scale: skips do not count", STEP, "self.move_on(policy, false);", ""),
    ("loss scale: starts at 1", OPTIMIZER, "Counters { loss_scale: init_scale,", "Counters { loss_scale: init_scale / init_scale,"),
    ("loss scale: refuse: unchecked", OPTIMIZER, "let checked = self.non_finite != NonFinite::Propagate;", "let checked = true;"),
    ("loss scale: refuse: out of range", LOSS_SCALE, "check(Self::RANGE.contains(&init_scale),", "check(!Self::RANGE.is_empty(),"),
    ("loss scale: refuse: no growth", LOSS_SCALE, "check(growth_factor > 1.0,", "check(growth_factor >= 1.0,"),
    ("loss scale: refuse: no backoff", LOSS_SCALE, "check(backoff_factor < 1.0,", "check(backoff_factor <= 1.0,"),
    ("loss scale: refuse: no interval", LOSS_SCALE, "check(growth_interval > 0,", "check(true,"),
    # Accumulation
    ("accumulate: nothing added", SUM, "isa.load(at.parameter) + g", "isa.load(at.parameter)"),
    ("accumulate: the first is added", SUM, "if FIRST { g } else", "if FIRST { g + isa.load(at.parameter) } else"),
    ("accumulate: all are first", SUM, "    if first {", "    if first || !first {"),
    ("accumulate: refuse: lengths", ACCUMULATE, "if gradient.len != sum.len {", "if gradient.len < sum.len {"),
    ("accumulate: refuse: types", ACCUMULATE, "if sum.dtype != Dtype::F32 {", "if sum.dtype == Dtype::F32 && sum.dtype != Dtype::F32 {"),
    ("accumulate: refuse: gradients", ALIAS, "spans.push(span(pair.gradient, pair.gradient_dtype, false));", ""),
    ("accumulate: refuse: sums", ALIAS, "span(pair.sum, Dtype::F32, true)", "span(pair.sum, Dtype::F32, false)"),
    ("accumulate: refuse: empty views too", ALIAS, ".filter(|(_, pair)| pair.len > 0)", ""),
    ("accumulate: refuse: who is named", ALIAS, "if other.written {", "if victim.written {"),
]

ELEMENT, SWEEP, FINALIZE, NORM_CU, ADAM_CU, FADAM_CU, FADAM_CUH, FISHER_CU = (
    f"kernels/{name}" for name in (
        "element.cuh", "sweep.cuh", "finalize.cuh", "norm.cu", "adam.cu", "fadam.cu", "fadam.cuh", "fisher_adam.cu"))
CUDA, TABLE, LAUNCH, BUFFER, TENSOR, CUDA_SUM, LOAD = (
    f"src/cuda/{name}.rs" for name in ("optimizer", "table", "step", "buffer", "tensor", "accumulate", "load"))
SUM_CU = "kernels/accumulate.cu"
BARRIER = "    __syncthreads();\n"
WRITE_SLICE = """impl<T: Element> Writable for CudaSlice<T> {
    fn stream(&self) -> &Arc<CudaStream> {
        DeviceSlice::stream(self)
    }
    fn write<'a>(&'a mut self, stream: &'a CudaStream) -> (u64, SyncOnDrop<'a>) {
"""

CUDA_MUTANTS = [
    # Barriers
    ("cuda barrier: sums before they are added", FINALIZE, "fold_tasks(args, 0);\n    " + BARRIER, "fold_tasks(args, 0);\n"),
    ("cuda barrier: before the coefficient is read", FINALIZE, BARRIER + "    *start", "    *start"),
    ("cuda barrier: sums before norms are kept", FINALIZE, "keep_coordinates(args);\n#endif\n" + BARRIER, "keep_coordinates(args);\n#endif\n"),
    ("cuda barrier: kappa decides", FADAM_CU, BARRIER, ""),
    ("cuda barrier: the clip of FisherAdam", FISHER_CU, BARRIER, ""),
    ("cuda barrier: the global norm", NORM_CU, BARRIER, ""),
    # Masks
    ("cuda mask: fold of lanes", SWEEP, "__shfl_down_sync(FADAM_WHOLE_WARP,", "__shfl_down_sync(0x0000ffff,"),
    ("cuda mask: fold of chunks", FINALIZE, "lanes[0] += __shfl_down_sync(FADAM_WHOLE_WARP,", "lanes[0] += __shfl_down_sync(0x7fffffff,"),
    ("cuda mask: every lane keeps the sum", SWEEP, "if (lane_in_warp() == 0) global<float>(partials)", "global<float>(partials)"),
    # Bounds
    ("cuda bounds: of a store", SWEEP, "if (k < rest) store_f32(", "store_f32("),
    ("cuda bounds: of a load", SWEEP, "into[k] = k < rest ? load_f32(address + k * sizeof(float)) : 0.0f;",
     "into[k] = load_f32(address + k * sizeof(float));"),
    ("cuda bounds: of a bf16 load", SWEEP, "into[k] = k < rest ? load_u16(address + k * sizeof(unsigned short)) : 0;",
     "into[k] = load_u16(address + k * sizeof(unsigned short));"),
    ("cuda bounds: of the partials", FINALIZE, "if (i < count) lanes[k]", "lanes[k]"),
    ("cuda bounds: the last element", SWEEP, "chunk.rest = len > share ? len - share : 0;",
     "chunk.rest = len > share + 1 ? len - share : 0;"),
    ("cuda bounds: vectors of misaligned tensors", TABLE, "address.is_multiple_of(4 * dtype.size() as u64)",
     "address.is_multiple_of(dtype.size() as u64)"),
    ("cuda bounds: 32-bit indices", SWEEP, "const u64 chunk_start = (index - task.first_chunk) * FADAM_CHUNK,",
     "const u64 chunk_start = (unsigned int)(index - task.first_chunk) * FADAM_CHUNK,"),
    # Waits and streams
    ("cuda wait: for the report", BUFFER, "self.pinned.copied.synchronize()?;", ""),
    ("cuda wait: for what is staged", BUFFER, "pinned.bytes >= bytes && pinned.copied.try_is_complete()?",
     "pinned.bytes >= bytes"),
    ("cuda wait: for streams without events", TENSOR, "stream.join(theirs).map_err(driver_error(WAITING))?;", ""),
    ("cuda wait: of streams without events", TENSOR, "ours.context().record_err(theirs.join(ours));", "let _ = (theirs, ours);"),
    ("cuda wait: for the caller's per-thread stream", CUDA,
     "own.join(caller).map_err(|error| Failure::Untouched(joining(error)))?;", "let _ = (own, caller, joining);"),
    ("cuda wait: of the caller's per-thread stream", CUDA,
     'caller.join(own).map_err(midway("ordering the caller\'s stream after the step"))?;', "let _ = (caller, own);"),
    ("cuda wait: before pinned memory is freed", CONTEXT,
     "context.record_err(unsafe { result::stream::synchronize(stream.cu_stream()) });", "let _ = context;"),
    ("cuda wait: of the tensors' next users", OPTIMIZER,
     "let outcome = with_default_environment(|| backend.step(jobs, groups, policy));\n        drop(guards);",
     "drop(guards);\n        let outcome = with_default_environment(|| backend.step(jobs, groups, policy));"),
    ("cuda wait: for a parameter's last users, and of its next", DEVICE_TENSOR, WRITE_SLICE + "        self.device_ptr_mut(stream)",
     WRITE_SLICE + "        let own = stream.context().default_stream();\n"
     "        (self.device_ptr_mut(&own).0, SyncOnDrop::Record(None))"),
    ("cuda stream: of a launch", LAUNCH, "unsafe { stream.launch_builder(function)",
     "unsafe { stream.context().default_stream().launch_builder(function)"),
    ("cuda stream: of an upload", BUFFER, "memcpy_htod_async(to.address + offset as u64, staged, to.stream.cu_stream())",
     "memcpy_htod_async(to.address + offset as u64, staged, std::ptr::null_mut())"),
    # What the device must know, and when
    ("cuda skip: by the device", ADAM_CU, "if (control_of(args)->skipped) return;", ""),
    ("cuda settings: sent once", TABLE, "if self.sent_settings == Some(settings) && self.hypers == self.sent_hypers {",
     "if self.sent_settings.is_some() {"),
    ("cuda tasks: sent once", TABLE, "if self.tasks == self.sent_tasks {", "if !self.sent_tasks.is_empty() {"),
    ("cuda graph: not remembered", CUDA, "self.captured = true;", ""),
    ("cuda graph: of anything", CONTEXT, "if capturing(stream)? {", "if capturing(stream)? && stream.cu_stream().is_null() {"),
    ("cuda graph: joins what is outside", TENSOR, "if capturing(stream)? {", "if capturing(stream)? && stream.cu_stream().is_null() {"),
    ("cuda alarm: not looked at", CUDA, "return Ok(Some(failed));", "let _ = failed;"),
    ("cuda graph: spoiled by a refused step", CUDA, "other => other.map(|_| ()),", "_ => self.stream.synchronize(),"),
    ("cuda graph: its tables freed", TABLE, "self.retired.extend(old);\n        }\n        self.scratch_captured",
     "}\n        self.scratch_captured"),
    ("cuda graph: its tables overwritten", TABLE, "self.renew_scratch(self.layout)?;", ""),
    # Schedule, loss scale, accumulation
    ("cuda schedule: adam", ADAM_CU, "hyper.lr *= start.lr_factor;", ""),
    ("cuda schedule: fadam", FADAM_CU, "hyper.lr *= start.lr_factor;", ""),
    ("cuda schedule: fisher_adam", FISHER_CU, "hyper.lr *= start.lr_factor;", ""),
    ("cuda schedule: kappa takes back the base", FADAM_CU, ".lr * control.learning_rate_factor;", ".lr;"),
    ("cuda schedule: beyond its end", FINALIZE, "[step < settings.last_factor ? step : settings.last_factor]", "[step]"),
    ("cuda schedule: skipped steps count", FINALIZE, "if (!skipped || settings.counts_skipped)", "if (true)"),
    ("cuda schedule: skipped steps never count", FINALIZE, "if (!skipped || settings.counts_skipped)", "if (!skipped)"),
    ("cuda schedule: sent once", TABLE, "if self.sent_schedule != Some(*schedule) {", "if self.sent_schedule.is_none() {"),
    ("cuda schedule: half of it sent", TABLE, "self.sent_schedule = None; // unknown", "// unknown"),
    ("cuda schedule: freed under a graph", TABLE, "if self.any_captured {", "if self.any_captured && self.stream.cu_stream().is_null() {"),
    ("cuda loss scale: not divided by, norm", NORM_CU, "settings.grad_scale * loss_scale(settings, *control_of(args))", "settings.grad_scale"),
    ("cuda loss scale: not divided by, step", FINALIZE, "coefficient / (settings.grad_scale * scale)", "coefficient / settings.grad_scale"),
    ("cuda loss scale: grows late", FINALIZE, "control.good_steps < settings.growth_interval", "control.good_steps <= settings.growth_interval"),
    ("cuda loss scale: grows for ever", FINALIZE, "if (larger <= FADAM_LOSS_SCALE_MAX) control", "control"),
    ("cuda loss scale: no floor", FINALIZE, "smaller < FADAM_LOSS_SCALE_MIN ? FADAM_LOSS_SCALE_MIN : smaller", "smaller"),
    ("cuda loss scale: good steps survive a bad one", FINALIZE, "        control.good_steps = 0;\n        return;", "        return;"),
    ("cuda loss scale: not mirrored at first", CUDA, "self.mirror.copy_from(self.tables.control()).map_err(&sending)?;", ""),
    ("cuda accumulate: not added", SUM_CU, "sum[k] += g[k];", "sum[k] = g[k];"),
    ("cuda accumulate: the first is added", CUDA_SUM, 'if first { "accumulate_first" }', 'if first { "accumulate" }'),
    ("cuda accumulate: chunks of another tensor", CUDA_SUM, "let first_chunk = chunks;", "let first_chunk = 0;"),
    ("cuda accumulate: refuse: aliases", CUDA_SUM, "refuse_pairs(&found)?;", ""),
    ("cuda accumulate: refuse: captures", CUDA_SUM, "refuse_capture(&stream)?;", ""),
    ("cuda accumulate: stream of the table", BUFFER, "memcpy_htod_async(buffer.address, values, stream.cu_stream())",
     "memcpy_htod_async(buffer.address, values, std::ptr::null_mut())"),
    ("cuda lost: forgotten", LAUNCH, "Failure::Midway(driver_error", "Failure::Untouched(driver_error"),
]

# Of what is kept in bf16, and of averages: an emulated GPU takes minutes for all of CUDA_TESTS.
CUDA_BF16_MUTANTS = [
    ("cuda bounds: of a bf16 store", SWEEP, "if (k < rest) store_u16(", "store_u16("),
    ("cuda bf16: master before it begins", SWEEP, "chunk.has_master = progress.start != progress.step;", "chunk.has_master = true;"),
    ("cuda bf16: master begins anew in a correction", FADAM_CU, "        chunk.has_master = true; // since the sweep before\n", ""),
    ("cuda bf16: remainder not read", SWEEP, "if (parameter_flags & FADAM_TASK_REMAINDER && has_master) load(master, remainder);", ""),
    ("cuda bf16: master stays behind", SWEEP, "        master += FADAM_LANES * master_size();\n", ""),
    ("cuda bf16: ties away", ELEMENT, "bits + 0x7fffu + (bits >> 16 & 1u)", "bits + 0x8000u"),
    ("cuda bf16: NaN drawn for", ELEMENT, "bf16_nan(bits);\n    return (unsigned short)((bits + random)",
     "(unsigned short)((bits + random) >> 16);\n    return (unsigned short)((bits + random)"),
    ("cuda bf16: split to even", ELEMENT, "(unsigned short)((bits + 0x8000u) >> 16)", "bf16_nearest(x)"),
    ("cuda bf16: rounds of philox", ELEMENT, "round < 10;", "round < 9;"),
    ("cuda bf16: neighbours share draws", SWEEP, "second ? random[k / 2 + 2] : random[k / 2]", "random[k / 2]"),
    ("cuda bf16: a chunk's rows share draws", SWEEP, "        element += FADAM_LANES;\n", ""),
    ("cuda bf16: draws whatever the tensor", SWEEP, "task.parameter_index << FADAM_RANDOM_PURPOSE_BITS", "0 * task.parameter_index"),
    ("cuda bf16: m as computed", ADAM_CU, "            chunk.round_moment(FADAM_RANDOM_EXP_AVG, m);\n", ""),
    ("cuda bf16: m drawn as v", FISHER_CU, "chunk.round_moment(FADAM_RANDOM_EXP_AVG, m)",
     "chunk.round_moment(FADAM_RANDOM_EXP_AVG_SQ, m)"),
    ("cuda ema: begins with zeros", SWEEP, "e[k] = starts ? p[k] : ::exp_avg(", "e[k] = ::exp_avg("),
    ("cuda ema: not corrected", FADAM_CU, "            chunk.correct_ema(e, before, p, args.ema_weight);\n", ""),
    ("cuda ema: corrected where it begins", SWEEP, "starts ? p[k] : fmaf(weight, p[k] - before[k], e[k])",
     "fmaf(weight, p[k] - before[k], e[k])"),
    ("cuda ema: stays behind", SWEEP, "        ema += FADAM_LANES * sizeof(float);\n", ""),
    ("cuda bf16: rounds before it is asked to", CUDA, "let rounds = master == Master::None || self.kept.bf16_moments;",
     "let rounds = self.kept.bf16_moments && master == Master::None;"),
    ("cuda bf16: kernels of before", CUDA, "self.earlier = Some(std::mem::replace(&mut self.kernels, kernels));",
     "self.earlier = Some(kernels);"),
]

# Of loading kernels, and of errors that end a context.
CUDA_LOAD_MUTANTS = [
    ("cuda load: kernels are not looked up", LOAD, "for kernel in kernels {", "for kernel in &kernels[..0] {"),
    ("cuda load: no compiler of PTX", LOAD, "    CUresult::CUDA_ERROR_JIT_COMPILER_NOT_FOUND,", "    CUresult::CUDA_ERROR_INVALID_PTX,"),
    ("cuda load: every error is of PTX", LOAD, "if NOT_COMPILED.contains(&error.0) =>", "if error.0 != CUresult::CUDA_SUCCESS =>"),
    ("cuda load: every driver is too old", LOAD, "_ if driver.is_some() && compiler > driver =>", "_ if driver.is_some() =>"),
    ("cuda load: an error that ends a context", CONTEXT, "226, // CONTAINED", "225,"),
]

# Of what FAdam counts: its test alone, on the GPU.
CUDA_COUNT_MUTANTS = [
    ("cuda coordinates: beyond the tensor", FADAM_CU,
     "if (k < chunk.rest) counts.add(scalars, place);\n#endif\n#if", "counts.add(scalars, place);\n#endif\n#if"),
    ("cuda coordinates: beyond the tensor, second sweep", FADAM_CU,
     "if (k < chunk.rest) counts.add(scalars, place);\n#endif\n            }", "counts.add(scalars, place);\n#endif\n            }"),
    ("cuda coordinates: half of a warp", FADAM_CU, "words[i] += __shfl_down_sync(FADAM_WHOLE_WARP, words[i], distance);",
     "words[i] += distance < 16 ? __shfl_down_sync(FADAM_WHOLE_WARP, words[i], distance) : 0;"),
    ("cuda coordinates: on eps", FADAM_CUH, "if (place.d < t.eps[i])", "if (place.d <= t.eps[i])"),
    ("cuda coordinates: on the limit", FADAM_CUH, "if (place.q > t.limit[i])", "if (place.q >= t.limit[i])"),
    ("cuda coordinates: parts of the limit", FADAM_CUH, "limit / (100.0 * h.lr)", "limit / (50.0 * h.lr)"),
    ("cuda coordinates: of eps", FADAM_CUH, "(float)(1000.0 * eps)", "(float)(100.0 * eps)"),
    ("cuda coordinates: the first warp's alone", FINALIZE, "i < blockDim.x / FADAM_WARP; i++) add(all, totals[i]);",
     "i < 1; i++) add(all, totals[i]);"),
    ("cuda coordinates: of one round of chunks", FINALIZE, "chunk < end; chunk += FADAM_WARP) {", "chunk < end; chunk = end) {"),
    ("cuda coordinates: not waited for", FINALIZE, "        add(totals[warp], tensor);\n    }\n    __syncthreads();",
     "        add(totals[warp], tensor);\n    }"),
    ("cuda kappa: not counted", FADAM_CU, "if (control.update_clip != 1.0) control.clipped_updates += 1;", ""),
]

FOLD_TASKS = "for (u64 i = threadIdx.x / FADAM_WARP; i < args.task_count;"
TOTAL = "for (u64 i = 0; i < args.task_count; i++) total += sums[i];"
JUDGE = "for (u64 i = 0; i < args.task_count; i++) {"
ROWS = "for (u64 row = 0; row < count;"
COUNTS = "for (u64 i = warp; i < args.task_count;"
THREAD_A_TASK = "for (u64 i = threadIdx.x; i < args.task_count; i += blockDim.x) {\n"
ONE_ROUND = "for (u64 i = threadIdx.x; i < args.task_count && i < blockDim.x; i += blockDim.x) {\n"

# A loop over tensors or chunks that leaves some out, where the only tests are those with many.
CUDA_FOLD_MUTANTS = [
    *((f"cuda fold: of the first {count} tensors", FINALIZE, FOLD_TASKS, FOLD_TASKS[:-1] + f" && i < {count};")
      for count in (32, 64, 73, 128, 256, 512, 1024, 2048)),
    ("cuda fold: not of the first tensor", FINALIZE, FOLD_TASKS, FOLD_TASKS.replace("WARP;", "WARP + 1;")),
    ("cuda fold: not of the last tensor", FINALIZE, FOLD_TASKS, FOLD_TASKS.replace("i <", "i + 1 <")),
    ("cuda fold: one chunk of the last tensor", FINALIZE, ": args.chunks;", ": tasks[task].first_chunk + 1;"),
    *((f"cuda fold: total of the first {count} tensors", FINALIZE, TOTAL, TOTAL.replace("i++", f"i += i < {count - 1} ? 1 : args.task_count"))
      for count in (73, 256, 1024)),
    ("cuda fold: total without the first tensor", FINALIZE, TOTAL, TOTAL.replace("i = 0", "i = 1")),
    ("cuda fold: total without the last tensor", FINALIZE, TOTAL, TOTAL.replace("i <", "i + 1 <")),
    *((f"cuda fold: the first {count} tensors judged", FINALIZE, JUDGE, JUDGE.replace("task_count;", f"task_count && i < {count};"))
      for count in (73, 256, 1024)),
    ("cuda fold: the last tensor not judged", FINALIZE, JUDGE, JUDGE.replace("i <", "i + 1 <")),
    *((f"cuda fold: the first {count} tensors checked", FINALIZE, "if (settings.skips && ", f"if (i < {count} && settings.skips && ")
      for count in (1, 73, 256)),
    ("cuda fold: one tensor a round checked", FINALIZE, "if (settings.skips && ", "if (i % 32 == 0 && settings.skips && "),
    ("cuda fold: NaN alone checked", FINALIZE, "sums[i] - sums[i] != 0.0", "sums[i] != sums[i]"),
    ("cuda fold: the last bad one named", FINALIZE, "settings.skips && !skipped && sums", "settings.skips && sums"),
    ("cuda fold: named among those that take part", FINALIZE, "= tasks[i].parameter_index;", "= (unsigned int)i;"),
    ("cuda fold: one row of partials", FINALIZE, ROWS, ROWS.replace("row <", "row == 0 && row <")),
    ("cuda fold: two rows of partials", FINALIZE, ROWS, ROWS.replace("row <", "row < 2 * FADAM_FOLD_LANES && row <")),
    ("cuda fold: not the last row of partials", FINALIZE, ROWS,
     ROWS.replace("count;", "count && (row == 0 || row + FADAM_FOLD_LANES <= count);")),
    ("cuda fold: not the last partial", FINALIZE, "if (i < count) lanes", "if (i + 1 < count || i == 0) lanes"),
    ("cuda fold: the last tensor first", FINALIZE, TOTAL, TOTAL.replace("sums[i]", "sums[args.task_count - 1 - i]")),
    ("cuda fold: the last tensor first, before the step", FINALIZE, "total += sums[i];\n            }",
     "total += sums[args.task_count - 1 - i];\n            }"),
    ("cuda fold: neighbouring lanes", FINALIZE, "lanes[k] += lanes[k + width];", "lanes[k] = lanes[2 * k] + lanes[2 * k + 1];"),
    ("cuda fold: neighbouring threads", FINALIZE, "distance = FADAM_WARP / 2; distance > 0; distance /= 2)\n        lanes[0]",
     "distance = 1; distance < FADAM_WARP; distance *= 2)\n        lanes[0]"),
    ("cuda fold: counts of the first 73 tensors", FINALIZE, COUNTS, COUNTS[:-1] + " && i < 73;"),
    ("cuda fold: counts of one tensor a warp", FINALIZE, COUNTS, COUNTS[:-1] + " && i == warp;"),
    ("cuda fold: counts not of the last tensor", FINALIZE, COUNTS, COUNTS.replace("i <", "i + 1 <")),
    ("cuda fold: norms of one round", FINALIZE, THREAD_A_TASK, ONE_ROUND),
    ("cuda fold: scalars of one round, adam", ADAM_CU, THREAD_A_TASK, ONE_ROUND),
    ("cuda fold: scalars of one round, fadam", FADAM_CU, THREAD_A_TASK, ONE_ROUND),
    *((f"cuda fold: {what} of one round, fisher_adam", FISHER_CU, THREAD_A_TASK + then, ONE_ROUND + then)
      for what, then in [
          ("scalars", "        const Task &task = global<const Task>(args.tasks)[i];\n        FisherAdamHyper hyper"),
          ("clips", "        const Task &task = global<const Task>(args.tasks)[i];\n        const FisherAdamHyper &hyper")]),
    ("cuda fold: everybody's RMS is the first's", FISHER_CU, "sqrt(sums_of(args, 0)[i] /", "sqrt(sums_of(args, 0)[0] /"),
]

# What the counter of a draw is made of, and what else counts steps.
CUDA_DRAW_MUTANTS = [
    ("cuda philox: draws of 32 bits", ELEMENT, "c1 = (unsigned int)(block >> 32)", "c1 = 0"),
    ("cuda philox: elements of 32 bits", SWEEP, "chunk.element = start;", "chunk.element = (unsigned int)start;"),
    ("cuda philox: elements of a chunk", SWEEP, "chunk.element = start;", "chunk.element = share;"),
    ("cuda philox: draws in signed bits", SWEEP, "element / FADAM_RANDOM_BLOCK, step,", "(u64)(int)(element / FADAM_RANDOM_BLOCK), step,"),
    ("cuda philox: a key of 32 bits", ELEMENT, "key1 = (unsigned int)(seed >> 32)", "key1 = 0"),
    ("cuda philox: a key's high word alone", ELEMENT, "key0 = (unsigned int)seed,", "key0 = (unsigned int)(seed >> 32),"),
    ("cuda philox: keys swapped", ELEMENT, "key0 += 0x9e3779b9u;\n        key1 += 0xbb67ae85u;",
     "key0 += 0xbb67ae85u;\n        key1 += 0x9e3779b9u;"),
    ("cuda philox: steps of 16 bits", SWEEP, "(unsigned int)progress.step;", "(unsigned short)progress.step;"),
    ("cuda philox: steps stop at 32 bits", SWEEP, "(unsigned int)progress.step;",
     "progress.step >> 32 ? 0xffffffffu : (unsigned int)progress.step;"),
    ("cuda philox: steps fold their high word in", SWEEP, "(unsigned int)progress.step;",
     "(unsigned int)(progress.step ^ progress.step >> 32);"),
    *((f"cuda philox: parameters of {bits} bits", SWEEP, "task.parameter_index << FADAM_RANDOM_PURPOSE_BITS;",
       f"(task.parameter_index << FADAM_RANDOM_PURPOSE_BITS) & {(1 << bits) - 1};") for bits in (8, 16)),
    ("cuda philox: step and stream swapped", ELEMENT, "c2 = step, c3 = stream;", "c2 = stream, c3 = step;"),
    ("cuda philox: words swapped", ELEMENT, "random[1] = c1;\n    random[2] = c2;", "random[1] = c2;\n    random[2] = c1;"),
    ("cuda philox: the high half first", SWEEP, "k % 2 ? word >> 16 : word & 0xffffu", "k % 2 ? word & 0xffffu : word >> 16"),
    ("cuda philox: neighbours swapped", SWEEP, "element % FADAM_RANDOM_BLOCK != 0;", "element % FADAM_RANDOM_BLOCK == 0;"),
    ("cuda steps: of 32 bits", FINALIZE, "progress.step += 1;", "progress.step = (unsigned int)(progress.step + 1);"),
    ("cuda steps: of 32 bits in eps_t", FADAM_CUH, "(double)progress.step", "(double)(unsigned int)progress.step"),
    ("cuda steps: a master begins anew after 2^32", SWEEP, "chunk.has_master = progress.start != progress.step;",
     "chunk.has_master = (unsigned int)progress.start != (unsigned int)progress.step;"),
    ("cuda steps: an average begins anew after 2^32", SWEEP, "chunk.starts = progress.start == progress.step;",
     "chunk.starts = (unsigned int)progress.start == (unsigned int)progress.step;"),
]

LOAD, READ, FILE, MANIFEST, HEADER, CPU_STATE, CUDA_STATE = (
    f"src/{name}.rs" for name in ("state/load", "state/read", "state/file", "state/manifest", "state/header", "cpu/state", "cuda/state"))

STATE_MUTANTS = [
    ("state file: written in place", FILE, "= create(folder, &prefix)?;",
     "= (File::create(&path).map_err(failed(\"\"))?, Temporary { path: path.clone(), renamed: false });"),
    ("state file: left behind", FILE, "let _ = uninterrupted(|| fs::remove_file(&self.path));", ""),
    ("state file: of a running save", FILE, "&& file.try_lock().is_ok()", "&& file.try_lock().map_or(true, |()| true)"),
    ("state file: leftovers stay", FILE, "let _ = fs::remove_file(entry.path());", ""),
    ("state file: leftovers of other names", FILE, "let ours = name.starts_with(prefix)", "let ours = name.starts_with(&prefix[..7])"),
    ("state file: in place of a link", FILE, "Ok(found) if found.is_symlink() => {", "Ok(found) if found.is_symlink() && found.is_dir() => {"),
    ("state file: in place of a device", FILE, "return is_file(&found).map_err(failed(\"replacing\")).map(", "return Ok(()).map("),
    ("state file: of a device", FILE, "if found.is_file() {", "if !found.is_dir() {"),
    ("state file: a lease", FILE, "if error.kind() == ErrorKind::WouldBlock => File::open(path),", "if error.kind() == ErrorKind::BrokenPipe => File::open(path),"),
    ("state file: other permissions", FILE, "let _ = file.set_permissions(fs::Permissions::from_mode(mode));", "let _ = mode;"),
    ("state file: another owner", FILE, "fchown(file, Some(uid), Some(gid)).is_err()", "uid == gid"),
    ("state file: private for ever", FILE, "let like = old.or_else(|| usual(folder, &prefix));", "let like = old;"),
    ("state load: not lost", READ, "optimizer.lost = true;", ""),
    ("state load: lost for ever", READ, "optimizer.lost = false;", ""),
    ("state load: without progress", READ, "backend.set_progress(index, progress)?;", "let _ = (index, progress);"),
    ("state load: without counts", READ, "optimizer.set_counters(&counters)?;", "let _ = counters;"),
    ("state load: one piece", READ, "backend.write_slot(index, slot, offset, piece)?;",
     "backend.write_slot(index, slot, 0, piece)?;"),
    ("state load: any dtype", READ, "if *dtype != stored.dtype && !widens {", "if *dtype != stored.dtype && widens {"),
    ("state load: a file that changes", READ, "if tensor.sum != Some(sum) {", "if tensor.sum.is_none() {"),
    ("state load: the beginning of a file that changes", READ, "|_| Ok(()))? != *sum {", "|_| Ok(()))? == !*sum {"),
    ("state load: counts of another run", LOAD, "(!matching).then_some(manifest.counters)", "Some(manifest.counters)"),
    ("state load: any order", LOAD, "if here.name != there.name {", "if false {"),
    ("state load: any betas", LOAD, "if there != here {", "if false {"),
    ("state load: any length", LOAD, "if saved.len != here.len as u64 {", "if false {"),
    ("state load: none is resized", LOAD, "if matching && saved.len != optimizer.parameters[index].len as u64 {", "if false {"),
    ("state load: left out unseen", HEADER, "removed.filter(|tensor| tensor.elements != len)", "removed.filter(|tensor| tensor.elements == !len)"),
    ("state load: damaged tensors", READ, "if tensor.sum.is_some_and(|expected| expected != sum) {",
     "if tensor.sum.is_some_and(|expected| expected == !sum) {"),
    ("state load: a damaged header", MANIFEST, "if same { Ok(()) }", "if same || !digits.is_empty() { Ok(()) }"),
    ("state load: contradicting powers", MANIFEST,
     "if [beta1_power == 1.0, beta2_power == 1.0] != [step == 0; 2] {", "if false {"),
    ("state load: old norms", CPU_STATE, "(progress, None)", "(progress, parameter.norms)"),
    ("state cuda: powers before the first step", CUDA_STATE, "if progress.step == 0 { Progress::START }",
     "if progress.step == 0 { progress }"),
    ("state cuda: an old alarm", CUDA, "self.alarm.copy_from(self.tables.control()).map_err(&sending)?;", ""),
    ("state cuda: an old failure", CUDA, "(self.loaded, self.reported) = (step, 0);", "self.loaded = step;"),
    ("state cuda: an old report", CUDA, "(self.loaded, self.reported) = (step, 0);", "self.reported = 0;"),
]

# What the system refuses.
MEMORY_TESTS = ["out_of_memory of_"]
MEMORY_MUTANTS = [
    ("memory: not asked for", "src/allocation.rs", "vec.try_reserve(additional).map_err(|_| refused::<T>(vec.len().saturating_add(additional), what))",
     "{\n        vec.reserve(additional);\n        let _ = what;\n        Ok(())\n    }"),
    ("memory: the backend has a parameter more", OPTIMIZER,
     "        reserve(&mut self.spans, 2 * (index + 1), &name)?;\n        self.ask(|backend| backend.register(&name, len, dtype))?;\n",
     "        self.ask(|backend| backend.register(&name, len, dtype))?;\n        reserve(&mut self.spans, 2 * (index + 1), &name)?;\n"),
    ("memory: scratch for the step to grow", OPTIMIZER, "        reserve(&mut self.jobs, index + 1, &name)?;\n", ""),
    ("memory: names", OPTIMIZER, "self.by_name.try_reserve(1).map_err(|_| refused::<(String, usize)>(index + 1, &name))?;", "let _ = refused::<u8>;"),
    ("memory: groups", OPTIMIZER, "collected(self.groups.iter().copied(), GROUPS)?", "self.groups.clone()"),
    ("memory: partial sums", CPU, "            reserve(sums, more, name)?;\n", "            let _ = sums;\n"),
    ("memory: a copy of the state", CPU, "collected(buffer.as_slice::<T>().iter().copied(), STATE)", "Ok(buffer.as_slice::<T>().to_vec())"),
    ("memory: sums of a norm", TASK, "filled(0.0, end, NORM)?", "vec![0.0; end]"),
    ("memory: pairs", ACCUMULATE, "collected(pairs.iter().map(pair), PAIRS)?", "pairs.iter().map(pair).collect::<Vec<_>>()"),
    ("memory: the Fisher diagonal", "src/fisher.rs", "filled(0.0, len, DIAGONAL)?", "vec![0.0; len]"),
]
CUDA_MEMORY_TESTS = ["out_of_memory on_a_gpu"]
CUDA_MEMORY_MUTANTS = [
    ("cuda memory: a norm's tables go too early", "src/cuda/norm.rs", "settle(&stream);", "let _ = settle;"),
    ("cuda memory: what orders tensors", TENSOR, "        reserve(&mut self.events, 1, ORDER)?;\n        let (address, guard) = source", "        let (address, guard) = source"),
    ("cuda memory: the table of tensors", TABLE, "        reserve(&mut self.tasks, tasks.len(), TABLES)?;\n", ""),
    ("cuda memory: remembered as sent", TABLE, "std::mem::swap(&mut self.sent_tasks, &mut self.tasks);", "self.sent_tasks.clone_from(&self.tasks);"),
]

# What the file system refuses, and what is killed.
CALL_TESTS = ["state_calls", "state_crash"]
CALL_MUTANTS = [
    ("calls: not on the disk", FILE, "file.sync_all().map_err(failed(\"syncing\"))?;", ""),
    ("calls: a rename that was done", FILE, "Err(error) if !is_at(&file, &path) =>", "Err(error) =>"),
    ("calls: interrupted", FILE, "Err(error) if error.kind() == ErrorKind::Interrupted => {}\n            result => return result,",
     "result => return result,"),
    ("calls: a read that is interrupted", READ, "Err(error) if error.kind() == ErrorKind::Interrupted => {}", ""),
    ("calls: readable by all", FILE, "new_file(&path, 0o600)", "new_file(&path, 0o644)"),
    ("calls: one tensor after the other", READ, "while self.filled < self.buffer.len() {",
     "while self.filled == 0 {\n            let end = self.buffer.len().min(64);"),
]

# What a header costs.
HEADER_TESTS = ["state_memory"]
HEADER_MUTANTS = [
    ("header: of any length", HEADER, "if length > limit {", "if length > LARGEST {"),
    ("header: of its own length alone", HEADER, "(4 * bytes as u64)", "(bytes as u64 / 4)"),
]

JSON_TESTS = ["lib"]
JSON_MUTANTS = [
    ("json: half a character", "src/state/json.rs", "b'b' | b'B', ..] => 11,", "b'b' | b'B', ..] => 5,"),
    ("json: a backslash for each", "src/state/json.rs", "                bytes.push(*byte);\n", "                bytes.extend([b'\\\\', *byte]);\n"),
]

# Its other tests read recordings, which are not copied.
TORCH_TESTS = ["state_torch masters_and_averages", "state_torch what_does_not_fit", "state_torch powers_of",
               "state_torch other_types"]
TORCH, VALUES = "src/state/torch.rs", "src/state/values.rs"
TORCH_MUTANTS = [
    ("state torch: masters of zeros", TORCH, "Progress { step, start: 0, beta1_power, beta2_power }",
     "Progress { step, start: step, beta1_power, beta2_power }"),
    ("state torch: powers of other betas", TORCH, "(way, last) = (Progress::START, Some(betas(i)));", "last = Some(betas(i));"),
    ("state torch: counts in any order", TORCH, "order.sort_unstable_by_key(|&i| key(i));", "let _ = key;"),
    ("state torch: a power that stands still", TORCH, "if next == power {", "if next >= power * 0.9 {"),
    ("state torch: any value", VALUES, "if !value.is_finite() {", "if false {"),
    ("state torch: negative squares", VALUES, "slot != Slot::ExpAvg && value < 0.0", "slot == Slot::Ema && value < 0.0"),
    ("state torch: before the first step", VALUES, "step == 0 && value != 0.0", "step == 0 && value == 0.1"),
    ("state torch: half of what is widened", VALUES, "room[..2 * bytes.len()]", "room[..bytes.len()]"),
    ("state torch: any number of steps", TORCH, "|| count.fract() != 0.0", ""),
]


# The programs' files
PROGRAM_TESTS = ["example train_lm", "example ablation"]
CHECKPOINT, RUNS, FOLDER = "examples/train_lm/checkpoint.rs", "examples/ablation/log.rs", "examples/common/folder.rs"
PROGRAM_MUTANTS = [
    ("checkpoint: over the one that is named", CHECKPOINT, "Some(Named { set: Set::A }) => Set::B,", "Some(Named { set: Set::A }) => Set::A,"),
    ("checkpoint: an index of before", CHECKPOINT, "        sync();\n        let weights", "        let weights"),
    ("checkpoint: an index of later", CHECKPOINT, "        sync();\n        files::write(", "        files::write("),
    ("checkpoint: files of another", CHECKPOINT, "checksum(&bytes) == expected", "checksum(&bytes).len() == expected.len()"),
    ("checkpoint: a damaged index", CHECKPOINT, "saved.checksum()? == saved.index", "saved.checksum()?.len() == saved.index.len()"),
    ("checkpoint: more steps than the run", CHECKPOINT, "points.len() as u64 - 1 <= most", "points.len() as u64 > 1 || most > 0"),
    ("log: zeros", RUNS, " || line.contains(&0)", ""),
    ("log: what follows a damaged line", RUNS, "if let Some(torn) = torn {\n                bail!", "if let Some(torn) = torn.filter(|&torn| torn == 0) {\n                bail!"),
    ("log: its name", RUNS, "        sync_name(path);\n", ""),
    ("log: not synced", RUNS, "self.file.sync_data()", "self.file.flush()"),
    ("folder: two programs", FOLDER, "file.and_then(|file| file.try_lock().map(|()| file))", "file.and_then(Ok)"),
]


def copy_tree():
    """Refreshes the copy, with new times: cargo must not take what the last mutant left for what is there now."""
    TREE.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        if (TREE / part).is_dir():
            shutil.rmtree(TREE / part)
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, TREE / part, copy_function=shutil.copyfile,
                            ignore=shutil.ignore_patterns("*.safetensors"))
        elif (ROOT / part).exists():
            shutil.copyfile(ROOT / part, TREE / part)


def run_tests(names):
    """(built, which of these failed first or None, what it said)"""
    environment = os.environ | {
        "CARGO_TARGET_DIR": str(WORK / "build"),
        "CARGO_PROFILE_DEV_DEBUG": "0",
        "PROPTEST_MAX_SHRINK_ITERS": "0",
        "RUST_BACKTRACE": "0",
        "RUSTFLAGS": "",
        "FADAM_REQUIRE_DEVICE": "1",  # of the tests for CUDA alone
    }
    if names is MEMORY_TESTS or names is CUDA_MEMORY_TESTS:
        environment["FADAM_THOROUGH"] = "1"  # each allocation
    if names is CUDA_COUNT_TESTS:
        environment["FADAM_TEST_DEVICE"] = "cuda"
    options = dict(cwd=TREE, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    for test in names:
        if test.startswith("example "):
            which = ["-p", "fadam-examples", *test.replace("example", "--example", 1).split()]
        else:
            which = ["-p", "fadam", *(["--lib"] if test == "lib" else ["--test", *test.split()])]
        command = ["cargo", "test", "-q", *which]
        build = subprocess.run([*command, "--no-run"], **options)
        if build.returncode != 0:
            return False, test, build.stderr
        try:
            run = subprocess.run(command, timeout=LIMIT, **options)
        except subprocess.TimeoutExpired:
            return True, test, "ran too long"
        if run.returncode != 0:
            failures = run.stdout.split("\nfailures:\n")[-1].splitlines()
            failed = {line.strip() for line in failures if line.startswith("    ")}
            return True, test, ", ".join(sorted(failed)) or run.stderr[-200:].strip()
    return True, None, ""


def kill(mutants, tests):
    """How many of them the tests do not notice."""
    bad = 0
    sound = set()  # tests that pass without a mutant
    for name, file, old, new in mutants:
        start = time.monotonic()
        path = TREE / file
        original = path.read_text()
        count = original.count(old)
        if count != 1:
            verdict, why = "NOT APPLICABLE", f"occurs {count} times in {file}"
        else:
            path.write_text(original.replace(old, new))
            built, killer, why = run_tests(tests)
            path.write_text(original)
            verdict = "DOES NOT BUILD" if not built else "killed" if killer else "SURVIVED"
            if verdict == "killed" and killer not in sound:
                _, fails, said = run_tests([killer])
                if fails:
                    sys.exit(f"{killer} fails without a mutant: {said}")
                sound.add(killer)
        bad += verdict != "killed"
        detail = why if verdict == "killed" else why[-600:]
        print(f"{verdict:8} {time.monotonic() - start:5.1f} s  {file:28} {name:36} {detail}", flush=True)
    return bad


def main():
    words = sys.argv[1:]

    def chosen(mutants):
        return [mutant for mutant in mutants if not words or any(word in mutant[0] for word in words)]

    rows = [(chosen(MUTANTS), TESTS), (chosen(ENVIRONMENT_MUTANTS), ENVIRONMENT_TESTS), (chosen(CUDA_MUTANTS), CUDA_TESTS),
            (chosen(CUDA_BF16_MUTANTS), CUDA_BF16_TESTS), (chosen(CUDA_COUNT_MUTANTS), CUDA_COUNT_TESTS),
            (chosen(CUDA_FOLD_MUTANTS), CUDA_FOLD_TESTS), (chosen(CUDA_DRAW_MUTANTS), CUDA_DRAW_TESTS),
            (chosen(CUDA_LOAD_MUTANTS), CUDA_LOAD_TESTS), (chosen(STATE_MUTANTS), STATE_TESTS),
            (chosen(CALL_MUTANTS), CALL_TESTS), (chosen(HEADER_MUTANTS), HEADER_TESTS), (chosen(JSON_MUTANTS), JSON_TESTS),
            (chosen(TORCH_MUTANTS), TORCH_TESTS), (chosen(MEMORY_MUTANTS), MEMORY_TESTS),
            (chosen(CUDA_MEMORY_MUTANTS), CUDA_MEMORY_TESTS), (chosen(PROGRAM_MUTANTS), PROGRAM_TESTS)]
    copy_tree()
    bad = sum(kill(mutants, tests) for mutants, tests in rows)
    count = sum(len(mutants) for mutants, _ in rows)
    print(f"{count - bad} of {count} mutants killed")
    sys.exit(bad != 0)


if __name__ == "__main__":
    main()
