//! Disks whose power can be cut: what was not written to them by then is gone.
//!
//! Each is an image with a file system of its own, behind a write cache, and the images lie on an xfs, which can clone a file
//! at an instant. What the file system above still held in memory is not in the clone, and of what the cache was not told to
//! flush there is what luck leaves. So the clone is what a disk may hold after a power cut: its journal is replayed when it is
//! mounted.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use super::cache::{Cache, Luck};
use super::random::Random;

/// A file system in an image of its own, mounted until dropped.
pub struct Image {
    /// Where it is mounted.
    pub at: PathBuf,
    dir: tempfile::TempDir,
}

impl Image {
    /// Makes one of so many bytes (sparse) with a program that makes file systems.
    ///
    /// # Errors
    /// Why that cannot be done here.
    pub fn new(make: &str, size: u64) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("mounting needs root".to_owned());
        }
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let (image, at) = (dir.path().join("image"), dir.path().join("mnt"));
        blank(&image, size).map_err(|e| e.to_string())?;
        fs::create_dir(&at).map_err(|e| e.to_string())?;
        run(Command::new(make).arg("-q").arg(&image))?;
        mount(&image, &at, "loop")?;
        Ok(Self { at, dir })
    }

    /// A bit of a file goes bad on the disk: nobody touched the file, and nothing but its content says so.
    ///
    /// # Errors
    /// Why that cannot be done here.
    pub fn rot(&self, file: &Path) -> Result<(), String> {
        const SECTOR: u64 = 512;
        let text = |e: io::Error| e.to_string();
        let open = File::open(file).map_err(text)?;
        open.sync_all().map_err(text)?;
        let out = Command::new("filefrag")
            .args(["-v", "-b512"])
            .arg(file)
            .output()
            .map_err(text)?;
        let told = String::from_utf8_lossy(&out.stdout);
        // "0:  0..  9:  1234..  1243:  10: last,eof"
        let first = told.lines().find_map(|line| line.trim().strip_prefix("0:"));
        let place = first.and_then(|line| {
            line.split(':')
                .nth(1)?
                .split("..")
                .next()?
                .trim()
                .parse::<u64>()
                .ok()
        });
        let place =
            place.ok_or_else(|| format!("where {} lies is not told: {told}", file.display()))?;
        let image = self.dir.path().join("image");
        let disk = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(image)
            .map_err(text)?;
        let mut byte = [0];
        disk.read_exact_at(&mut byte, place * SECTOR)
            .map_err(text)?;
        disk.write_all_at(&[byte[0] ^ 1], place * SECTOR)
            .map_err(text)?;
        // What was read before is not what the disk has.
        rustix::fs::fadvise(&open, 0, None, rustix::fs::Advice::DontNeed).map_err(|e| e.to_string())
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        unmount(&self.at);
    }
}

/// What is on a disk.
#[derive(Debug, Clone, Copy)]
pub enum Format {
    /// With its journal, as it is made by default.
    Ext4,
    /// Which may leave a file empty that was renamed before its bytes were written.
    Xfs,
    /// Which writes nothing in place.
    Btrfs,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ext4, Self::Xfs, Self::Btrfs];

    /// The one that `mount` calls by this name.
    pub fn named(name: &str) -> Option<Self> {
        let is = |f: &Self| format!("{f:?}").eq_ignore_ascii_case(name);
        Self::ALL.into_iter().find(is)
    }

    /// The program that makes it, its arguments, the bytes that it takes at least, and how it is mounted.
    fn making(self) -> (&'static str, &'static [&'static str], u64, &'static str) {
        match self {
            Self::Ext4 => (
                "mkfs.ext4",
                &["-q", "-E", "lazy_itable_init=0"],
                128 << 20,
                "loop",
            ),
            // A clone has the same id as the disk that it was taken of.
            Self::Xfs => ("mkfs.xfs", &["-q"], 320 << 20, "loop,nouuid"),
            Self::Btrfs => ("mkfs.btrfs", &["-q"], 256 << 20, "loop"),
        }
    }
}

type Caches = Arc<Mutex<Vec<Arc<Cache>>>>;

