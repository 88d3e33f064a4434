//! One queued operation: what it holds, and how it runs.

use std::sync::Arc;
use std::time::Instant;

use crate::exec::{self, Counts, Fault, FaultKind, Launch};
use crate::memory::MemoryError;
use crate::ptx;

use super::Driver;
use super::errors::{Code, Result, name};
use super::host::HostRange;
use super::queue::{Op, OpId};

/// What to do.
#[derive(Clone)]
pub(super) enum Work {
    /// A place to wait.
    Nothing,
    /// Host to device.
    Upload {
        to: u64,
        from: Source,
    },
    /// Device to host.
    Download {
        from: u64,
        to: HostRange,
    },
    Copy {
        to: u64,
        from: u64,
        len: usize,
    },
    Fill {
        at: u64,
        value: u8,
        len: usize,
    },
    /// A stream-ordered allocation begins to exist.
    Born {
        address: u64,
    },
    Free {
        address: u64,
    },
    Record {
        event: u64,
    },
    Launch {
        launch: Arc<Prepared>,
        /// Only these blocks.
        blocks: Option<(u64, u64)>,
    },
}

/// Where the bytes of an upload are.
#[derive(Clone)]
pub(super) enum Source {
    /// Staged when the call was made.
    Staged(Arc<[u8]>),
    /// Read when the copy runs.
    Host(HostRange),
}

/// A launch whose parameters were read.
pub(super) struct Prepared {
    /// The function's handle.
    pub(super) function: u64,
    pub(super) module_id: u64,
    pub(super) module: Arc<ptx::Module>,
    /// Index into the module's kernels.
    pub(super) kernel: usize,
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 3],
    pub(super) dynamic_shared: usize,
    pub(super) parameters: Vec<u8>,
}

/// Why an operation failed: the code and the whole text.
pub(super) type Failed = (Code, String);

fn of_fault(fault: &Fault) -> Code {
    match fault.kind {
        FaultKind::OutOfBounds | FaultKind::UseAfterFree => Code::ILLEGAL_ADDRESS,
        FaultKind::Misaligned => Code::MISALIGNED_ADDRESS,
        _ => Code::LAUNCH_FAILED,
    }
}

fn of_memory(what: &str, error: &MemoryError) -> Failed {
    let code = match error {
        MemoryError::OutOfBounds { .. } | MemoryError::UseAfterFree { .. } | MemoryError::BadFree { .. } => {
            Code::ILLEGAL_ADDRESS
        }
        MemoryError::Uninitialised { .. } => Code::LAUNCH_FAILED,
    };
    (code, format!("{what}: {error}"))
}

/// Copies between devices go through the host in pieces of this many bytes.
const PIECE: usize = 64 << 20;

impl Driver {
    /// Runs queued work until these operations have run.
    pub(super) fn finish(&mut self, targets: &[OpId]) {
        let needed = self.queue.needed(targets);
        let strangers = self.queue.strangers();
        while let Some(op) = self.queue.take(&needed, strangers) {
            self.execute(op);
        }
    }

    /// Runs one operation towards these, if they have not run: what polling achieves.
    pub(super) fn advance(&mut self, targets: &[OpId]) {
        let needed = self.queue.needed(targets);
        let strangers = self.queue.strangers();
        if let Some(op) = self.queue.take(&needed, strangers) {
            self.execute(op);
        }
    }

    fn execute(&mut self, op: Op) {
        let Ok(context) = self.contexts.get(op.context) else { return };
        let device = context.device;
        if let Err((code, text)) = self.perform(op.id, device, op.work) {
            self.kill(op.context, code, text);
        }
    }

    /// A context's end by an asynchronous error.
    pub(super) fn kill(&mut self, context: u64, code: Code, text: String) {
        let device = self.contexts.get(context).map_or(0, |context| context.device);
        eprintln!("fadam-emulator: cuda:{device}: {}: {text}", name(code.0));
        self.last_fault = text;
        if let Ok(context) = self.contexts.get_mut(context) {
            context.error = Some(code);
        }
        self.queue.discard(context);
    }

