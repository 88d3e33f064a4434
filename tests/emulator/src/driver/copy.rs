//! Transfers and memsets.

use std::ffi::c_void;

use super::Driver;
use super::api::{Handle, api, id};
use super::errors::{Code, Result};
use super::work::{Source, Work};

impl Driver {
    fn is_capturing(&self, stream: u64) -> Result<bool> {
        Ok(self.streams.get(stream)?.joined.is_some())
    }

    /// Pageable memory is staged now, pinned memory is read when the copy runs, and a graph reads either at each replay.
    fn upload(&mut self, to: u64, from: *const c_void, len: usize, stream: u64) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        self.must_own(self.streams.get(stream)?.context, to)?;
        let range = self.host_range(from, len)?;
        let from = if range.is_pinned || self.is_capturing(stream)? {
            Source::Host(range)
        } else {
            Source::Staged(self.read_host(range).map_err(|(code, _)| code)?)
        };
        self.submit(stream, Work::Upload { to, from })
    }

    /// Into pageable memory the call waits; a graph writes either at each replay.
    fn download(&mut self, to: *mut c_void, from: u64, len: usize, stream: u64, waits: bool) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        self.must_own(self.streams.get(stream)?.context, from)?;
        let to = self.host_range(to, len)?;
        let is_capturing = self.is_capturing(stream)?;
        self.submit(stream, Work::Download { from, to })?;
        if (waits || !to.is_pinned) && !is_capturing { self.synchronize_stream(stream) } else { Ok(()) }
    }

    fn copy_within(&mut self, to: u64, from: u64, len: usize, stream: u64) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        let context = self.streams.get(stream)?.context;
        self.must_own(context, to)?;
        self.must_own(context, from)?;
        self.submit(stream, Work::Copy { to, from, len })
    }

    fn fill(&mut self, at: u64, value: u8, len: usize, stream: u64) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        self.must_own(self.streams.get(stream)?.context, at)?;
        self.submit(stream, Work::Fill { at, value, len })
    }

    /// The legacy stream, for the functions without a stream.
    fn legacy(&mut self) -> Result<u64> {
        self.unsafe_in_capture()?;
        self.stream(std::ptr::null_mut())
    }
}

api! {
    fn cuMemcpyHtoDAsync_v2(driver, to: u64, from: *const c_void, bytes: usize, stream: Handle) {
        let stream = driver.stream(stream)?;
        driver.upload(to, from, bytes, stream)
    }
    fn cuMemcpyDtoHAsync_v2(driver, to: *mut c_void, from: u64, bytes: usize, stream: Handle) {
        let stream = driver.stream(stream)?;
        driver.download(to, from, bytes, stream, false)
    }
    fn cuMemcpyDtoDAsync_v2(driver, to: u64, from: u64, bytes: usize, stream: Handle) {
        let stream = driver.stream(stream)?;
        driver.copy_within(to, from, bytes, stream)
    }
    /// From pageable memory: waits for the stream, stages, and does not wait for the device (CUDA driver API, "API
    /// synchronization behavior").
    fn cuMemcpyHtoD_v2(driver, to: u64, from: *const c_void, bytes: usize) {
        let stream = driver.legacy()?;
        driver.synchronize_stream(stream)?;
        driver.upload(to, from, bytes, stream)?;
        if bytes > 0 && driver.host_range(from, bytes)?.is_pinned {
            driver.synchronize_stream(stream)?;
        }
        Ok(())
    }
    fn cuMemcpyDtoH_v2(driver, to: *mut c_void, from: u64, bytes: usize) {
        let stream = driver.legacy()?;
        driver.download(to, from, bytes, stream, true)
    }
    /// Does not wait on the host.
    fn cuMemcpyDtoD_v2(driver, to: u64, from: u64, bytes: usize) {
        let stream = driver.legacy()?;
        driver.copy_within(to, from, bytes, stream)
    }
    fn cuMemcpyPeerAsync(driver, to: u64, to_context: Handle, from: u64, from_context: Handle, bytes: usize, stream: Handle) {
        let stream = driver.stream(stream)?;
        for context in [to_context, from_context] {
            driver.contexts.get(id(context)).map_err(|_| Code::INVALID_CONTEXT)?;
            driver.healthy(id(context))?;
        }
        if bytes == 0 {
            return Ok(());
        }
        driver.must_own(id(to_context), to)?;
        driver.must_own(id(from_context), from)?;
        driver.submit(stream, Work::Copy { to, from, len: bytes })
    }
    fn cuMemsetD8Async(driver, at: u64, value: u8, bytes: usize, stream: Handle) {
        let stream = driver.stream(stream)?;
        driver.fill(at, value, bytes, stream)
    }
    /// Does not wait on the host.
    fn cuMemsetD8_v2(driver, at: u64, value: u8, bytes: usize) {
        let stream = driver.legacy()?;
        driver.fill(at, value, bytes, stream)
    }
}
