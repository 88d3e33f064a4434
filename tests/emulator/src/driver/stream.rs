//! Streams, and how work enters the queue.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Driver;
use super::api::{Handle, Out, api, handle, id};
use super::errors::{Code, Result};
use super::queue::OpId;
use super::work::Work;

/// A stream. Its queued work outlives it.
pub(super) struct Stream {
    pub(super) context: u64,
    pub(super) kind: Kind,
    priority: i32,
    /// What it is part of while it captures.
    pub(super) joined: Option<Joined>,
}

/// How a stream stands to the legacy default stream.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Legacy,
    /// The default stream of one thread; blocking.
    PerThread(u64),
    Blocking,
    NonBlocking,
}

/// A stream's part in a capture.
pub(super) struct Joined {
    pub(super) capture: u64,
    /// Nodes that the stream's next node depends on.
    pub(super) tails: Vec<usize>,
}

impl Stream {
    fn new(context: u64, kind: Kind, priority: i32) -> Self {
        Self { context, kind, priority, joined: None }
    }

    pub(super) fn legacy(context: u64) -> Self {
        Self::new(context, Kind::Legacy, 0)
    }

    /// Whether a program made it, and has to destroy it.
    pub(super) fn is_owned(&self) -> bool {
        matches!(self.kind, Kind::Blocking | Kind::NonBlocking)
    }
}

/// A number for this thread.
pub(super) fn thread() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    thread_local! {
        static THREAD: u64 = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    THREAD.with(|thread| *thread)
}

/// `CU_STREAM_LEGACY` and `CU_STREAM_PER_THREAD`.
const LEGACY: u64 = 1;
const PER_THREAD: u64 = 2;
/// `CU_STREAM_NON_BLOCKING`.
const NON_BLOCKING: u32 = 1;

impl Driver {
    /// The stream that a handle means. Some context must be current, and only the default streams are that one's: copies,
    /// waits and synchronisations admit streams of other contexts (CUDA C Programming Guide, "Stream and Event Behavior").
    pub(super) fn stream(&mut self, stream: Handle) -> Result<u64> {
        let current = self.current_or_dead()?;
        let stream = match id(stream) {
            0 | LEGACY => self.contexts.get(current)?.legacy,
            PER_THREAD => self.per_thread_stream(current),
            id => id,
        };
        self.healthy(self.streams.get(stream)?.context)?;
        Ok(stream)
    }

    fn per_thread_stream(&mut self, context: u64) -> u64 {
        let kind = Kind::PerThread(thread());
        let found = self.streams.iter().find(|(_, s)| s.context == context && s.kind == kind);
        match found.map(|(id, _)| id) {
            Some(id) => id,
            None => self.streams.insert(Stream::new(context, kind, 0)),
        }
    }

    /// Puts work on a stream, or into the graph that it captures.
    pub(super) fn submit(&mut self, stream: u64, work: Work) -> Result<()> {
        self.legacy_in_capture(stream)?;
        if self.streams.get(stream)?.joined.is_some() {
            return self.capture_node(stream, work);
        }
        self.enqueue(stream, Vec::new(), work).map(drop)
    }

    /// Puts work on a stream that does not capture, behind these operations as well.
    pub(super) fn enqueue(&mut self, stream: u64, mut after: Vec<OpId>, work: Work) -> Result<OpId> {
        let Stream { context, kind, .. } = *self.streams.get(stream)?;
        match kind {
            Kind::NonBlocking => {}
            Kind::Legacy => {
                let blocking = self.streams.iter().filter(|(_, s)| {
                    s.context == context && matches!(s.kind, Kind::Blocking | Kind::PerThread(_))
                });
                after.extend(blocking.filter_map(|(id, _)| self.queue.tail(id)));
            }
            Kind::Blocking | Kind::PerThread(_) => {
                let legacy = self.contexts.get(context)?.legacy;
                after.extend(self.queue.tail(legacy));
            }
        }
        Ok(self.queue.push(context, stream, after, work))
    }

