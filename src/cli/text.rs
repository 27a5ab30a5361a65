//! Numbers, sizes, ages and dates as people read them. Pure.

/// A size in bytes, as `3.4 MiB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // Tenths, rounded; u128 holds ten times any u64.
    let tenths = |unit: u32| (u128::from(bytes) * 10 + (1 << (10 * unit - 1))) >> (10 * unit);
    let mut unit = 1;
    while unit < 6 && tenths(unit) >= 10_240 {
        unit += 1;
    }
    let t = tenths(unit);
    let name = UNITS[usize::try_from(unit - 1).unwrap_or(0)];
    format!("{}.{} {name}", t / 10, t % 10)
}

/// A count and its noun, as `1 path` or `12 paths`.
#[must_use]
pub fn count(n: u64, noun: &str) -> String {
    match (n, noun.strip_suffix("ch"), noun.strip_suffix('y')) {
        (1, _, _) => format!("1 {noun}"),
        (_, Some(_), _) => format!("{n} {noun}es"),
        (_, _, Some(stem)) => format!("{n} {stem}ies"),
        _ => format!("{n} {noun}s"),
    }
}

/// A moment in milliseconds since 1970, as `2026-11-02 03:04:05 UTC`.
#[must_use]
pub fn moment(ms: u64) -> String {
    let s = ms / 1000;
    let (mut year, mut day) = (1970_u64, s / 86_400);
    // Whole cycles of 400 years first, so that the loop below is short for any number.
    year += day / 146_097 * 400;
    day %= 146_097;
    let leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    let days = |y: u64| 365 + u64::from(leap(y));
    while day >= days(year) {
        day -= days(year);
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    let (h, m, s) = (s / 3600 % 24, s / 60 % 60, s % 60);
    format!(
        "{year:04}-{month:02}-{:02} {h:02}:{m:02}:{s:02} UTC",
        day + 1
    )
}

/// Text of another process without anything that steers a terminal. Names in it are escaped already, so
/// backslashes stay.
#[must_use]
pub fn printable(s: &str) -> String {
    let mut out = String::with_capacity(s.len());
    for c in s.chars() {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::span::span;

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (3_565_158, "3.4 MiB"),
            (1_048_575, "1.0 MiB"),
            (10 << 30, "10.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn spans() {
        for (ms, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (2190, "2.1 s"),
            (59_999, "59.9 s"),
            (182_000, "3 min 2 s"),
            (11_520_000, "3 h 12 min"),
            (356_400_000, "4 d 3 h"),
        ] {
            assert_eq!(span(ms), text);
        }
    }

    #[test]
    fn moments() {
        for (s, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_709_251_199, "2024-02-29 23:59:59 UTC"),
            (1_793_588_645, "2026-11-02 03:04:05 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
            (12_622_780_800, "2370-01-01 00:00:00 UTC"),
        ] {
            assert_eq!(moment(s * 1000), text);
        }
        assert!(moment(u64::MAX).ends_with(" UTC"));
    }

    #[test]
    fn counts() {
        for (n, noun, text) in [
            (1, "path", "1 path"),
            (0, "path", "0 paths"),
            (2, "directory", "2 directories"),
            (2, "batch", "2 batches"),
        ] {
            assert_eq!(count(n, noun), text);
        }
    }

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(printable("a\\n\x1b[2J\nü"), "a\\n\\u{1b}[2J\\nü");
    }
}
