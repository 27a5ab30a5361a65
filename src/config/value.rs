//! The forms in which durations, sizes, shares and networks are written. Pure: text in, value or reason out.

use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::settings::{MaxDelete, Net};

/// Longest duration a setting may have.
pub const MAX_DURATION: Duration = Duration::from_secs(366 * 24 * 3600);

/// What a duration looks like, for hints.
pub const DURATION_FORM: &str =
    "write a whole number and a unit, as \"200ms\", \"5s\", \"1m\", \"24h\" or \"7d\"";
/// What a size looks like, for hints.
pub const SIZE_FORM: &str = "write bytes, as \"10GiB\", \"500MiB\" or \"1TB\"; \"0\" for no limit";
/// What a rate looks like, for hints.
pub const RATE_FORM: &str =
    "write bytes each second, as \"10MiB/s\", \"500KiB/s\" or \"1GB/s\"; \"0\" for no limit";
/// What a network looks like, for hints.
pub const NET_FORM: &str =
    "write the network's address and prefix, as \"192.168.0.0/24\" or \"fd00::/64\"";
/// What a deletion limit looks like, for hints.
pub const MAX_DELETE_FORM: &str = "write \"50%\", \"1000\", \"off\", or { percent = 50, count = 1000 } where both must be exceeded";

/// A word of the file as it appears in messages: quoted, escaped, cut where it is very long.
#[must_use]
pub fn quoted(word: &str) -> String {
    const LONGEST: usize = 80;
    let mut short: String = word.chars().take(LONGEST).collect();
    if short.len() < word.len() {
        short.push('…');
    }
    format!("{short:?}")
}

fn split_unit(s: &str) -> (&str, &str) {
    s.split_at(s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len()))
}

/// A duration such as `200ms`, `5s`, `1m`, `24h` or `7d`; `0` needs no unit.
///
/// # Errors
/// What is wrong with the text.
pub fn duration(s: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(s);
    let n: u64 = number
        .parse()
        .map_err(|_| format!("{} is not a duration", quoted(s)))?;
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" if n == 0 => 1,
        "" => return Err(format!("{} has no unit", quoted(s))),
        _ => return Err(format!("{} is not a duration", quoted(s))),
    };
    n.checked_mul(milliseconds)
        .map(Duration::from_millis)
        .filter(|d| *d <= MAX_DURATION)
        .ok_or_else(|| format!("{} is longer than a year", quoted(s)))
}

/// Bytes each second, as `10MiB/s`; `0` is no limit.
///
/// # Errors
/// What is wrong with the text.
pub fn rate(s: &str) -> Result<Option<u64>, String> {
    bytes(s, s.strip_suffix("/s").unwrap_or(s), "a rate")
}

/// A number of bytes, as `10GiB`; `0` is no limit.
///
/// # Errors
/// What is wrong with the text.
pub fn size(s: &str) -> Result<Option<u64>, String> {
    bytes(s, s, "a size")
}

fn bytes(s: &str, amount: &str, what: &str) -> Result<Option<u64>, String> {
    let bad = || format!("{} is not {what}", quoted(s));
    let (number, unit) = split_unit(amount);
    let n: u64 = number.parse().map_err(|_| bad())?;
    let factor: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "" if n == 0 => 1,
        "" => return Err(format!("{} has no unit", quoted(s))),
        _ => return Err(bad()),
    };
    let bytes = n
        .checked_mul(factor)
        .ok_or_else(|| format!("{} is too large", quoted(s)))?;
    Ok((bytes > 0).then_some(bytes))
}

/// A limit for deletions: `50%`, `1000`, or `off`.
///
/// # Errors
/// What is wrong with the text.
pub fn max_delete(s: &str) -> Result<Option<MaxDelete>, String> {
    if s == "off" {
        return Ok(None);
    }
    let bad = || format!("{} is no limit for deletions", quoted(s));
    let (count, percent) = match s.strip_suffix('%') {
        Some(p) => (None, Some(percent(p.parse().map_err(|_| bad())?)?)),
        None => (Some(s.parse().map_err(|_| bad())?), None),
    };
    Ok(Some(MaxDelete {
        count,
        percent,
        window: MaxDelete::WINDOW,
    }))
}

/// A share in percent.
///
/// # Errors
/// Where it is not 1 to 100.
pub fn percent(n: u64) -> Result<u8, String> {
    match u8::try_from(n) {
        Ok(p @ 1..=100) => Ok(p),
        _ => Err(format!("{n}% is not between 1% and 100%")),
    }
}

/// A network such as `192.168.0.0/24`; an address alone is a network of itself.
///
/// # Errors
/// What is wrong with the text.
pub fn net(s: &str) -> Result<Net, String> {
    let bad = || format!("{} is not a network", quoted(s));
    let (addr, prefix) = match s.split_once('/') {
        Some((a, p)) => (a, Some(p)),
        None => (s, None),
    };
    let addr: IpAddr = addr.parse().map_err(|_| bad())?;
    let bits: u8 = if addr.is_ipv4() { 32 } else { 128 };
    let prefix: u8 = prefix.map_or(Ok(bits), str::parse).map_err(|_| bad())?;
    if prefix > bits {
        return Err(format!(
            "{} has a prefix longer than {bits} bits",
            quoted(s)
        ));
    }
    let network = Net {
        addr: masked(addr, prefix),
        prefix,
    };
    if network.addr != addr {
        return Err(format!(
            "{} has bits beyond its prefix; the network is \"{network}\"",
            quoted(s)
        ));
    }
    Ok(network)
}

