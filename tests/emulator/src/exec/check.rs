//! Whether a launch is one that the kernel admits.

use super::{Fault, FaultKind, Launch};

/// Limits of every device that the library supports.
const MAX_THREADS: u64 = 1024;
const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];
const MAX_GRID: [u32; 3] = [i32::MAX as u32, 65535, 65535];
const MAX_STATIC_SHARED: usize = 48 << 10;
const MAX_SHARED: usize = 227 << 10;

pub(super) fn launch(launch: &Launch<'_>) -> Result<(), Fault> {
    match wrong(launch) {
        None => Ok(()),
        Some(detail) => Err(Fault {
            kind: FaultKind::Launch,
            kernel: launch.kernel.name.clone(),
            line: 0,
            block: [0; 3],
            thread: [0; 3],
            detail,
        }),
    }
}

fn wrong(launch: &Launch<'_>) -> Option<String> {
    let Launch { kernel, grid, block, .. } = launch;
    let code = &kernel.code;
    let threads: u64 = block.iter().map(|n| u64::from(*n)).product();
    let within =
        |size: &[u32; 3], max: &[u32; 3]| size.iter().zip(max).all(|(n, max)| (1..=*max).contains(n));
    if !within(block, &MAX_BLOCK) || threads > MAX_THREADS {
        return Some(format!("a block of {block:?} threads"));
    }
    if !within(grid, &MAX_GRID) {
        return Some(format!("a grid of {grid:?} blocks"));
    }
    if code.exact_threads.is_some_and(|exact| exact != *block) {
        return Some(format!("a block of {block:?} threads; the kernel requires {:?}", code.exact_threads));
    }
    if threads > u64::from(kernel.max_threads()) {
        return Some(format!("{threads} threads in a block; the kernel admits {}", kernel.max_threads()));
    }
    if launch.parameters.len() < code.parameter_bytes {
        let (given, wanted) = (launch.parameters.len(), code.parameter_bytes);
        return Some(format!("{given} bytes of parameters; the kernel takes {wanted}"));
    }
    if kernel.static_shared > MAX_STATIC_SHARED || kernel.static_shared + launch.dynamic_shared > MAX_SHARED {
        let (fixed, dynamic) = (kernel.static_shared, launch.dynamic_shared);
        return Some(format!("{fixed} and {dynamic} bytes of shared memory"));
    }
    None
}
