//! Nodes of a graph: what they are, and leaving some out of a replay.

use std::ffi::c_void;
use std::ptr::null;

use super::Driver;
use super::api::{Handle, Out, api, handle, id};
use super::errors::{Code, Result};
use super::graph::Node;
use super::work::Work;

/// `CUgraphNodeType`.
mod kind {
    pub(super) const KERNEL: u32 = 0;
    pub(super) const MEMCPY: u32 = 1;
    pub(super) const MEMSET: u32 = 2;
    pub(super) const EMPTY: u32 = 5;
    pub(super) const EVENT_RECORD: u32 = 7;
    pub(super) const MEM_ALLOC: u32 = 10;
    pub(super) const MEM_FREE: u32 = 11;
}

/// `CUDA_KERNEL_NODE_PARAMS_v2`.
#[repr(C)]
struct KernelParams {
    function: Handle,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    /// Not kept: the parameters were read when the launch was captured.
    parameters: *const c_void,
    extra: *const c_void,
    kernel: *const c_void,
    context: Handle,
}

impl Node {
    fn kind(&self) -> u32 {
        match self.work {
            Work::Nothing => kind::EMPTY,
            Work::Upload { .. } | Work::Download { .. } | Work::Copy { .. } => kind::MEMCPY,
            Work::Fill { .. } => kind::MEMSET,
            Work::Born { .. } => kind::MEM_ALLOC,
            Work::Free { .. } => kind::MEM_FREE,
            Work::Record { .. } => kind::EVENT_RECORD,
            Work::Launch { .. } => kind::KERNEL,
        }
    }
}

impl Driver {
    /// A node of a graph that has not been destroyed, and the graph's context.
    fn node(&self, node: Handle) -> Result<(u64, &Node)> {
        let mut nodes = self.graphs.iter().flat_map(|(_, g)| g.nodes.iter().map(|node| (g.context, node)));
        nodes.find(|(_, found)| found.id == id(node)).ok_or(Code::INVALID_VALUE)
    }
}

api! {
    fn cuGraphNodeGetType(driver, node: Handle, kind: Out<u32>) {
        kind.put(driver.node(node)?.1.kind())
    }
    fn cuGraphKernelNodeGetParams_v2(driver, node: Handle, parameters: Out<KernelParams>) {
        let (context, node) = driver.node(node)?;
        let Work::Launch { launch, .. } = &node.work else { return Err(Code::INVALID_VALUE) };
        parameters.put(KernelParams {
            function: handle(launch.function),
            grid: launch.grid,
            block: launch.block,
            shared: launch.dynamic_shared as u32,
            parameters: null(),
            extra: null(),
            kernel: null(),
            context: handle(context),
        })
    }
    /// The node is one of the graph that was instantiated.
    fn cuGraphNodeSetEnabled(driver, exec: Handle, node: Handle, enabled: u32) {
        let exec = driver.graph_execs.get_mut(id(exec))?;
        let found = exec.nodes.iter().find(|found| found.id == id(node)).ok_or(Code::INVALID_VALUE)?;
        if !matches!(found.kind(), kind::KERNEL | kind::MEMCPY | kind::MEMSET) {
            return Err(Code::INVALID_VALUE);
        }
        if enabled == 0 { exec.disabled.insert(found.id) } else { exec.disabled.remove(&found.id) };
        Ok(())
    }
}
