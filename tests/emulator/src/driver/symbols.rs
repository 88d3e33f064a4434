//! Looking functions up through the driver.

use std::ffi::c_void;

use super::api::{Out, Symbol, Text, api};
use super::errors::Code;
use super::{
    capture, context, copy, device, errors, event, function, graph, host, launch, memory, module, node,
};
use super::{stream, unsupported};

/// The functions, a newer version behind an older one.
fn find(name: &str) -> Option<Symbol> {
    let lists = [
        capture::SYMBOLS,
        context::SYMBOLS,
        copy::SYMBOLS,
        device::SYMBOLS,
        errors::SYMBOLS,
        event::SYMBOLS,
        function::SYMBOLS,
        graph::SYMBOLS,
        host::SYMBOLS,
        launch::SYMBOLS,
        memory::SYMBOLS,
        module::SYMBOLS,
        node::SYMBOLS,
        stream::SYMBOLS,
        unsupported::SYMBOLS,
        SYMBOLS,
    ];
    let named = |suffix: &str| {
        let wanted = format!("{name}{suffix}");
        lists.iter().flat_map(|list| list.iter()).find(|(name, _)| *name == wanted).map(|(_, symbol)| *symbol)
    };
    ["_v4", "_v3", "_v2", ""].into_iter().find_map(named)
}

/// `CUdriverProcAddressQueryResult`.
const SUCCESS: u32 = 0;
const SYMBOL_NOT_FOUND: u32 = 1;

api! {
    fn cuGetProcAddress(_driver, name: Text, function: Out<*const c_void>, _version: i32, _flags: u64) {
        let found = find(name.get()?);
        function.put(found.map_or(std::ptr::null(), |symbol| symbol.0))?;
        found.map(drop).ok_or(Code::NOT_FOUND)
    }
    fn cuGetProcAddress_v2(
        _driver,
        name: Text,
        function: Out<*const c_void>,
        _version: i32,
        _flags: u64,
        status: Out<u32>,
    ) {
        let found = find(name.get()?);
        status.put_optional(if found.is_some() { SUCCESS } else { SYMBOL_NOT_FOUND });
        function.put(found.map_or(std::ptr::null(), |symbol| symbol.0))?;
        found.map(drop).ok_or(Code::NOT_FOUND)
    }
    /// Private interfaces between NVIDIA's libraries. NVRTC 13.4 asks for one and goes on without it.
    fn cuGetExportTable(_driver, _table: Out<*const c_void>, _id: *const c_void) {
        Err(Code::NOT_SUPPORTED)
    }
}
