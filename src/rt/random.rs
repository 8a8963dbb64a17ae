//! Random numbers, from the kernel (getrandom(2)).

/// A random UUID (RFC 9562 version 4); all zeros where no random numbers are to be had.
pub(crate) fn uuid() -> String {
    let mut bytes = [0; 16];
    let _ = getrandom::fill(&mut bytes);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// So many random bytes.
pub(crate) fn bytes<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| format!("no random numbers to be had: {e}"))?;
    Ok(bytes)
}

/// 128 random bits as visible ASCII (2025-11-25 basic/transports: secure and non-deterministic), behind a prefix and a dot
/// if it is not empty.
pub(crate) fn id(prefix: &str) -> Result<String, String> {
    Ok(behind(prefix, bytes::<16>()?.iter().map(|b| format!("{b:02x}")).collect()))
}

/// An id behind a prefix and a dot, if the prefix is not empty.
pub(crate) fn behind(prefix: &str, id: String) -> String {
    if prefix.is_empty() { id } else { format!("{prefix}.{id}") }
}

/// Uniform in 0..1, so that what failed together does not start again together; 0.5 where no random numbers are to be
/// had.
pub(crate) fn jitter() -> f64 {
    let mut bytes = [0; 4];
    match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}
