//! Opening a shared library that may be absent: absent, broken and there are three answers.
//!
//! Loaders tell why they failed in words of their own: glibc's in the user's language, musl's in others, and a statically linked
//! program has none that works. So no word of theirs is compared. A library is absent where there is no such file on the
//! loader's paths; on Windows the error has a code.

use libloading::Library;
#[cfg(target_os = "linux")]
use std::path::PathBuf;

#[cfg(any(target_os = "linux", windows))]
const REINSTALL: &str = "reinstall the NVIDIA driver, or use the CPU";

/// Why no library was opened.
#[derive(Debug)]
pub(super) enum Refused {
    /// There is none.
    Absent,
    /// There is one, and the loader does not take it.
    Broken {
        /// Which, and what the loader says.
        text: String,
        /// If it is the driver.
        remedy: &'static str,
    },
}

/// The first library that loads, by the names that cudarc tries, in its order: bare, then with each version. Otherwise the
/// first that is there and does not load.
pub(super) fn open(names: &[&str], versions: &[&str]) -> Result<Library, Refused> {
    use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
    let bare = names.iter().map(|name| format!("{DLL_PREFIX}{name}{DLL_SUFFIX}"));
    let versioned = names.iter().flat_map(|name| {
        versions.iter().map(move |version| format!("{DLL_PREFIX}{name}{DLL_SUFFIX}.{version}"))
    });
    let mut refused = Refused::Absent;
    for file in bare.chain(versioned) {
        // SAFETY: loading runs the library's initialisers; it is the vendor's, found by the system's own search path.
        match unsafe { Library::new(&file) } {
            Ok(library) => return Ok(library),
            Err(error) => {
                if let (Refused::Absent, Some(broken)) = (&refused, broken(&file, &error)) {
                    refused = broken;
                }
            }
        }
    }
    Err(refused)
}

/// `None` where there is no such file.
#[cfg(target_os = "linux")]
fn broken(file: &str, error: &libloading::Error) -> Option<Refused> {
    use std::error::Error as _;
    const STATIC: &str = "a statically linked program cannot load libraries: build for a glibc target, or with \
                          `-C target-feature=-crt-static`, or use the CPU";
    const EMPTY: &str = "the file is empty: in a container, where NVIDIA's runtime mounts the driver over such files, start it \
                         with `--gpus all`; elsewhere remove the file and reinstall the driver; or use the CPU";
    let path = find(file)?;
    let loader = error.source().map_or_else(|| error.to_string(), |loader| loader.to_string());
    let text = if loader.contains(file) { loader } else { format!("{}: {loader}", path.display()) };
    let empty = path.metadata().is_ok_and(|metadata| metadata.len() == 0);
    let remedy = if empty {
        EMPTY
    } else if cfg!(target_feature = "crt-static") {
        STATIC
    } else {
        REINSTALL
    };
    Some(Refused::Broken { text, remedy })
}

#[cfg(windows)]
fn broken(file: &str, error: &libloading::Error) -> Option<Refused> {
    const MODULE_NOT_FOUND: i32 = 126;
    if std::io::Error::last_os_error().raw_os_error() == Some(MODULE_NOT_FOUND) {
        return None;
    }
    Some(Refused::Broken { text: format!("{file}: {error}"), remedy: REINSTALL })
}

/// Elsewhere NVIDIA has no drivers.
#[cfg(not(any(target_os = "linux", windows)))]
fn broken(_: &str, _: &libloading::Error) -> Option<Refused> {
    None
}

/// Where the loader finds a file of this name.
#[cfg(target_os = "linux")]
fn find(file: &str) -> Option<PathBuf> {
    let exists = |path: &PathBuf| path.symlink_metadata().is_ok(); // a link to nowhere is broken, not absent
    let on_path = |folder: PathBuf| Some(folder.join(file)).filter(exists);
    let asked_for = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    std::env::split_paths(&asked_for)
        .find_map(on_path)
        .or_else(|| cached(file).into_iter().find(exists))
        .or_else(|| default_folders().into_iter().find_map(on_path))
}

/// What musl's loader reads instead of a cache.
#[cfg(all(target_os = "linux", target_env = "musl"))]
fn default_folders() -> Vec<PathBuf> {
    let listed = std::fs::read_to_string(format!("/etc/ld-musl-{}.path", std::env::consts::ARCH));
    let listed = listed.as_deref().unwrap_or("/lib:/usr/local/lib:/usr/lib");
    listed.split([':', '\n']).filter(|folder| !folder.is_empty()).map(PathBuf::from).collect()
}

/// Those of the common distributions.
#[cfg(all(target_os = "linux", not(target_env = "musl")))]
fn default_folders() -> Vec<PathBuf> {
    let own = format!("{}-linux-gnu", std::env::consts::ARCH);
    let multiarch = ["/lib/", "/usr/lib/"].map(|folder| PathBuf::from(folder).join(&own));
    ["/lib64", "/usr/lib64", "/lib", "/usr/lib"].map(PathBuf::from).into_iter().chain(multiarch).collect()
}

/// The paths of this name in the cache that `ldconfig` writes. Its strings are C strings, whatever the version of its tables.
#[cfg(all(target_os = "linux", not(target_env = "musl")))]
fn cached(file: &str) -> Vec<PathBuf> {
    let cache = std::fs::read("/etc/ld.so.cache").unwrap_or_default();
    let ending = format!("/{file}");
    let paths = cache.split(|&byte| byte == 0).filter(|string| string.ends_with(ending.as_bytes()));
    let paths = paths.filter_map(|path| std::str::from_utf8(path).ok());
    paths.filter(|path| path.starts_with('/')).map(PathBuf::from).collect()
}

#[cfg(all(target_os = "linux", target_env = "musl"))]
fn cached(_: &str) -> Vec<PathBuf> {
    Vec::new()
}
