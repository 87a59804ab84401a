//! What the kernel knows of a process.

use std::fs;
use std::path::Path;
use std::time::Duration;

/// Processor time of all threads that a process has now. What ended threads used is not in it.
pub fn processor_time(process: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let spent = threads.filter_map(|thread| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(spent.sum())
}

/// One line of `status`, in KiB.
pub fn memory(process: u32, line: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let value = text.lines().find_map(|one| one.strip_prefix(line)?.strip_prefix(':'));
    value.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Bytes of all files in a directory and below.
pub fn size_of(directory: &Path) -> u64 {
    let items = fs::read_dir(directory).into_iter().flatten().flatten();
    let size = items.map(|item| match item.metadata() {
        Ok(facts) if facts.is_dir() => size_of(&item.path()),
        Ok(facts) => facts.len(),
        Err(_) => 0,
    });
    size.sum()
}
