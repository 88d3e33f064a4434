//! The command line, and the cases that it asks for.

use crate::case::{Algorithm, Case};
use crate::shapes::Shape;
use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use fadam::{Device, Dtype, Master, Rounding, Simd};
use serde::Serialize;
use std::num::NonZeroUsize;
use std::time::Duration;

/// Measures optimizer steps against the machine's own memory bandwidth.
///
/// Each case is timed in turns with its ceiling: a loop that reads and writes as much memory, in as many sweeps, and
/// computes nothing. The share is the ceiling's time over the step's, the median over all turns. Bandwidth wanders
/// between runs, so compare shares, and figures of one run.
#[derive(Debug, Parser)]
#[command(name = "throughput", version)]
pub(crate) struct Options {
    /// Algorithms, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', default_value = "adamw,fadam,fisher_adam")]
    algorithm: Vec<Algorithm>,
    /// Tensors, separated by commas: gpt2 (148 tensors), resnet50 (161) or a number of elements in one tensor
    #[arg(long, value_delimiter = ',', default_value = "gpt2")]
    shape: Vec<Shape>,
    /// Type of the parameters
    #[arg(long, value_enum, default_value = "f32")]
    param: Float,
    /// Type of the gradients
    #[arg(long, value_enum, default_value = "f32")]
    grad: Float,
    /// What is kept beside bf16 parameters: f32, remainder or none [default: remainder]
    #[arg(long)]
    master: Option<Master>,
    /// Type of the moments
    #[arg(long, value_enum, default_value = "f32")]
    moments: Float,
    /// Rounding of bf16 parameters without a master, and of bf16 moments: nearest or stochastic [default: stochastic]
    #[arg(long)]
    rounding: Option<Rounding>,
    /// Weight decay [default: the algorithm's own]
    #[arg(long, value_name = "X")]
    weight_decay: Option<f64>,
    /// Clip the global norm of the gradients and check that they are finite; without it neither runs
    #[arg(long)]
    clip: bool,
    /// Bound on the norm of FAdam's update [default: none, and no norm is computed]. The gradients stay the same from
    /// step to step, so the norm is the root of the number of elements: a larger bound never acts, a smaller one always
    #[arg(long, value_name = "X")]
    kappa: Option<f64>,
    /// Threads of the step, and of its ceiling [default: all]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// best, cpu or cuda[:N]
    #[arg(long, default_value = "best")]
    device: String,
    /// On a GPU: the stream that steps run on, or a graph that a step was captured into, which also gives the time of each
    /// kernel. Adds host time, and these, to the output [default: default, without them]
    #[arg(long, value_enum)]
    stream: Option<Stream>,
    /// Seconds for each case, after its memory is set up
    #[arg(long, value_name = "S", default_value = "2", value_parser = seconds)]
    pub(crate) seconds: Duration,
    /// Print one JSON object a line instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where a step runs on a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stream {
    /// The device's default stream
    #[default]
    Default,
    /// A stream of the optimizer's own
    Own,
    /// A replayed graph, on such a stream
    Graph,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Float {
    F32,
    Bf16,
}

impl From<Float> for Dtype {
    fn from(float: Float) -> Self {
        match float {
            Float::F32 => Self::F32,
            Float::Bf16 => Self::Bf16,
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_string())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("a number greater than 0 is expected".into()),
    }
}

impl Options {
    /// Every algorithm on every shape.
    ///
    /// # Errors
    /// An option that would have no effect.
    pub(crate) fn cases(&self) -> Result<Vec<Case>> {
        if self.master.is_some() && self.param == Float::F32 {
            bail!("--master concerns bf16 parameters, and the parameters are f32");
        }
        let master = (self.param == Float::Bf16).then(|| self.master.unwrap_or_default());
        let rounds = master == Some(Master::None) || self.moments == Float::Bf16;
        if self.rounding.is_some() && !rounds {
            bail!("--rounding concerns bf16 parameters without a master, and bf16 moments: here is neither");
        }
        let case = |shape: Shape, algorithm: Algorithm| Case {
            algorithm,
            shape,
            param: self.param.into(),
            grad: self.grad.into(),
            master,
            moments: self.moments.into(),
            rounding: rounds.then(|| self.rounding.unwrap_or_default()),
            weight_decay: self.weight_decay.unwrap_or(algorithm.default_weight_decay()),
            clip: self.clip,
            kappa: self.kappa.filter(|_| algorithm == Algorithm::Fadam),
        };
        let shapes = self.shape.iter();
        Ok(shapes.flat_map(|&shape| self.algorithm.iter().map(move |&a| case(shape, a))).collect())
    }

    /// # Errors
    /// A device that this machine, or this version, lacks.
    pub(crate) fn device(&self) -> Result<Device> {
        Ok(self.device.parse()?)
    }

    /// # Errors
    /// One was asked for, and the device is no GPU.
    pub(crate) fn stream(&self, device: Device) -> Result<Option<Stream>> {
        if self.stream.is_some() && device == Device::Cpu {
            bail!("--stream concerns GPUs, and the device is {device}");
        }
        Ok(self.stream)
    }

    pub(crate) fn simd(&self) -> Simd {
        Simd::best()
    }

    /// # Errors
    /// The system does not say how many there are.
    pub(crate) fn threads(&self) -> Result<usize> {
        Ok(self.threads.map_or_else(std::thread::available_parallelism, Ok)?.get())
    }
}
