//! Which PTX a driver compiles: an empty kernel of each version, loaded and looked up.

use fadam::cuda::cudarc::driver::CudaContext;
use fadam::cuda::cudarc::nvrtc::Ptx;
use std::sync::Arc;

/// Those of CUDA 12.0 to 13.4, and two that no driver knows yet. They decide whether a driver takes what a newer NVRTC writes.
const VERSIONS: [&str; 16] = [
    "8.0", "8.1", "8.2", "8.3", "8.4", "8.5", "8.6", "8.7", "8.8", "9.0", "9.1", "9.2", "9.3", "9.4", "9.5",
    "9.9",
];

/// A sentence: the newest version that is compiled, and what the driver says of the next, where it says so.
pub(crate) fn versions(context: &Arc<CudaContext>) -> String {
    let mut newest = None;
    for version in VERSIONS {
        match attempt(context, version) {
            Ok(()) => newest = Some(version),
            Err(refusal) => {
                let newest = newest.map_or("none is compiled".into(), |newest| format!("up to {newest}"));
                return format!("{newest}; {version}: {refusal}");
            }
        }
    }
    format!("up to {} at least", VERSIONS[VERSIONS.len() - 1])
}

fn attempt(context: &Arc<CudaContext>, version: &str) -> Result<(), String> {
    let source = format!(
        ".version {version}\n.target sm_75\n.address_size 64\n.visible .entry nothing()\n{{\n    ret;\n}}\n"
    );
    let module =
        context.load_module(Ptx::from_src(source)).map_err(|error| format!("{:?} at load", error.0))?;
    module.load_function("nothing").map_err(|error| format!("{:?} at look-up", error.0))?;
    Ok(())
}
