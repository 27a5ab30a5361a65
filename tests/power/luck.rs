//! The disk of these tests itself: what it was told to flush stays, the rest is a matter of luck.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use crate::common::cache::{Cache, Luck};
use crate::common::disk::Bay;
use crate::common::random::Random;

const SECTOR: usize = 512;
const SECTORS: usize = 4096;

#[test]
fn a_power_cut_takes_what_was_not_flushed() {
    let bay = match Bay::new() {
        Ok(bay) => bay,
        Err(why) => return println!("skipped: {why}"),
    };
    let image = bay.at().join("image");
    let make = |fill: u8| vec![fill; SECTOR * SECTORS];
    fs::write(&image, make(0)).expect("an image");
    let cache = Cache::new(&image, &bay.at().join("cache")).expect("a disk");
    let disk = File::options().read(true).write(true).open(cache.file());
    let disk = disk.expect("the disk");
    disk.write_all_at(&make(1), 0).expect("written");
    disk.sync_all().expect("flushed");
    for fill in [2, 3] {
        disk.write_all_at(&make(fill), 0).expect("written");
    }
    let mut random = Random::new(1);
    let mut left = |name: &str, luck| {
        let after = bay.at().join(name);
        cache.cut(&after, luck, &mut random).expect("cut");
        let bytes = fs::read(after).expect("an image");
        let sectors = bytes.chunks_exact(SECTOR).map(|s| {
            assert!(s.iter().all(|b| *b == s[0]), "a torn sector");
            usize::from(s[0])
        });
        sectors.fold([0; 4], |mut count, fill| {
            count[fill] += 1;
            count
        })
    };
    assert_eq!(left("none", Luck::None), [0, SECTORS, 0, 0]);
    assert_eq!(left("all", Luck::All), [0, 0, 0, SECTORS]);
    let [before, flushed, first, last] = left("each", Luck::Each);
    assert_eq!(before, 0, "from before the flush");
    for count in [flushed, first, last] {
        assert!((1000..1800).contains(&count), "{flushed} {first} {last}");
    }
    // Whoever runs on it sees what it wrote, flushed or not.
    let mut bytes = vec![0; 3 * SECTOR];
    disk.read_exact_at(&mut bytes, 7).expect("read");
    assert!(bytes.iter().all(|b| *b == 3));
}
