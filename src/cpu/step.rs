//! One step on the CPU: which sweeps run, and what is decided between them.

use super::chunk::{self, CHUNK, Chunk};
use super::fisher_adam::FisherAdam;
use super::kernel::Counts;
use super::memory::Buffer;
use super::moments::Ema;
use super::norm::NormPartial;
use super::optimizer::{Cpu, Parameter};
use super::random::Random;
use super::task::{Step, Task, fold, run_all};
use crate::algorithm::Hyper;
use crate::args::FADAM_NEAR_EPS;
use crate::job::Job;
use crate::settings::{Group, NonFinite, Policy};
use crate::{Coordinates, Dtype, Master, Report, Rounding};
use std::ptr::null_mut;

/// PyTorch's `clip_grad_norm_` adds this to the norm.
const CLIP_EPS: f64 = 1e-6;

/// What the gradients decide before anything is written.
struct GradientPass {
    norm: f64,
    /// The first parameter whose sum of squares is not finite.
    non_finite: Option<usize>,
}

impl Cpu {
    /// # Safety
    /// Each job's addresses are valid for its length for this call, its parameter exclusively; jobs do not overlap.
    pub(crate) unsafe fn step(
        &mut self,
        jobs: &[Job],
        groups: &[(Group, Hyper)],
        policy: &Policy,
    ) -> Option<usize> {
        self.lay_out(jobs);
        self.report = Report {
            step: self.report.step + 1,
            skipped_steps: self.report.skipped_steps,
            clipped_updates: self.report.clipped_updates,
            ..Report::default()
        };
        let factor = policy.schedule.map_or(1.0, |schedule| schedule.factor(self.schedule_step));
        self.report.loss_scale = policy.loss_scale.map(|_| self.loss_scale);
        let grad_scale = policy.fixed_scale() * self.report.loss_scale.unwrap_or(1.0);
        let mut clip = 1.0;
        let reads_gradients = policy.reads_gradients();
        if reads_gradients {
            let GradientPass { norm, non_finite } = self.gradient_norm((1.0 / grad_scale) as f32);
            self.report.grad_norm = Some(norm);
            if non_finite.is_some() && policy.non_finite != NonFinite::Propagate {
                self.report.skipped = true;
                self.report.skipped_steps += 1;
                self.move_on(policy, false);
                return non_finite;
            }
            if policy.norms {
                for task in &self.tasks {
                    let norms = self.parameters[task.index].norms.get_or_insert_default();
                    norms.grad = fold(task, &self.partials.sums[0]).sqrt();
                }
            }
            if let Some(max) = policy.max_grad_norm {
                let coefficient = max / (norm + CLIP_EPS);
                clip = if coefficient > 1.0 { 1.0 } else { coefficient };
            }
        }
        self.report.clip_coefficient = Some(clip);
        self.report.learning_rate_factor = Some(factor);
        self.move_on(policy, true);
        for (job, task) in jobs.iter().zip(&mut self.tasks) {
            let hyper = groups[job.group].1.scheduled(factor);
            let before = self.parameters[task.index].progress;
            task.progress = before.next(hyper.betas());
            let scale = clip / grad_scale;
            task.step = match hyper {
                Hyper::Adam(hyper) => Step::Adam(hyper.step(&task.progress, scale)),
                Hyper::FAdam(hyper) => Step::FAdam(hyper.step(&task.progress, scale), hyper.lr),
                Hyper::FisherAdam(hyper) => {
                    Step::FisherAdam(FisherAdam::new(&hyper, &before, &task.progress, scale, task.ema))
                }
            };
        }
        let (hyper, norms) = (&groups[0].1, policy.norms);
        match hyper {
            Hyper::Adam(_) if norms => self.adam::<true>(),
            Hyper::Adam(_) => self.adam::<false>(),
            Hyper::FAdam(_) => self.fadam(policy),
            Hyper::FisherAdam(_) if norms => {
                self.fisher_adam::<true>(reads_gradients.then_some(clip));
            }
            Hyper::FisherAdam(_) => self.fisher_adam::<false>(reads_gradients.then_some(clip)),
        }
        if policy.norms {
            self.keep_norms(!reads_gradients);
            if matches!(hyper, Hyper::FAdam(_)) {
                self.keep_coordinates();
            }
        }
        for task in &self.tasks {
            self.parameters[task.index].progress = task.progress;
        }
        None
    }

    /// Counts the step for the schedule and the loss scale of the next one.
    fn move_on(&mut self, policy: &Policy, finite: bool) {
        if finite || policy.schedule.is_some_and(|schedule| schedule.counts_skipped()) {
            self.schedule_step += 1;
        }
        if let Some(loss_scale) = &policy.loss_scale {
            (self.loss_scale, self.good_steps) = loss_scale.adapt(self.loss_scale, self.good_steps, finite);
        }
    }

