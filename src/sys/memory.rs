//! Memory that was freed, back to the system.

/// Has all threads share what is free. By itself the C library gives each thread an arena of its own, up to eight for each
/// core, and the free end of such an arena is not among what [`give_back`] gives back. To be called before there are threads.
pub fn share() {
    // SAFETY: it takes two numbers, and there is no other thread that could ask for memory at the same time.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives pages back that hold nothing any more: a burst of changes would cost its memory for good. It takes some
/// milliseconds, and threads that ask for memory meanwhile wait for it.
pub fn give_back() {
    // SAFETY: it takes a number, and looks at nothing but what the allocator holds free, under its own locks.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    /// KiB of memory that this process has in use.
    fn resident() -> usize {
        let text = std::fs::read_to_string("/proc/self/status").expect("the figures");
        let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:"));
        let figure = line.and_then(|l| l.trim().strip_suffix(" kB"));
        figure.expect("a figure").parse().expect("a number")
    }

    #[test]
    fn what_a_thread_freed_goes_back() {
        const MANY: usize = 100_000;
        let (held, before, after) = std::thread::spawn(|| {
            let mut blocks: Vec<_> = (0..MANY)
                .map(|n| vec![u8::from(n % 2 == 0); 1000])
                .collect();
            // What is left keeps the arena from shrinking by itself.
            let held = blocks.split_off(MANY - 1);
            drop(blocks);
            let before = resident();
            give_back();
            (held, before, resident())
        })
        .join()
        .expect("a thread");
        assert_eq!(held.len(), 1);
        assert!(after + MANY / 2 < before, "{before} {after}");
    }
}
