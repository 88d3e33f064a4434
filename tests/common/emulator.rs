//! The emulated driver's own controls, where it is the driver that the loader finds: tests/emulator/src/driver/control.rs.
#![allow(dead_code)] // each test file uses its part