    fn perform(&mut self, id: OpId, device: usize, work: Work) -> std::result::Result<(), Failed> {
        match work {
            Work::Nothing => {}
            Work::Upload { to, from } => {
                self.must_be_born("upload to", to)?;
                let bytes = match from {
                    Source::Staged(bytes) => bytes,
                    Source::Host(range) => self.read_host(range)?,
                };
                self.devices[device].memory.write(to, &bytes).map_err(|e| of_memory("upload", &e))?;
            }
            Work::Download { from, to } => {
                self.must_be_born("download from", from)?;
                let mut bytes = vec![0; to.len];
                self.devices[device].memory.read(from, &mut bytes).map_err(|e| of_memory("download", &e))?;
                self.write_host(to, &bytes)?;
            }
            Work::Copy { to, from, len } => self.copy(device, to, from, len)?,
            Work::Fill { at, value, len } => {
                self.must_be_born("memset of", at)?;
                self.devices[device].memory.fill(at, value, len).map_err(|e| of_memory("memset", &e))?;
            }
            Work::Born { address } => {
                if let Some(allocation) = self.allocations.get_mut(&address) {
                    allocation.is_born = true;
                }
            }
            Work::Free { address } => {
                self.allocations.remove(&address);
                self.devices[device].memory.free(address).map_err(|e| of_memory("free", &e))?;
            }
            Work::Record { event } => {
                if let Ok(event) = self.events.get_mut(event)
                    && event.last == Some(id)
                {
                    event.time = Some(Instant::now());
                }
            }
            Work::Launch { launch, blocks } => self.launch(device, &launch, blocks)?,
        }
        Ok(())
    }

    /// Both addresses may be of another device than the stream's.
    fn copy(&mut self, device: usize, to: u64, from: u64, len: usize) -> std::result::Result<(), Failed> {
        self.must_be_born("copy to", to)?;
        self.must_be_born("copy from", from)?;
        let (source, target) = (self.device_at(from).unwrap_or(device), self.device_at(to).unwrap_or(device));
        let mut bytes = vec![0; len.min(PIECE)];
        for at in (0..len).step_by(PIECE) {
            let piece = &mut bytes[..PIECE.min(len - at)];
            let (from, to) = (from + at as u64, to + at as u64);
            self.devices[source].memory.read(from, piece).map_err(|e| of_memory("copy", &e))?;
            self.devices[target].memory.write(to, piece).map_err(|e| of_memory("copy", &e))?;
        }
        Ok(())
    }

    /// Memory of `cuMemAllocAsync` exists from its place in its stream on.
    fn must_be_born(&self, what: &str, address: u64) -> std::result::Result<(), Failed> {
        match self.allocation_at(address) {
            Some((start, allocation)) if !allocation.is_born => Err((
                Code::ILLEGAL_ADDRESS,
                format!(
                    "{what} {address:#x}: the stream-ordered allocation at {start:#x} has not executed yet; \
                     nothing orders this stream after it"
                ),
            )),
            _ => Ok(()),
        }
    }

    fn launch(
        &mut self,
        device: usize,
        launch: &Prepared,
        blocks: Option<(u64, u64)>,
    ) -> std::result::Result<(), Failed> {
        let kernel = &launch.module.kernels[launch.kernel];
        if self.modules.get(launch.module_id).is_err() {
            return Err((Code::LAUNCH_FAILED, format!("launch of {}: its module was unloaded", kernel.name)));
        }
        // Parameters, or members of structs, that are addresses of memory which does not exist yet.
        for word in launch.parameters.as_chunks().0 {
            self.must_be_born(&format!("launch of {} with", kernel.name), u64::from_le_bytes(*word))?;
        }
        let seed = self.queue.draw();
        let counts = exec::run(
            &mut self.devices[device].memory,
            &Launch {
                module: &launch.module,
                kernel,
                grid: launch.grid,
                block: launch.block,
                dynamic_shared: launch.dynamic_shared,
                parameters: &launch.parameters,
                seed,
                blocks,
            },
        )
        .map_err(|fault| (of_fault(&fault), fault.to_string()))?;
        let (launches, total) = self.launches.entry(kernel.name.clone()).or_default();
        *launches += 1;
        add(total, &counts);
        Ok(())
    }

    /// Waits on the host for these operations of the current context.
    pub(super) fn synchronize(&mut self, context: u64, targets: &[OpId]) -> Result<()> {
        self.syncs += 1;
        self.finish(targets);
        self.healthy(context)
    }
}

fn add(total: &mut Counts, counts: &Counts) {
    total.blocks += counts.blocks;
    total.instructions += counts.instructions;
    total.bytes_read += counts.bytes_read;
    total.bytes_written += counts.bytes_written;
    total.requests_read += counts.requests_read;
    total.requests_written += counts.requests_written;
    total.sectors_read += counts.sectors_read;
    total.sectors_written += counts.sectors_written;
}
