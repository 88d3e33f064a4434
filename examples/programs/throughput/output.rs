//! The table, or one JSON object a line.

use crate::case::Case;
use crate::gpu;
use crate::measure::Measured;
use crate::options::Stream;
use anyhow::Result;
use fadam::{Device, Simd};
use serde::Serialize;
use std::io::{Write, stdout};

/// Where the cases run.
pub(crate) struct Machine {
    pub(crate) device: Device,
    /// On a GPU, if one was asked for.
    pub(crate) stream: Option<Stream>,
    pub(crate) simd: Simd,
    pub(crate) threads: usize,
}

pub(crate) struct Output<'a> {
    json: bool,
    machine: &'a Machine,
    busy: bool,
}

#[derive(Serialize)]
struct Row {
    algorithm: String,
    shape: String,
    param: String,
    grad: String,
    master: Option<String>,
    moments: String,
    rounding: Option<String>,
    weight_decay: f64,
    kappa: Option<f64>,
    clip: bool,
    threads: usize,
    device: String,
    params: usize,
    tensors: usize,
    bytes_per_param: usize,
    median_ms: f64,
    gb_per_s: f64,
    ceiling_gb_per_s: f64,
    share: f64,
    #[serde(flatten)]
    on_gpu: Option<GpuRow>,
}

/// What `--stream` adds.
#[derive(Serialize)]
struct GpuRow {
    stream: Stream,
    host_us: f64,
    kernels: Option<Vec<KernelRow>>,
}

#[derive(Serialize)]
struct KernelRow {
    name: String,
    us: f64,
}

impl<'a> Output<'a> {
    /// Prints what stands above the rows.
    ///
    /// # Errors
    /// Standard output is closed.
    pub(crate) fn new(json: bool, machine: &'a Machine, cases: &[Case]) -> Result<Self> {
        if !json {
            let Machine { device, stream, simd, threads } = machine;
            let plural = if *threads == 1 { "" } else { "s" };
            let mut out = stdout().lock();
            match gpu::describe(*device)? {
                Some(gpu) => {
                    let stream = match stream {
                        None | Some(Stream::Default) => "",
                        Some(Stream::Own) => ", a stream of its own",
                        Some(Stream::Graph) => ", replayed graphs",
                    };
                    writeln!(out, "device {gpu}{stream}")?;
                }
                None => writeln!(out, "device {device}, {simd}, {threads} thread{plural}")?,
            }
            if let Some(case) = cases.first() {
                let checks =
                    if case.clip { "gradients clipped and checked" } else { "no clipping, no check" };
                let master = case.master.map_or(String::new(), |name| format!(" with master {name}"));
                let rounding = case.rounding.map_or(String::new(), |name| format!(" rounded {name}"));
                let Case { param, grad, moments, .. } = case;
                writeln!(out, "param {param}{master}, grad {grad}, moments {moments}{rounding}, {checks}")?;
            }
            writeln!(
                out,
                "{:<12} {:>9} {:>6} {:>6} {:>10} {:>7} {:>9} {:>10} {:>8} {:>8} {:>6}",
                "algorithm",
                "shape",
                "decay",
                "kappa",
                "parameters",
                "tensors",
                "B/param",
                "median ms",
                "GB/s",
                "ceiling",
                "share"
            )?;
        }
        Ok(Self { json, machine, busy: false })
    }

    /// # Errors
    /// Standard output is closed.
    pub(crate) fn row(&mut self, case: &Case, measured: &Measured) -> Result<()> {
        let row = self.join(case, measured);
        let mut out = stdout().lock();
        if self.json {
            writeln!(out, "{}", serde_json::to_string(&row)?)?;
        } else {
            writeln!(
                out,
                "{:<12} {:>9} {:>6} {:>6} {:>10} {:>7} {:>9} {:>10.4} {:>8.1} {:>8.1} {:>6.3}{}",
                row.algorithm,
                row.shape,
                row.weight_decay,
                row.kappa.map_or("-".into(), |kappa| kappa.to_string()),
                row.params,
                row.tensors,
                row.bytes_per_param,
                row.median_ms,
                row.gb_per_s,
                row.ceiling_gb_per_s,
                row.share,
                if measured.busy() { " *" } else { "" }
            )?;
            if let Some(GpuRow { host_us, kernels, .. }) = &row.on_gpu {
                write!(out, "  host {host_us:.1} us a step")?;
                for KernelRow { name, us } in kernels.iter().flatten() {
                    write!(out, ", {name} {us:.1} us")?;
                }
                writeln!(out)?;
            }
            self.busy |= measured.busy();
        }
        Ok(out.flush()?)
    }

    /// Prints what stands below the rows.
    ///
    /// # Errors
    /// Standard output is closed.
    pub(crate) fn end(self) -> Result<()> {
        if !self.json {
            let mut out = stdout().lock();
            writeln!(
                out,
                "ceiling in GB/s: the same reads and writes without arithmetic, timed in turns with the step"
            )?;
            writeln!(
                out,
                "share: ceiling's time / step's time, median over rounds; above 1 where caches save traffic"
            )?;
            if self.busy {
                writeln!(out, "* the machine was busy with other programs: measure again")?;
            }
        }
        Ok(())
    }

    fn join(&self, case: &Case, measured: &Measured) -> Row {
        Row {
            algorithm: case.algorithm.to_string(),
            shape: case.shape.to_string(),
            param: case.param.to_string(),
            grad: case.grad.to_string(),
            master: case.master.map(|master| master.to_string()),
            moments: case.moments.to_string(),
            rounding: case.rounding.map(|rounding| rounding.to_string()),
            weight_decay: case.weight_decay,
            kappa: case.kappa,
            clip: case.clip,
            threads: self.machine.threads,
            device: self.machine.device.to_string(),
            params: measured.params,
            tensors: measured.tensors,
            bytes_per_param: measured.bytes_per_param,
            median_ms: measured.milliseconds(),
            gb_per_s: measured.gb_per_s(),
            ceiling_gb_per_s: measured.ceiling_gb_per_s(),
            share: measured.share(),
            on_gpu: self.machine.stream.zip(measured.on_gpu.as_ref()).map(|(stream, on_gpu)| GpuRow {
                stream,
                host_us: on_gpu.host * 1e6,
                kernels: on_gpu.kernels.as_ref().map(|kernels| {
                    kernels
                        .iter()
                        .map(|(name, time)| KernelRow { name: name.clone(), us: time * 1e6 })
                        .collect()
                }),
            }),
        }
    }
}
