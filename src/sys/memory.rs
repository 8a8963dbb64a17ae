//! Memory: how much there is, and how much of what was freed the allocator keeps.

use std::sync::OnceLock;

/// One heap for all threads, where glibc gives each its own: nearly all work is done by one of them, and what another has
/// freed can be used again. To be called before the second thread.
#[cfg(target_env = "gnu")]
pub(crate) fn one_heap() {
    // SAFETY: mallopt(3) takes plain integers; that it refuses them (0) does no harm.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Other C libraries have one heap.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn one_heap() {}

/// What was in memory when the instance was ready, in bytes.
static START: OnceLock<u64> = OnceLock::new();

/// Notes what an instance takes that has done nothing yet.
pub(crate) fn note_start() {
    let _ = START.set(resident());
}

/// Lets the pages of the program's code go, most of which only the start has needed. Those that are needed come back as they
/// are used, mostly from the system's cache: microseconds, once.
pub(crate) fn unmap_code() {
    let (Ok(program), Ok(maps)) = (std::env::current_exe(), std::fs::read_to_string("/proc/self/maps")) else { return };
    let Some(program) = program.to_str() else { return };
    for line in maps.lines().filter(|line| line.ends_with(program)) {
        if let Some((range, rest)) = line.split_once(' ')
            && rest.starts_with("r-xp ")
            && let Some((start, end)) = range.split_once('-')
            && let (Ok(start), Ok(end)) = (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16))
        {
            // SAFETY: code is mapped privately from a file and was never written to, so each page is as it was once it is read
            // again (madvise(2), MADV_DONTNEED). The file cannot change while it is executed (ETXTBSY).
            unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
        }
    }
}

/// What is in memory and this process' own, apart from files such as the program, in bytes (proc(5), statm).
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let mut numbers = text.split(' ').skip(1).map_while(|n| n.parse::<u64>().ok());
    let (resident, shared) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let pages = resident.saturating_sub(shared);
    // SAFETY: sysconf(3) only reads.
    pages * u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(0)
}

/// Gives what was freed back to the system, if that is much beside what is in use. Takes milliseconds where there is much of it.
pub(crate) fn give_back() {
    let start = START.get().copied().unwrap_or(0);
    let used = start + in_use();
    if resident() > used + used / 8 + (1 << 20) {
        trim();
    }
}

/// What of the heap is in use, in bytes.
#[cfg(target_env = "gnu")]
fn in_use() -> u64 {
    // SAFETY: mallinfo(3) only reads. Its numbers wrap at 4 GiB, and then more is thought to be free than is; mallinfo2(3) is too
    // new (glibc 2.33).
    let info = unsafe { libc::mallinfo() };
    u64::from(info.uordblks as u32) + u64::from(info.hblkhd as u32)
}

/// Other C libraries give it back by themselves.
#[cfg(not(target_env = "gnu"))]
fn in_use() -> u64 {
    0
}

#[cfg(target_env = "gnu")]
fn trim() {
    // SAFETY: malloc_trim(3) may be called at any time.
    unsafe { libc::malloc_trim(0) };
}

/// Other C libraries give it back by themselves.
#[cfg(not(target_env = "gnu"))]
fn trim() {}

/// The memory that there is for this program, in bytes: the system's, or what its control groups allow (cgroups(7); version 2,
/// and version 1 where that is mounted).
pub(crate) fn available() -> u64 {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let total = text("/proc/meminfo").lines().find_map(|line| {
        let kib = line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
        kib.checked_mul(1024)
    });
    let mut least = total.unwrap_or(u64::MAX);
    for line in text("/proc/self/cgroup").lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(kind), Some(group)) = (fields.next(), fields.next()) else { continue };
        let (root, file) = match kind {
            "" => ("/sys/fs/cgroup", "memory.max"),
            "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        // Each group above has a say. In a container the path may be that of the host, where only the root is seen.
        let groups = std::path::Path::new(group).ancestors().filter_map(|g| g.to_str());
        let limits =
            groups.filter_map(|g| text(&format!("{root}{}/{file}", g.trim_end_matches('/'))).trim().parse().ok());
        least = limits.fold(least, u64::min);
    }
    least
}

#[cfg(test)]
mod tests {
    #[test]
    fn there_is_some_memory_and_not_more_than_the_system_has() {
        let found = super::available();
        assert!(found > 64 << 20 && found < 1 << 50, "{found}");
    }
}
