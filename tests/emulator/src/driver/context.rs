//! Contexts: a device's primary one and others. Which is current is a matter of each thread.

use std::cell::RefCell;
use std::ffi::c_void;

use super::Driver;
use super::api::{Handle, Out, api, handle, id};
use super::errors::{Code, Result, name};
use super::stream::Stream;

/// A context.
pub(super) struct Context {
    /// Index of its device.
    pub(super) device: usize,
    is_primary: bool,
    flags: u32,
    /// The asynchronous error that ended it.
    pub(super) error: Option<Code>,
    /// The stream that handles 0 and 1 mean.
    pub(super) legacy: u64,
}

thread_local! {
    /// Contexts of this thread, the current one last.
    static CURRENT: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// The handle of the context that is current in this thread; 0 without one.
fn current_id() -> u64 {
    CURRENT.with_borrow(|stack| stack.last().copied().unwrap_or(0))
}

fn set_current(context: u64) {
    CURRENT.with_borrow_mut(|stack| {
        stack.pop();
        if context != 0 {
            stack.push(context);
        }
    });
}

impl Driver {
    /// The current context, usable or not.
    pub(super) fn current_or_dead(&self) -> Result<u64> {
        match current_id() {
            0 => Err(Code::INVALID_CONTEXT),
            id if self.contexts.get(id).is_err() => Err(Code::CONTEXT_IS_DESTROYED),
            id => Ok(id),
        }
    }

    /// The current context. After an asynchronous error, that error.
    pub(super) fn current(&self) -> Result<u64> {
        let context = self.current_or_dead()?;
        self.healthy(context)?;
        Ok(context)
    }

    /// For calls that give something back, which work in a context that an error ended: the context, and what to answer.
    pub(super) fn current_to_release(&self) -> Result<(u64, Result<()>)> {
        let context = self.current_or_dead()?;
        Ok((context, self.healthy(context)))
    }

    pub(super) fn healthy(&self, context: u64) -> Result<()> {
        match self.contexts.get(context) {
            Ok(Context { error: Some(code), .. }) => Err(*code),
            Ok(_) => Ok(()),
            Err(_) => Err(Code::CONTEXT_IS_DESTROYED),
        }
    }

    /// The device of a context.
    pub(super) fn device_of(&self, context: u64) -> Result<usize> {
        self.contexts.get(context).map(|context| context.device).map_err(|_| Code::INVALID_CONTEXT)
    }

    fn create(&mut self, ordinal: i32, is_primary: bool, flags: u32) -> Result<u64> {
        self.device(ordinal)?;
        let device = ordinal as usize;
        let context = self.contexts.insert(Context { device, is_primary, flags, error: None, legacy: 0 });
        let legacy = self.streams.insert(Stream::legacy(context));
        self.contexts.get_mut(context)?.legacy = legacy;
        Ok(context)
    }

    /// Ends a context: what is queued still runs, what was not given back is a leak.
    fn destroy(&mut self, context: u64) -> Result<()> {
        let tails = self.queue.tails(context);
        self.finish(&tails);
        self.report_leaks(context);
        let Context { device, .. } = self.contexts.remove(context).map_err(|_| Code::INVALID_CONTEXT)?;
        self.queue.discard(context);
        let of_context = |owner: u64| owner == context;
        for address in self.addresses_of(context) {
            self.allocations.remove(&address);
            // It was allocated and is freed once only: the entry is gone now.
            let _ = self.devices[device].memory.free(address);
        }
        self.pinned.retain(|_, pinned| !of_context(pinned.context));
        self.streams.retain(|stream| !of_context(stream.context));
        self.events.retain(|event| !of_context(event.context));
        self.modules.retain(|module| !of_context(module.context));
        self.functions.retain(|function| !of_context(function.context));
        self.captures.retain(|capture| !of_context(capture.context));
        self.graphs.retain(|graph| !of_context(graph.context));
        self.graph_execs.retain(|exec| !of_context(exec.context));
        Ok(())
    }

    fn report_leaks(&mut self, context: u64) {
        let Ok(Context { device, error, .. }) = self.contexts.get(context) else { return };
        let owned = |owners: &mut dyn Iterator<Item = u64>| owners.filter(|owner| *owner == context).count();
        let allocations = self.allocations.values().filter(|a| a.context == context && !a.is_freed);
        let (count, bytes) = allocations.fold((0, 0), |(count, bytes), a| (count + 1, bytes + a.len));
        let pinned = self.pinned.values().filter(|p| p.context == context);
        let (pins, pinned_bytes) = pinned.fold((0, 0), |(count, bytes), p| (count + 1, bytes + p.len()));
        let streams = self.streams.iter().filter(|(_, s)| s.context == context && s.is_owned()).count();
        let events = owned(&mut self.events.iter().map(|(_, event)| event.context));
        let modules = owned(&mut self.modules.iter().map(|(_, module)| module.context));
        let graphs = owned(&mut self.graphs.iter().map(|(_, graph)| graph.context));
        let execs = owned(&mut self.graph_execs.iter().map(|(_, exec)| exec.context));
        if count + pins + streams + events + modules + graphs + execs == 0 {
            return;
        }
        let after = error.map(|code| format!(" (after {})", name(code.0))).unwrap_or_default();
        let line = format!(
            "cuda:{device}{after}: {count} allocations ({bytes} bytes), {pins} pinned ({pinned_bytes} bytes), \
             {streams} streams, {events} events, {modules} modules, {graphs} graphs, {execs} instantiated graphs"
        );
        if self.config.print_leaks {
            eprintln!("fadam-emulator: leaked by {line}");
        }
        self.leaks.push_str(&line);
        self.leaks.push('\n');
    }
}

api! {
    fn cuDevicePrimaryCtxRetain(driver, context: Out<Handle>, device: i32) {
        driver.device(device)?;
        let at = device as usize;
        let (id, count) = match driver.devices[at].primary {
            Some((id, count)) => {
                driver.healthy(id)?;
                (id, count + 1)
            }
            None => (driver.create(device, true, driver.devices[at].flags)?, 1),
        };
        driver.devices[at].primary = Some((id, count));
        context.put(handle(id))
    }
    fn cuDevicePrimaryCtxRelease_v2(driver, device: i32) {
        driver.device(device)?;
        let at = device as usize;
        let (id, count) = driver.devices[at].primary.ok_or(Code::INVALID_CONTEXT)?;
        if count > 1 {
            driver.devices[at].primary = Some((id, count - 1));
            return Ok(());
        }
        driver.devices[at].primary = None;
        driver.destroy(id)
    }
    fn cuDevicePrimaryCtxGetState(driver, device: i32, flags: Out<u32>, active: Out<i32>) {
        let device = driver.device(device)?;
        flags.put(device.flags)?;
        active.put(i32::from(device.primary.is_some()))
    }
    fn cuDevicePrimaryCtxSetFlags_v2(driver, device: i32, flags: u32) {
        driver.device(device)?;
        driver.devices[device as usize].flags = flags;
        Ok(())
    }
    fn cuCtxGetCurrent(_driver, context: Out<Handle>) {
        context.put(handle(current_id()))
    }
    fn cuCtxSetCurrent(driver, context: Handle) {
        if !context.is_null() && driver.contexts.get(id(context)).is_err() {
            return Err(Code::INVALID_CONTEXT);
        }
        set_current(id(context));
        Ok(())
    }
    fn cuCtxPushCurrent_v2(driver, context: Handle) {
        driver.contexts.get(id(context)).map_err(|_| Code::INVALID_CONTEXT)?;
        CURRENT.with_borrow_mut(|stack| stack.push(id(context)));
        Ok(())
    }
    fn cuCtxPopCurrent_v2(_driver, context: Out<Handle>) {
        let popped = CURRENT.with_borrow_mut(Vec::pop).ok_or(Code::INVALID_CONTEXT)?;
        context.put_optional(handle(popped));
        Ok(())
    }
    fn cuCtxGetDevice(driver, device: Out<i32>) {
        device.put(driver.contexts.get(driver.current_or_dead()?)?.device as i32)
    }
    fn cuCtxSynchronize(driver) {
        let context = driver.current()?;
        driver.unsafe_in_capture()?;
        driver.no_capture_in(context)?;
        let tails = driver.queue.tails(context);
        driver.synchronize(context, &tails)
    }
    fn cuCtxSetFlags(driver, flags: u32) {
        let context = driver.current()?;
        driver.contexts.get_mut(context)?.flags = flags;
        Ok(())
    }
    fn cuCtxGetFlags(driver, flags: Out<u32>) {
        flags.put(driver.contexts.get(driver.current()?)?.flags)
    }
    fn cuCtxCreate_v2(driver, context: Out<Handle>, flags: u32, device: i32) {
        let id = driver.create(device, false, flags)?;
        CURRENT.with_borrow_mut(|stack| stack.push(id));
        context.put(handle(id))
    }
    fn cuCtxCreate_v4(driver, context: Out<Handle>, parameters: *mut c_void, flags: u32, device: i32) {
        if !parameters.is_null() {
            return Err(Code::NOT_SUPPORTED);
        }
        let id = driver.create(device, false, flags)?;
        CURRENT.with_borrow_mut(|stack| stack.push(id));
        context.put(handle(id))
    }
    fn cuCtxDestroy_v2(driver, context: Handle) {
        let found = driver.contexts.get(id(context)).map_err(|_| Code::INVALID_CONTEXT)?;
        if found.is_primary {
            return Err(Code::INVALID_CONTEXT);
        }
        if current_id() == id(context) {
            CURRENT.with_borrow_mut(Vec::pop);
        }
        driver.destroy(id(context))
    }
    fn cuCtxGetApiVersion(driver, context: Handle, version: Out<u32>) {
        if !context.is_null() {
            driver.contexts.get(id(context)).map_err(|_| Code::INVALID_CONTEXT)?;
        }
        version.put(driver.config.version as u32)
    }
    fn cuCtxGetStreamPriorityRange(driver, least: Out<i32>, greatest: Out<i32>) {
        driver.current()?;
        least.put_optional(0);
        greatest.put_optional(-5);
        Ok(())
    }
}
