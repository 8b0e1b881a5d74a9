//! Durations and sizes as people write them.

use std::time::Duration;

use bytesize::ByteSize;

/// Reads `50ms`, `10s`, `1m 30s`, `2h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|e| format!("{e}; a duration reads 50ms, 10s, 1m 30s, 2h"))
}

/// Reads `512`, `512KiB`, `64MiB`, `1GiB`.
pub(crate) fn size(text: &str) -> Result<usize, String> {
    let allowed = "a size reads 512, 512KiB, 64MiB, 1GiB";
    let size: ByteSize = text.parse().map_err(|e| format!("{e}; {allowed}"))?;
    usize::try_from(size.as_u64()).map_err(|_| format!("too large; {allowed}"))
}

/// Writes a size as `size` reads it, exactly.
pub(crate) fn show_size(bytes: usize) -> String {
    for (unit, name) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{}{name}", bytes / unit);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_read_as_people_write_them() {
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(size("512"), Ok(512));
        assert_eq!(show_size(64 << 20), "64MiB");
        assert_eq!(show_size(4095 << 10), "4095KiB");
        assert_eq!(duration("50ms"), Ok(Duration::from_millis(50)));
        assert!(size("many").unwrap_err().contains("64MiB"));
        assert!(duration("50").unwrap_err().contains("50ms"));
    }
}