    /// Puts the tensors' chunks in one row, in the order of registration.
    fn lay_out(&mut self, jobs: &[Job]) {
        self.tasks.clear();
        let mut end = 0;
        let storage = &self.storage;
        for job in jobs {
            let Parameter { dtype, master, ema, exp_avg, exp_avg_sq, max_exp_avg_sq, progress, .. } =
                &mut self.parameters[job.index];
            let start = end;
            end += job.len.div_ceil(CHUNK);
            let starts = progress.start == 0;
            let parameter = match dtype {
                Dtype::F32 => chunk::Parameter::F32(job.parameter.0.cast()),
                Dtype::Bf16 => chunk::Parameter::Bf16 {
                    value: job.parameter.0.cast(),
                    master: match (storage.master, master) {
                        (Master::F32, Some(master)) => chunk::Master::F32(master.as_mut_ptr()),
                        (Master::Remainder, Some(rest)) => chunk::Master::Remainder(rest.as_mut_ptr()),
                        _ => chunk::Master::None,
                    },
                    has_master: !starts,
                },
            };
            let or_null = |buffer: &mut Option<Buffer>| {
                buffer.as_mut().map_or(null_mut(), |buffer| buffer.as_mut_ptr::<u8>())
            };
            self.tasks.push(Task {
                index: job.index,
                tensor: Chunk {
                    parameter,
                    moments: [exp_avg.as_mut_ptr(), exp_avg_sq.as_mut_ptr(), or_null(max_exp_avg_sq)],
                    moments_dtype: storage.moments,
                    ema: or_null(ema).cast(),
                    gradient: job.gradient.0,
                    gradient_dtype: job.gradient_dtype,
                    start: 0,
                    len: job.len,
                    random: (storage.rounding == Rounding::Stochastic)
                        .then(|| Random::new(storage.seed, progress.step + 1, job.index)),
                },
                chunks: start..end,
                progress: *progress,
                step: Step::None,
                ema: Ema { weight: storage.ema_weight(), starts },
            });
        }
    }

    /// Between the sweeps of a step: the first one has written the masters.
    pub(super) fn masters_have_begun(&mut self) {
        for task in &mut self.tasks {
            if let chunk::Parameter::Bf16 { has_master, .. } = &mut task.tensor.parameter {
                *has_master = true;
            }
        }
    }

    /// Σg² into slot 0.
    fn gradient_norm(&mut self, scale: f32) -> GradientPass {
        run_all(self.simd, &self.tasks, &mut self.partials, |_| Some(NormPartial { scale }));
        let mut pass = GradientPass { norm: 0.0, non_finite: None };
        for task in &self.tasks {
            let sum = fold(task, &self.partials.sums[0]);
            if !sum.is_finite() {
                pass.non_finite.get_or_insert(task.index);
            }
            pass.norm += sum;
        }
        pass.norm = pass.norm.sqrt();
        pass
    }

    /// Folds the sums that a kernel with norms has left: Δ² in slot 1, θ² in slot 2 and, where no pass over the
    /// gradients went before, g² in slot 0.
    fn keep_norms(&mut self, with_gradients: bool) {
        let mut sums = [0.0; 3];
        for task in &self.tasks {
            let [grad, update, parameter] = self.partials.sums.each_ref().map(|sums| fold(task, sums));
            let norms = self.parameters[task.index].norms.get_or_insert_default();
            norms.update = update.sqrt();
            norms.parameter = parameter.sqrt();
            if with_gradients {
                norms.grad = grad.sqrt();
            }
            for (sum, part) in sums.iter_mut().zip([grad, update, parameter]) {
                *sum += part;
            }
        }
        self.report.update_norm = Some(sums[1].sqrt());
        if with_gradients {
            self.report.grad_norm = Some(sums[0].sqrt());
        }
    }

    /// Adds up the counts that a kernel of FAdam with norms has left.
    fn keep_coordinates(&mut self) {
        let mut all = Coordinates::default();
        for task in &self.tasks {
            let tensor = coordinates(task, &self.partials.counts);
            self.parameters[task.index].norms.get_or_insert_default().coordinates = Some(tensor);
            all.count += tensor.count;
            add(&mut all.near_eps, &tensor.near_eps);
            add(&mut all.near_decay_limit, &tensor.near_decay_limit);
        }
        self.report.coordinates = Some(all);
    }
}

/// The coordinates of one tensor, from the counts of its chunks.
fn coordinates(task: &Task, counts: &[Counts]) -> Coordinates {
    let mut all = Coordinates { count: task.tensor.len as u64, ..Coordinates::default() };
    for chunk in &counts[task.chunks.clone()] {
        let (near_eps, near_decay_limit) = chunk.split_at(FADAM_NEAR_EPS as usize);
        add(&mut all.near_eps, near_eps);
        add(&mut all.near_decay_limit, near_decay_limit);
    }
    all
}

fn add<T: Copy + Into<u64>>(sums: &mut [u64], parts: &[T]) {
    for (sum, &part) in sums.iter_mut().zip(parts) {
        *sum += part.into();
    }
}
