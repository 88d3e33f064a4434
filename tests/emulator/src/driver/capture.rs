//! Stream capture: work that is recorded and not queued.

use std::cell::Cell;

use super::Driver;
use super::api::{Handle, Out, api, handle};
use super::errors::{Code, Result};
use super::graph::{Graph, Node};
use super::handle::{self, fresh};
use super::stream::{Joined, Kind, thread};
use super::work::Work;

/// A capture that has begun.
pub(super) struct Capture {
    pub(super) context: u64,
    origin: u64,
    mode: u32,
    /// Where it began.
    thread: u64,
    nodes: Vec<Node>,
    is_valid: bool,
}

/// `CUstreamCaptureMode`.
const GLOBAL: u32 = 0;
const RELAXED: u32 = 2;

/// `CUstreamCaptureStatus`.
const NONE: u32 = 0;
const ACTIVE: u32 = 1;
const INVALIDATED: u32 = 2;

thread_local! {
    /// How this thread's calls that are unsafe in a capture are treated.
    static MODE: Cell<u32> = const { Cell::new(GLOBAL) };
}

impl Driver {
    pub(super) fn invalidate(&mut self, capture: u64) {
        if let Ok(capture) = self.captures.get_mut(capture) {
            capture.is_valid = false;
        }
    }

    /// A capture that goes on.
    pub(super) fn active(&mut self, capture: u64) -> Result<&mut Capture> {
        let capture = self.captures.get_mut(capture)?;
        if capture.is_valid { Ok(capture) } else { Err(Code::STREAM_CAPTURE_INVALIDATED) }
    }

    /// Records work of a stream that captures.
    pub(super) fn capture_node(&mut self, stream: u64, work: Work) -> Result<()> {
        let (id, after) = self.capture_tails(stream)?;
        let capture = self.active(id)?;
        let node = capture.nodes.len();
        capture.nodes.push(Node { id: fresh(handle::Kind::Node), work, after });
        self.streams.get_mut(stream)?.joined = Some(Joined { capture: id, tails: vec![node] });
        Ok(())
    }

    /// The capture of a stream, and the nodes that its next one depends on.
    pub(super) fn capture_tails(&mut self, stream: u64) -> Result<(u64, Vec<usize>)> {
        let joined = self.streams.get(stream)?.joined.as_ref().ok_or(Code::ILLEGAL_STATE)?;
        let (capture, tails) = (joined.capture, joined.tails.clone());
        self.active(capture)?;
        Ok((capture, tails))
    }

    /// A wait for an event that a capture recorded: the stream joins the capture.
    pub(super) fn join_capture(&mut self, stream: u64, capture: u64, nodes: &[usize]) -> Result<()> {
        let Ok(context) = self.captures.get(capture).map(|capture| capture.context) else {
            return Err(Code::CAPTURED_EVENT);
        };
        self.active(capture)?;
        let found = self.streams.get_mut(stream)?;
        if found.kind == Kind::Legacy || found.context != context {
            self.invalidate(capture);
            return Err(Code::STREAM_CAPTURE_UNSUPPORTED);
        }
        match &mut found.joined {
            None => found.joined = Some(Joined { capture, tails: nodes.to_vec() }),
            Some(joined) if joined.capture == capture => {
                joined.tails.extend(nodes);
                joined.tails.sort_unstable();
                joined.tails.dedup();
            }
            Some(joined) => {
                let other = joined.capture;
                self.invalidate(other);
                self.invalidate(capture);
                return Err(Code::STREAM_CAPTURE_MERGE);
            }
        }
        Ok(())
    }

    /// Refuses what a stream that captures does not admit, such as waiting for it.
    pub(super) fn not_capturing(&mut self, stream: u64) -> Result<()> {
        self.legacy_in_capture(stream)?;
        let Some(joined) = &self.streams.get(stream)?.joined else { return Ok(()) };
        let capture = joined.capture;
        self.active(capture)?;
        self.invalidate(capture);
        Err(Code::STREAM_CAPTURE_UNSUPPORTED)
    }

    /// Nodes that allocate and free are not emulated.
    pub(super) fn no_memory_nodes(&mut self, stream: u64) -> Result<()> {
        self.not_capturing(stream).map_err(|code| match code {
            Code::STREAM_CAPTURE_UNSUPPORTED => {
                eprintln!("fadam-emulator: allocating and freeing inside a graph is not emulated");
                Code::NOT_SUPPORTED
            }
            code => code,
        })
    }

    /// The legacy stream waits for blocking streams, so it cannot be used while one of them captures.
    pub(super) fn legacy_in_capture(&mut self, stream: u64) -> Result<()> {
        let capturing = self.captures_before(stream)?;
        if capturing.is_empty() {
            return Ok(());
        }
        capturing.into_iter().for_each(|capture| self.invalidate(capture));
        Err(Code::STREAM_CAPTURE_IMPLICIT)
    }