/// Where the images of disks lie.
pub struct Bay {
    // They go when nothing is mounted on them any more, and before the images do.
    caches: Caches,
    image: Image,
}

/// The disk of one node.
pub struct Disk {
    bay: PathBuf,
    name: String,
    at: PathBuf,
    cuts: usize,
    options: &'static str,
    caches: Caches,
    /// What it is now.
    cache: Arc<Cache>,
}

impl Bay {
    /// Makes room for disks.
    ///
    /// # Errors
    /// Why that cannot be done here.
    pub fn new() -> Result<Self, String> {
        if !Path::new("/dev/fuse").exists() {
            return Err("a disk with a write cache needs /dev/fuse".to_owned());
        }
        Ok(Self {
            caches: Caches::default(),
            image: Image::new("mkfs.xfs", 4 << 30)?,
        })
    }

    /// Where images that can be cloned may lie.
    pub fn at(&self) -> &Path {
        &self.image.at
    }

    /// A new disk, mounted at a directory.
    ///
    /// # Errors
    /// Why it cannot be made.
    pub fn disk(&self, name: &str, at: &Path, format: Format) -> Result<Disk, String> {
        let (make, arguments, size, options) = format.making();
        let bay = self.image.at.clone();
        let image = image(&bay, name, 0);
        blank(&image, size).map_err(|e| e.to_string())?;
        run(Command::new(make).args(arguments).arg(&image))?;
        let cache = insert(&self.caches, &image)?;
        mount(&cache.file(), at, options)?;
        Ok(Disk {
            bay,
            name: name.to_owned(),
            at: at.to_owned(),
            cuts: 0,
            options,
            caches: self.caches.clone(),
            cache,
        })
    }
}

fn image(bay: &Path, name: &str, cuts: usize) -> PathBuf {
    bay.join(format!("{name}-{cuts}.img"))
}

fn insert(caches: &Caches, image: &Path) -> Result<Arc<Cache>, String> {
    let cache = Cache::new(image, &image.with_extension("cache"));
    let cache = Arc::new(cache.map_err(|e| format!("a disk with a cache: {e}"))?);
    let mut caches = caches.lock().unwrap_or_else(PoisonError::into_inner);
    caches.push(cache.clone());
    Ok(cache)
}

impl Disk {
    fn image(&self) -> PathBuf {
        image(&self.bay, &self.name, self.cuts)
    }

    /// The power goes now. The node goes on with what it has until [`Self::restore`].
    ///
    /// # Errors
    /// What the system says.
    pub fn cut(&mut self, luck: Luck, random: &mut Random) -> io::Result<()> {
        self.cuts += 1;
        self.cache.cut(&self.image(), luck, random)
    }

    /// Brings everything to the disk that is mounted at a directory.
    ///
    /// # Errors
    /// What the system says.
    pub fn sync(at: &Path) -> io::Result<()> {
        Ok(rustix::fs::syncfs(File::open(at)?)?)
    }

    /// The power is back: what the disk held when it went stands at its place. Nothing may run on it.
    ///
    /// # Errors
    /// Why it cannot be mounted.
    pub fn restore(&mut self) -> Result<(), String> {
        unmount(&self.at);
        self.cache = insert(&self.caches, &self.image())?;
        mount(&self.cache.file(), &self.at, self.options)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(&self.at);
    }
}

fn blank(image: &Path, size: u64) -> io::Result<()> {
    File::create_new(image)?.set_len(size)
}

fn mount(image: &Path, at: &Path, options: &str) -> Result<(), String> {
    run(Command::new("mount")
        .args(["-o", options])
        .arg(image)
        .arg(at))
}

/// Takes a mount away, once nobody uses it any more.
pub fn unmount(at: &Path) {
    if run(Command::new("umount").arg(at)).is_err() {
        // Whoever still has it open ends with the test; the mount goes with the last of them.
        let _ = run(Command::new("umount").arg("--lazy").arg(at));
    }
}

fn run(c: &mut Command) -> Result<(), String> {
    let out = c.output().map_err(|e| format!("cannot run {c:?}: {e}"))?;
    if out.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&out.stderr);
    Err(format!("{c:?}: {}", why.trim()))
}
