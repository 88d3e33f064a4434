//! The C functions.
//!
//! ```text
//! api       the way in: macro, lock, pointers       errors, inject, config, handle, random: what it rests on
//! device, context, stream, event                    objects
//! memory, host, copy                                device memory, pinned memory, transfers
//! image, module, function, launch                   code
//! queue     what is queued, and in which order it may run      work: one queued operation
//! capture, graph                                    CUDA graphs
//! control   what tests ask beyond CUDA              symbols, unsupported: the rest of the C API
//! ```
//!
//! One lock guards everything ([`lock`]); queued work runs under it, in the thread that synchronises.

#![allow(non_snake_case, reason = "names that the C API gives")]

mod api;
mod capture;
mod config;
mod context;
mod control;
mod copy;
mod device;
mod errors;
mod event;
mod function;
mod graph;
mod handle;
mod host;
mod image;
mod inject;
mod launch;
mod memory;
mod module;
mod node;
mod queue;
mod random;
mod stream;
mod symbols;
mod unsupported;
mod work;

use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use crate::exec::Counts;

use handle::{Kind, Table};

/// Everything that a process has of the driver.
struct Driver {
    config: config::Config,
    initialised: bool,
    devices: Vec<device::Device>,
    contexts: Table<context::Context>,
    streams: Table<stream::Stream>,
    events: Table<event::Event>,
    modules: Table<module::Module>,
    functions: Table<function::Function>,
    captures: Table<capture::Capture>,
    graphs: Table<graph::Graph>,
    graph_execs: Table<graph::GraphExec>,
    /// By address; a stream-ordered free removes its entry when it executes.
    allocations: BTreeMap<u64, memory::Allocation>,
    /// By address.
    pinned: BTreeMap<u64, host::Pinned>,
    queue: queue::Queue,
    calls: inject::Calls,
    /// Launches and their counts by kernel name.
    launches: BTreeMap<String, (u64, Counts)>,
    /// Host synchronisations.
    syncs: u64,
    /// Blocks that later launches execute, from the first to before the second. `None`: all.
    blocks: Option<(u64, u64)>,
    last_fault: String,
    leaks: String,
}

impl Driver {
    fn new() -> Self {
        let config = config::Config::from_environment();
        let seed = config.seed;
        Self {
            config,
            initialised: false,
            devices: Vec::new(),
            contexts: Table::new(Kind::Context),
            streams: Table::new(Kind::Stream),
            events: Table::new(Kind::Event),
            modules: Table::new(Kind::Module),
            functions: Table::new(Kind::Function),
            captures: Table::new(Kind::Capture),
            graphs: Table::new(Kind::Graph),
            graph_execs: Table::new(Kind::GraphExec),
            allocations: BTreeMap::new(),
            pinned: BTreeMap::new(),
            queue: queue::Queue::new(seed),
            calls: inject::Calls::new(),
            launches: BTreeMap::new(),
            syncs: 0,
            blocks: None,
            last_fault: String::new(),
            leaks: String::new(),
        }
    }
}

/// The driver. A panic under the lock is a bug that was reported; the state is still the best there is.
fn lock() -> MutexGuard<'static, Driver> {
    static DRIVER: LazyLock<Mutex<Driver>> = LazyLock::new(|| Mutex::new(Driver::new()));
    DRIVER.lock().unwrap_or_else(PoisonError::into_inner)
}