    /// The captures that the legacy stream would have to wait for; of another stream, none.
    fn captures_before(&self, stream: u64) -> Result<Vec<u64>> {
        let (context, kind) = self.streams.get(stream).map(|stream| (stream.context, stream.kind))?;
        if kind != Kind::Legacy {
            return Ok(Vec::new());
        }
        let blocking =
            self.streams.iter().filter(|(_, s)| s.context == context && s.kind != Kind::NonBlocking);
        Ok(blocking.filter_map(|(_, s)| Some(s.joined.as_ref()?.capture)).collect())
    }

    /// Refuses waiting for a context in which a stream captures.
    pub(super) fn no_capture_in(&mut self, context: u64) -> Result<()> {
        let found = self.captures.iter_mut().filter(|(_, capture)| capture.context == context);
        self_invalidate(found)
    }

    /// Refuses calls that may order work behind the capture's back (`cuThreadExchangeStreamCaptureMode` has the rule).
    pub(super) fn unsafe_in_capture(&mut self) -> Result<()> {
        let (mode, thread) = (MODE.get(), thread());
        let forbids = |capture: &Capture| {
            if capture.thread == thread {
                capture.mode != RELAXED && mode != RELAXED
            } else {
                capture.mode == GLOBAL && mode == GLOBAL
            }
        };
        self_invalidate(self.captures.iter_mut().filter(|(_, capture)| forbids(capture)))
    }

    fn begin_capture(&mut self, stream: u64, mode: u32) -> Result<()> {
        let found = self.streams.get(stream)?;
        if mode > RELAXED {
            return Err(Code::INVALID_VALUE);
        }
        if found.kind == Kind::Legacy {
            return Err(Code::STREAM_CAPTURE_UNSUPPORTED);
        }
        if found.joined.is_some() {
            return Err(Code::ILLEGAL_STATE);
        }
        let capture = Capture {
            context: found.context,
            origin: stream,
            mode,
            thread: thread(),
            nodes: Vec::new(),
            is_valid: true,
        };
        let capture = self.captures.insert(capture);
        self.streams.get_mut(stream)?.joined = Some(Joined { capture, tails: Vec::new() });
        Ok(())
    }

    fn end_capture(&mut self, stream: u64) -> Result<Graph> {
        let joined = self.streams.get(stream)?.joined.as_ref().ok_or(Code::ILLEGAL_STATE)?;
        let (id, tails) = (joined.capture, joined.tails.clone());
        let capture = self.captures.get(id)?;
        if capture.origin != stream {
            self.invalidate(id);
            return Err(Code::STREAM_CAPTURE_UNMATCHED);
        }
        if capture.mode != RELAXED && capture.thread != thread() {
            return Err(Code::STREAM_CAPTURE_WRONG_THREAD);
        }
        let capture = self.captures.remove(id)?;
        for (_, stream) in self.streams.iter_mut() {
            stream.joined.take_if(|joined| joined.capture == id);
        }
        if !capture.is_valid {
            return Err(Code::STREAM_CAPTURE_INVALIDATED);
        }
        let mut has_successor = vec![false; capture.nodes.len()];
        for node in capture.nodes.iter().flat_map(|node| &node.after).chain(&tails) {
            has_successor[*node] = true;
        }
        if has_successor.contains(&false) {
            return Err(Code::STREAM_CAPTURE_UNJOINED);
        }
        Ok(Graph { context: capture.context, nodes: capture.nodes.into() })
    }
}

fn self_invalidate<'a>(captures: impl Iterator<Item = (u64, &'a mut Capture)>) -> Result<()> {
    let mut is_any = false;
    for (_, capture) in captures {
        (capture.is_valid, is_any) = (false, true);
    }
    if is_any { Err(Code::STREAM_CAPTURE_UNSUPPORTED) } else { Ok(()) }
}

api! {
    fn cuStreamIsCapturing(driver, stream: Handle, status: Out<u32>) {
        let stream = driver.stream(stream)?;
        // Only asking: "the blocking stream capture is not invalidated".
        if !driver.captures_before(stream)?.is_empty() {
            return Err(Code::STREAM_CAPTURE_IMPLICIT);
        }
        let Some(joined) = &driver.streams.get(stream)?.joined else { return status.put(NONE) };
        let is_valid = driver.captures.get(joined.capture)?.is_valid;
        status.put(if is_valid { ACTIVE } else { INVALIDATED })
    }
    fn cuStreamBeginCapture_v2(driver, stream: Handle, mode: u32) {
        let stream = driver.stream(stream)?;
        driver.begin_capture(stream, mode)
    }
    fn cuStreamEndCapture(driver, stream: Handle, graph: Out<Handle>) {
        let stream = driver.stream(stream)?;
        graph.put(std::ptr::null_mut())?;
        let ended = driver.end_capture(stream)?;
        graph.put(handle(driver.graphs.insert(ended)))
    }
    fn cuThreadExchangeStreamCaptureMode(_driver, mode: Out<u32>) {
        let wanted = mode.get()?;
        if wanted > RELAXED {
            return Err(Code::INVALID_VALUE);
        }
        mode.put(MODE.replace(wanted))
    }
}
