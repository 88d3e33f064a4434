//! Events.

use std::time::Instant;

use super::Driver;
use super::api::{Handle, Out, api, handle, id};
use super::errors::{Code, Result};
use super::queue::OpId;
use super::work::Work;

/// An event.
pub(super) struct Event {
    pub(super) context: u64,
    has_time: bool,
    /// Its last record outside a capture.
    pub(super) last: Option<OpId>,
    /// When that ran.
    pub(super) time: Option<Instant>,
    /// The capture and the nodes that it stands for, if its last record was in a capture.
    pub(super) captured: Option<(u64, Vec<usize>)>,
}

/// `CU_EVENT_DISABLE_TIMING`, and all flags.
const DISABLE_TIMING: u32 = 2;
const FLAGS: u32 = 7;
/// `CU_EVENT_WAIT_EXTERNAL`.
const WAIT_EXTERNAL: u32 = 1;

impl Driver {
    /// The event that a handle means; it knows its context.
    fn event(&self, event: Handle) -> Result<u64> {
        self.healthy(self.events.get(id(event))?.context)?;
        Ok(id(event))
    }

    fn record(&mut self, event: u64, stream: u64) -> Result<()> {
        if self.events.get(event)?.context != self.streams.get(stream)?.context {
            return Err(Code::INVALID_HANDLE);
        }
        self.legacy_in_capture(stream)?;
        if self.streams.get(stream)?.joined.is_some() {
            let captured = self.capture_tails(stream)?;
            let event = self.events.get_mut(event)?;
            (event.captured, event.last, event.time) = (Some(captured), None, None);
            return Ok(());
        }
        let op = self.enqueue(stream, Vec::new(), Work::Record { event })?;
        let event = self.events.get_mut(event)?;
        (event.captured, event.last, event.time) = (None, Some(op), None);
        Ok(())
    }

    /// Makes a stream wait for an event, which may be of any context.
    pub(super) fn wait(&mut self, stream: u64, event: u64, flags: u32) -> Result<()> {
        if flags & !WAIT_EXTERNAL != 0 {
            return Err(Code::INVALID_VALUE);
        }
        if flags == WAIT_EXTERNAL {
            return Err(Code::NOT_SUPPORTED);
        }
        self.legacy_in_capture(stream)?;
        let found = self.events.get(event)?;
        if let Some((capture, tails)) = found.captured.clone() {
            return self.join_capture(stream, capture, &tails);
        }
        // Never recorded: nothing to wait for.
        let Some(op) = found.last else { return Ok(()) };
        if let Some(joined) = &self.streams.get(stream)?.joined {
            let capture = joined.capture;
            self.active(capture)?;
            self.invalidate(capture);
            return Err(Code::STREAM_CAPTURE_ISOLATION);
        }
        self.enqueue(stream, vec![op], Work::Nothing).map(drop)
    }

    /// The record that an event stands for. Asking in vain about a captured event invalidates its capture.
    fn recorded(&mut self, event: u64) -> Result<Option<OpId>> {
        let event = self.events.get(event)?;
        if let Some((capture, _)) = event.captured {
            self.invalidate(capture);
            return Err(Code::CAPTURED_EVENT);
        }
        Ok(event.last)
    }

    /// Answers whether these have run. Then one operation runs, so that a polling loop ends.
    pub(super) fn poll(&mut self, targets: &[OpId]) -> Result<()> {
        if !targets.iter().any(|op| self.queue.is_pending(*op)) {
            return Ok(());
        }
        self.advance(targets);
        Err(Code::NOT_READY)
    }

    fn elapsed(&self, start: Handle, end: Handle) -> Result<f32> {
        let (start, end) = (self.events.get(self.event(start)?)?, self.events.get(self.event(end)?)?);
        for event in [start, end] {
            if !event.has_time || event.last.is_none() || event.context != start.context {
                return Err(Code::INVALID_HANDLE);
            }
        }
        match (start.time, end.time) {
            (Some(start), Some(end)) if end >= start => Ok((end - start).as_secs_f32() * 1e3),
            (Some(start), Some(end)) => Ok(-(start - end).as_secs_f32() * 1e3),
            _ => Err(Code::NOT_READY),
        }
    }
}

api! {
    fn cuEventCreate(driver, event: Out<Handle>, flags: u32) {
        let context = driver.current()?;
        if flags & !FLAGS != 0 {
            return Err(Code::INVALID_VALUE);
        }
        let has_time = flags & DISABLE_TIMING == 0;
        let id = driver.events.insert(Event { context, has_time, last: None, time: None, captured: None });
        event.put(handle(id))
    }
    fn cuEventDestroy_v2(driver, event: Handle) {
        driver.current_or_dead()?;
        let removed = driver.events.remove(id(event))?;
        driver.healthy(removed.context)
    }
    fn cuEventRecord(driver, event: Handle, stream: Handle) {
        let (event, stream) = (driver.event(event)?, driver.stream(stream)?);
        driver.record(event, stream)
    }
    fn cuEventQuery(driver, event: Handle) {
        let event = driver.event(event)?;
        let op = driver.recorded(event)?;
        driver.unsafe_in_capture()?;
        let answer = driver.poll(op.as_slice());
        driver.healthy(driver.events.get(event)?.context)?;
        answer
    }
    fn cuEventSynchronize(driver, event: Handle) {
        let event = driver.event(event)?;
        let op = driver.recorded(event)?;
        driver.unsafe_in_capture()?;
        driver.synchronize(driver.events.get(event)?.context, op.as_slice())
    }
    fn cuEventElapsedTime(driver, milliseconds: Out<f32>, start: Handle, end: Handle) {
        milliseconds.put(driver.elapsed(start, end)?)
    }
    fn cuEventElapsedTime_v2(driver, milliseconds: Out<f32>, start: Handle, end: Handle) {
        milliseconds.put(driver.elapsed(start, end)?)
    }
}
