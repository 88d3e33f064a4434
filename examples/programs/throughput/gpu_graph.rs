//! A step captured into a graph: its replay, and each of its kernels alone, which needs no profiler.

use crate::gpu_step::Step;
use anyhow::{Context, Result};
use fadam::cuda::cudarc::driver::sys::{self, CUgraphInstantiate_flags, CUgraphNode, CUgraphNodeType};
use fadam::cuda::cudarc::driver::sys::{CUDA_KERNEL_NODE_PARAMS_v2, CUstreamCaptureMode};
use fadam::cuda::cudarc::driver::{CudaGraph, DriverError};
use std::ffi::{CStr, c_char};
use std::mem::zeroed;
use std::ptr::{null, null_mut};

pub(crate) struct Graph {
    graph: CudaGraph,
    /// Kernels and copies, in the order of the capture.
    nodes: Vec<Node>,
}

struct Node {
    node: CUgraphNode,
    /// Of a kernel.
    name: Option<String>,
}

impl Graph {
    /// The step has run once: what it uploads is on the device.
    ///
    /// # Errors
    /// The driver's, or a library that cannot be captured.
    pub(crate) fn capture(step: &mut Step) -> Result<Self> {
        let stream = step.stream.clone();
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
        let captured = step.run();
        let graph = stream.end_capture(CUgraphInstantiate_flags(0));
        captured?;
        let graph = graph?.context("a step that does nothing cannot be replayed")?;
        let nodes = nodes(&graph).context("cannot list the nodes of a graph")?;
        Ok(Self { graph, nodes })
    }

    /// # Errors
    /// The driver's.
    pub(crate) fn replay(&self) -> Result<()> {
        self.graph.launch().context("cannot replay the step")
    }

    pub(crate) fn kernels(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().filter_map(|node| node.name.as_deref())
    }

    /// Leaves only this kernel, by its place among the kernels, in the following replays; `None` leaves nothing out.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) fn only(&self, kernel: Option<usize>) -> Result<()> {
        let mut index = 0;
        for node in &self.nodes {
            let this = node.name.is_some() && kernel == Some(index);
            index += usize::from(node.name.is_some());
            let enabled = u32::from(kernel.is_none() || this);
            // SAFETY: a graph that lives, and a node of it.
            let code = unsafe { sys::cuGraphNodeSetEnabled(self.graph.cu_graph_exec(), node.node, enabled) };
            code.result().context("cannot leave a kernel out of a graph")?;
        }
        Ok(())
    }
}

/// What can be left out of a replay: kernels, copies and fills.
fn nodes(graph: &CudaGraph) -> Result<Vec<Node>, DriverError> {
    let mut count = 0;
    // SAFETY: a graph that lives; without a place for nodes only their number is written.
    unsafe { sys::cuGraphGetNodes(graph.cu_graph(), null_mut(), &raw mut count) }.result()?;
    let mut handles = vec![null_mut(); count];
    // SAFETY: there is room for `count` nodes.
    unsafe { sys::cuGraphGetNodes(graph.cu_graph(), handles.as_mut_ptr(), &raw mut count) }.result()?;
    let mut nodes = Vec::new();
    for node in handles {
        let mut kind = CUgraphNodeType::CU_GRAPH_NODE_TYPE_EMPTY;
        // SAFETY: a node of a graph that lives.
        unsafe { sys::cuGraphNodeGetType(node, &raw mut kind) }.result()?;
        match kind {
            CUgraphNodeType::CU_GRAPH_NODE_TYPE_KERNEL => nodes.push(Node { node, name: Some(name(node)?) }),
            CUgraphNodeType::CU_GRAPH_NODE_TYPE_MEMCPY | CUgraphNodeType::CU_GRAPH_NODE_TYPE_MEMSET => {
                nodes.push(Node { node, name: None });
            }
            _ => {}
        }
    }
    Ok(nodes)
}

fn name(kernel: CUgraphNode) -> Result<String, DriverError> {
    // SAFETY: a C struct of integers and pointers, for which zeros are a value.
    let mut parameters: CUDA_KERNEL_NODE_PARAMS_v2 = unsafe { zeroed() };
    // SAFETY: a kernel's node of a graph that lives.
    unsafe { sys::cuGraphKernelNodeGetParams_v2(kernel, &raw mut parameters) }.result()?;
    let mut name: *const c_char = null();
    // SAFETY: the function of a module that the optimizer keeps loaded.
    unsafe { sys::cuFuncGetName(&raw mut name, parameters.func) }.result()?;
    // SAFETY: the driver's string, which lives as long as the function.
    Ok(unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
}