fn masked(addr: IpAddr, prefix: u8) -> IpAddr {
    match addr {
        IpAddr::V4(a) => {
            let keep = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4((a.to_bits() & keep).into())
        }
        IpAddr::V6(a) => {
            let keep = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6((a.to_bits() & keep).into())
        }
    }
}

/// An absolute path without `.`, `..` and doubled slashes; `None` where it is relative or has a NUL.
/// Symbolic links are not followed: this is about the words in the file.
#[must_use]
pub fn absolute(s: &str) -> Option<PathBuf> {
    if !s.starts_with('/') || s.contains('\0') {
        return None;
    }
    let mut out = PathBuf::from("/");
    for c in Path::new(s).components() {
        match c {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    Some(out)
}

/// Number of single-character edits (insert, delete, replace, swap of neighbours) between two short words.
#[must_use]
pub fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replace = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

/// The word nearest to `word`, where one is near enough to be meant.
#[must_use]
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // An unknown word may be as long as the file; comparing it would cost its length squared.
    if word.len() > super::MAX_NAME {
        return None;
    }
    let far = (word.chars().count() / 3).max(1) + 1;
    known
        .into_iter()
        .map(|k| (distance(word, k), k))
        .filter(|(d, _)| *d < far)
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [
            ("200ms", 200),
            ("5s", 5000),
            ("1m", 60_000),
            ("24h", 86_400_000),
            ("7d", 604_800_000),
            ("0", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        assert_eq!(duration("366d"), Ok(MAX_DURATION));
        for bad in [
            "",
            "5",
            "s",
            "-5s",
            "1.5s",
            "5 s",
            "5S",
            "367d",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rates() {
        for (text, bytes) in [
            ("10MiB/s", Some(10 << 20)),
            ("500KiB", Some(512_000)),
            ("1GB/s", Some(1_000_000_000)),
            ("0", None),
            ("0B/s", None),
        ] {
            assert_eq!(rate(text), Ok(bytes), "{text}");
        }
        for bad in ["", "10", "10MiB/h", "fast", "18446744073709551615GiB/s"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("10GiB", Some(10 << 30)),
            ("1TB", Some(1_000_000_000_000)),
            ("7B", Some(7)),
            ("0", None),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "10", "10GiB/s", "much", "18446744073709551615TiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn deletion_limits() {
        let limit = |count, percent| {
            Ok(Some(MaxDelete {
                count,
                percent,
                window: MaxDelete::WINDOW,
            }))
        };
        assert_eq!(max_delete("50%"), limit(None, Some(50)));
        assert_eq!(max_delete("1000"), limit(Some(1000), None));
        assert_eq!(max_delete("0"), limit(Some(0), None));
        assert_eq!(max_delete("off"), Ok(None));
        for bad in ["", "0%", "101%", "%", "-1", "ten"] {
            assert!(max_delete(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn networks() {
        for good in [
            "192.168.0.0/24",
            "0.0.0.0/0",
            "10.1.2.3/32",
            "::/0",
            "fd00::/64",
        ] {
            assert_eq!(net(good).map(|n| n.to_string()), Ok(good.to_owned()));
        }
        assert_eq!(net("10.1.2.3").map(|n| n.prefix), Ok(32));
        for bad in [
            "192.168.0.1/24",
            "10.0.0.0/33",
            "::/129",
            "10.0.0/8",
            "x",
            "fd00::1/64",
            "10.0.0.0/",
        ] {
            assert!(net(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_are_normalised_by_their_words() {
        for (text, path) in [
            ("/a/b", "/a/b"),
            ("//a//b/", "/a/b"),
            ("/a/./b/../c", "/a/c"),
            ("/../..", "/"),
            ("/", "/"),
        ] {
            assert_eq!(absolute(text), Some(path.into()), "{text}");
        }
        assert_eq!(absolute("a/b"), None);
        assert_eq!(absolute(""), None);
        assert_eq!(absolute("/a\0b"), None);
    }

    #[test]
    fn the_nearest_word_is_near() {
        for (a, b, d) in [
            ("", "abc", 3),
            ("exlude", "exclude", 1),
            ("nmae", "name", 1),
            ("path", "path", 0),
        ] {
            assert_eq!((distance(a, b), distance(b, a)), (d, d), "{a} {b}");
        }
        assert_eq!(
            nearest("exlude", ["name", "path", "exclude"]),
            Some("exclude")
        );
        assert_eq!(nearest("on", ["run", "paths"]), None);
        assert_eq!(nearest("zzz", ["run", "paths"]), None);
    }
}
