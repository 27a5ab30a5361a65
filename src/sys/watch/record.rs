//! The bytes that a fanotify descriptor yields, taken apart.
//!
//! A pure function over a slice: it makes no system call, holds no descriptor
//! and never panics, whatever the bytes are. A record whose lengths do not fit
//! ends the parse, since nothing behind it can be trusted; the caller then
//! treats the rest as lost.

/// Length of `struct fanotify_event_metadata`.
const META: usize = 24;
/// Length of an information record before its file handle: header and fsid.
const INFO: usize = 12;
/// Length of `struct file_handle` before its bytes.
const HANDLE: usize = 8;
/// Most bytes of a file handle (`MAX_HANDLE_SZ`).
pub const MAX_HANDLE: usize = 128;

/// A directory and perhaps a name in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirName<'a> {
    /// Filesystem id (8 bytes), then `struct file_handle` as the kernel wrote it.
    pub dir: &'a [u8],
    /// The entry; empty or `.` for the directory itself.
    pub name: &'a [u8],
}

/// One event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// `FAN_*` bits.
    pub mask: u64,
    /// Process that made the change.
    pub pid: i32,
    /// Where it happened; for a rename the new name.
    pub at: Option<DirName<'a>>,
    /// The old name of a rename.
    pub from: Option<DirName<'a>>,
}

/// Calls `each` for every event; `false` where the bytes do not end at the end of a record.
pub fn parse<'a>(mut bytes: &'a [u8], mut each: impl FnMut(Record<'a>)) -> bool {
    while !bytes.is_empty() {
        let Some((record, rest)) = one(bytes) else {
            return false;
        };
        each(record);
        bytes = rest;
    }
    true
}

fn one(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
    let infos_from = usize::from(u16_at(bytes, 6)?);
    let mask = u64::from_ne_bytes(bytes.get(8..16)?.try_into().ok()?);
    let pid = i32::from_ne_bytes(bytes.get(20..24)?.try_into().ok()?);
    let version = *bytes.get(4)?;
    if version != libc::FANOTIFY_METADATA_VERSION || infos_from < META || length < infos_from {
        return None;
    }
    let (event, rest) = bytes.split_at_checked(length)?;
    let mut infos = event.get(infos_from..)?;
    let (mut at, mut from) = (None, None);
    while !infos.is_empty() {
        let size = usize::from(u16_at(infos, 2)?);
        if size < 4 {
            return None;
        }
        let (info, next) = infos.split_at_checked(size)?;
        match info[0] {
            libc::FAN_EVENT_INFO_TYPE_DFID_NAME
            | libc::FAN_EVENT_INFO_TYPE_DFID
            | libc::FAN_EVENT_INFO_TYPE_NEW_DFID_NAME => at = Some(dir_name(info)?),
            libc::FAN_EVENT_INFO_TYPE_OLD_DFID_NAME => from = Some(dir_name(info)?),
            _ => {}
        }
        infos = next;
    }
    let record = Record {
        mask,
        pid,
        at,
        from,
    };
    Some((record, rest))
}

fn dir_name(info: &[u8]) -> Option<DirName<'_>> {
    let handle_len = usize::try_from(u32_at(info, INFO)?).ok()?;
    if handle_len > MAX_HANDLE {
        return None;
    }
    let end = INFO + HANDLE + handle_len;
    let dir = info.get(4..end)?;
    let name = info.get(end..)?;
    // The name is NUL-terminated and padded.
    let name = name.split(|b| *b == 0).next().unwrap_or(name);
    Some(DirName { dir, name })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(field.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes(field.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An information record as the kernel writes it: padded to 4 bytes.
    fn info(kind: u8, handle: &[u8], name: &[u8]) -> Vec<u8> {
        let mut v = vec![kind, 0, 0, 0];
        v.extend([7; 8]);
        v.extend(u32::try_from(handle.len()).expect("short").to_ne_bytes());
        v.extend(1u32.to_ne_bytes());
        v.extend(handle);
        v.extend(name);
        v.push(0);
        v.resize(v.len().next_multiple_of(4), 0);
        let len = u16::try_from(v.len()).expect("short");
        v[2..4].copy_from_slice(&len.to_ne_bytes());
        v
    }

    fn event(mask: u64, pid: i32, infos: &[Vec<u8>]) -> Vec<u8> {
        let body = infos.concat();
        let mut v = Vec::new();
        v.extend(
            u32::try_from(META + body.len())
                .expect("short")
                .to_ne_bytes(),
        );
        v.extend([libc::FANOTIFY_METADATA_VERSION, 0, 24, 0]);
        v.extend(mask.to_ne_bytes());
        v.extend((-1i32).to_ne_bytes());
        v.extend(pid.to_ne_bytes());
        v.extend(body);
        v
    }

    type Seen = (u64, i32, Option<Vec<u8>>, Option<Vec<u8>>, usize);

    fn seen(bytes: &[u8]) -> (Vec<Seen>, bool) {
        let mut out = Vec::new();
        let whole = parse(bytes, |r| {
            let name = |d: Option<DirName<'_>>| d.map(|d| d.name.to_vec());
            let handle = r.at.map_or(0, |d| d.dir.len());
            out.push((r.mask, r.pid, name(r.at), name(r.from), handle));
        });
        (out, whole)
    }

    fn two_events() -> Vec<u8> {
        let created = event(
            libc::FAN_CREATE,
            9,
            &[info(
                libc::FAN_EVENT_INFO_TYPE_DFID_NAME,
                &[1; 8],
                b"a\n\xff",
            )],
        );
        let renamed = event(
            libc::FAN_RENAME,
            10,
            &[
                info(libc::FAN_EVENT_INFO_TYPE_FID, &[1; 12], b""),
                info(libc::FAN_EVENT_INFO_TYPE_OLD_DFID_NAME, &[2; 12], b"old"),
                info(libc::FAN_EVENT_INFO_TYPE_NEW_DFID_NAME, &[3; 16], b"new"),
            ],
        );
        [created, renamed].concat()
    }

    #[test]
    fn names_handles_and_renames() {
        let (records, whole) = seen(&two_events());
        let first = (libc::FAN_CREATE, 9, Some(b"a\n\xff".to_vec()), None, 24);
        let (new, old) = (Some(b"new".to_vec()), Some(b"old".to_vec()));
        assert_eq!(records, [first, (libc::FAN_RENAME, 10, new, old, 32)]);
        assert!(whole);
        let overflow = event(libc::FAN_Q_OVERFLOW, 0, &[]);
        assert_eq!(
            seen(&overflow),
            (vec![(libc::FAN_Q_OVERFLOW, 0, None, None, 0)], true)
        );
    }

    #[test]
    fn a_cut_at_any_byte_yields_only_whole_events() {
        let bytes = two_events();
        let first = usize::try_from(u32_at(&bytes, 0).expect("length")).expect("short");
        for cut in 0..bytes.len() {
            let (records, whole) = seen(&bytes[..cut]);
            assert_eq!(records.len(), usize::from(cut >= first));
            assert_eq!(whole, cut == 0 || cut == first);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            seen(&bytes);
        }

        #[test]
        fn a_few_wrong_bytes_are_survived(
            wrong in prop::collection::vec((0usize..200, any::<u8>()), 1..6)
        ) {
            let mut bytes = two_events();
            for (at, byte) in wrong {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            seen(&bytes);
        }
    }
}
