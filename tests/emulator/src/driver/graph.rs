//! Graphs: captured work, and its replay.

use std::collections::HashSet;
use std::sync::Arc;

use super::Driver;
use super::api::{Handle, Out, api, handle, id};
use super::errors::{Code, Result};
use super::handle::{Kind, fresh};
use super::queue::OpId;
use super::work::Work;

/// A captured operation.
pub(super) struct Node {
    pub(super) id: u64,
    pub(super) work: Work,
    /// Nodes before it.
    pub(super) after: Vec<usize>,
}

/// A graph.
pub(super) struct Graph {
    pub(super) context: u64,
    pub(super) nodes: Arc<[Node]>,
}

/// An instantiated graph.
pub(super) struct GraphExec {
    pub(super) context: u64,
    pub(super) nodes: Arc<[Node]>,
    /// Nodes that a launch leaves out.
    pub(super) disabled: HashSet<u64>,
    /// The end of its last launch: launches of one instance do not overlap.
    last: Option<OpId>,
}

/// `CUgraphInstantiate_flags`: those that change nothing here, and launching from the device.
const HARMLESS: u64 = 1 | 2 | 8;
const AUTO_FREE_ON_LAUNCH: u64 = 1;
const DEVICE_LAUNCH: u64 = 4;

impl Driver {
    fn instantiate(&mut self, graph: Handle, flags: u64) -> Result<u64> {
        self.current()?;
        let graph = self.graphs.get(id(graph))?;
        if flags & !(HARMLESS | DEVICE_LAUNCH) != 0 || flags & 5 == AUTO_FREE_ON_LAUNCH | DEVICE_LAUNCH {
            return Err(Code::INVALID_VALUE);
        }
        if flags & DEVICE_LAUNCH != 0 {
            return Err(Code::NOT_SUPPORTED);
        }
        let exec = GraphExec {
            context: graph.context,
            nodes: Arc::clone(&graph.nodes),
            disabled: HashSet::new(),
            last: None,
        };
        Ok(self.graph_execs.insert(exec))
    }

    /// Each node gets a line of its own between a fork and a join on the stream.
    fn launch_graph(&mut self, exec: u64, stream: u64) -> Result<()> {
        self.legacy_in_capture(stream)?;
        if self.streams.get(stream)?.joined.is_some() {
            eprintln!("fadam-emulator: a graph launched inside a capture is not emulated");
            return Err(Code::NOT_SUPPORTED);
        }
        let found = self.graph_execs.get(exec)?;
        let (context, nodes, last) = (found.context, Arc::clone(&found.nodes), found.last);
        let disabled = found.disabled.clone();
        if self.streams.get(stream)?.context != context {
            return Err(Code::INVALID_HANDLE);
        }
        let fork = self.enqueue(stream, last.into_iter().collect(), Work::Nothing)?;
        let mut ops = Vec::with_capacity(nodes.len());
        for node in nodes.iter() {
            let mut after: Vec<OpId> = node.after.iter().map(|node| ops[*node]).collect();
            after.push(fork);
            let mut work = if disabled.contains(&node.id) { Work::Nothing } else { node.work.clone() };
            if let Work::Launch { blocks, .. } = &mut work {
                *blocks = self.blocks;
            }
            ops.push(self.queue.push(context, fresh(Kind::Line), after, work));
        }
        let join = self.enqueue(stream, ops, Work::Nothing)?;
        self.graph_execs.get_mut(exec)?.last = Some(join);
        Ok(())
    }
}

api! {
    fn cuGraphInstantiateWithFlags(driver, exec: Out<Handle>, graph: Handle, flags: u64) {
        exec.put(handle(driver.instantiate(graph, flags)?))
    }
    fn cuGraphLaunch(driver, exec: Handle, stream: Handle) {
        let stream = driver.stream(stream)?;
        driver.launch_graph(id(exec), stream)
    }
    fn cuGraphUpload(driver, exec: Handle, stream: Handle) {
        driver.stream(stream)?;
        driver.graph_execs.get(id(exec)).map(drop)
    }
    fn cuGraphExecDestroy(driver, exec: Handle) {
        driver.graph_execs.remove(id(exec)).map(drop)
    }
    fn cuGraphDestroy(driver, graph: Handle) {
        driver.graphs.remove(id(graph)).map(drop)
    }
    fn cuGraphGetNodes(driver, graph: Handle, nodes: Out<Handle>, count: Out<usize>) {
        let found = driver.graphs.get(id(graph))?;
        let len = found.nodes.len();
        if nodes.is_null() {
            return count.put(len);
        }
        let room = count.get()?;
        let handles: Vec<Handle> = found.nodes.iter().take(room).map(|node| handle(node.id)).collect();
        nodes.put_array(&handles);
        count.put(handles.len())
    }
}
