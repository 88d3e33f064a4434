//! Maintainers' steps, each behind a feature; a user's build does nothing here.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "bindgen")]
    mirror();
    #[cfg(feature = "host-twin")]
    host_twin();
}

/// kernels/args.h → src/args.rs, checked in: users need no libclang, CI fails where the two differ.
#[cfg(feature = "bindgen")]
fn mirror() {
    println!("cargo:rerun-if-changed=kernels/args.h");
    bindgen::Builder::default()
        .header("kernels/args.h")
        .raw_line("// Written from kernels/args.h by `cargo build --features bindgen`. Do not edit.")
        .allowlist_file(".*args.h")
        .derive_default(true)
        .derive_partialeq(true)
        .use_core()
        .merge_extern_blocks(true)
        .generate()
        .expect("bindgen reads kernels/args.h")
        .write_to_file("src/args.rs")
        .expect("src/args.rs is written");
}

/// The arithmetic of kernels/*.cuh for the host, which tests/host_twin.rs compares with the CPU code bit for bit. The
/// test names the library itself: nothing else links it.
#[cfg(feature = "host-twin")]
fn host_twin() {
    println!("cargo:rerun-if-changed=kernels");
    println!("cargo:rerun-if-changed=tests/host_twin");
    cc::Build::new()
        .cpp(true)
        .cpp_link_stdlib(None)
        .cargo_metadata(false)
        .file("tests/host_twin/twin.cpp")
        .include("kernels")
        .std("c++11")
        .flag("-ffp-contract=off")
        .warnings_into_errors(true)
        .opt_level(2)
        .compile("fadam_host_twin");
    let folder = std::env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    println!("cargo:rustc-link-search=native={folder}");
}