    /// Waits on the host for a stream.
    pub(super) fn synchronize_stream(&mut self, stream: u64) -> Result<()> {
        let context = self.streams.get(stream)?.context;
        let tail = self.stream_tail(stream)?;
        self.synchronize(context, &tail)
    }

    /// What must run for a stream to be idle: for the legacy stream, its blocking streams too.
    fn stream_tail(&mut self, stream: u64) -> Result<Vec<OpId>> {
        let Stream { context, kind, .. } = *self.streams.get(stream)?;
        let blocking =
            |s: &Stream| s.context == context && matches!(s.kind, Kind::Blocking | Kind::PerThread(_));
        let mut lines = vec![stream];
        match kind {
            Kind::Legacy => lines.extend(self.streams.iter().filter(|(_, s)| blocking(s)).map(|(id, _)| id)),
            Kind::Blocking | Kind::PerThread(_) | Kind::NonBlocking => {}
        }
        Ok(lines.into_iter().filter_map(|line| self.queue.tail(line)).collect())
    }

    fn create_stream(&mut self, flags: u32, priority: i32) -> Result<u64> {
        let context = self.current()?;
        let kind = match flags {
            0 => Kind::Blocking,
            NON_BLOCKING => Kind::NonBlocking,
            _ => return Err(Code::INVALID_VALUE),
        };
        Ok(self.streams.insert(Stream::new(context, kind, priority)))
    }
}

api! {
    fn cuStreamCreate(driver, stream: Out<Handle>, flags: u32) {
        stream.put(handle(driver.create_stream(flags, 0)?))
    }
    fn cuStreamCreateWithPriority(driver, stream: Out<Handle>, flags: u32, priority: i32) {
        stream.put(handle(driver.create_stream(flags, priority.clamp(-5, 0))?))
    }
    fn cuStreamGetPriority(driver, stream: Handle, priority: Out<i32>) {
        let stream = driver.stream(stream)?;
        priority.put(driver.streams.get(stream)?.priority)
    }
    fn cuStreamDestroy_v2(driver, stream: Handle) {
        driver.current_or_dead()?;
        let stream = id(stream);
        let found = driver.streams.get(stream)?;
        let context = found.context;
        let answer = driver.healthy(context);
        if !found.is_owned() {
            return Err(Code::INVALID_HANDLE);
        }
        if let Some(joined) = &found.joined {
            let capture = joined.capture;
            driver.invalidate(capture);
        }
        if found_is_blocking(driver, stream)
            && let Some(tail) = driver.queue.tail(stream)
        {
            // The default stream waits for what a destroyed blocking stream still has to do.
            let legacy = driver.contexts.get(context)?.legacy;
            driver.enqueue(legacy, vec![tail], Work::Nothing)?;
        }
        driver.streams.remove(stream)?;
        answer
    }
    fn cuStreamSynchronize(driver, stream: Handle) {
        let stream = driver.stream(stream)?;
        driver.not_capturing(stream)?;
        driver.synchronize_stream(stream)
    }
    fn cuStreamQuery(driver, stream: Handle) {
        let stream = driver.stream(stream)?;
        driver.not_capturing(stream)?;
        let tail = driver.stream_tail(stream)?;
        driver.poll(&tail)
    }
    fn cuStreamWaitEvent(driver, stream: Handle, event: Handle, flags: u32) {
        let stream = driver.stream(stream)?;
        driver.wait(stream, id(event), flags)
    }
    fn cuStreamGetCtx(driver, stream: Handle, context: Out<Handle>) {
        let of = match id(stream) {
            0..=PER_THREAD => driver.current()?,
            id => driver.streams.get(id)?.context,
        };
        context.put(handle(of))
    }
    fn cuStreamGetFlags(driver, stream: Handle, flags: Out<u32>) {
        let stream = driver.stream(stream)?;
        flags.put(u32::from(driver.streams.get(stream)?.kind == Kind::NonBlocking))
    }
}

fn found_is_blocking(driver: &Driver, stream: u64) -> bool {
    driver.streams.get(stream).is_ok_and(|stream| stream.kind == Kind::Blocking)
}
