//! One core for each thread. Without this the system may leave two threads of a pool on one core for seconds while
//! another idles: a waiting thread of rayon's yields, and so looks like no load worth moving.

/// Keeps the calling thread on the `index`-th core that the program may use. A thread started from it stays there too,
/// until it calls this itself. Where the system has no such call, or refuses it, nothing happens.
pub(crate) fn keep_to(index: usize) {
    #[cfg(target_os = "linux")]
    {
        use std::sync::OnceLock;
        static CORES: OnceLock<Vec<usize>> = OnceLock::new();
        let cores = CORES.get_or_init(allowed);
        if cores.is_empty() {
            return;
        }
        // SAFETY: a set of all zeros is the empty set, and the core's number came out of such a set.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(cores[index % cores.len()], &mut set);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = index;
}

/// The cores of the program; called once, by the first thread that is to be kept somewhere.
#[cfg(target_os = "linux")]
fn allowed() -> Vec<usize> {
    // SAFETY: the call writes at most the set's size; the cores asked about fit the set.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) != 0 {
            return Vec::new();
        }
        (0..libc::CPU_SETSIZE as usize).filter(|&core| libc::CPU_ISSET(core, &set)).collect()
    }
}
