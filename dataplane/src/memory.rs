//! Mapped memory that begins as zeroes: [`Memory`] for tables that threads share, [`Bytes`] for
//! what one worker owns. Both lie in huge pages where there are any, because look-ups and copies
//! in small pages spend their time in page tables.
//!
//! References: mmap(2), madvise(2), `Documentation/admin-guide/mm/hugetlbpage.rst` and
//! `transhuge.rst` of the Linux kernel.
#![expect(unsafe_code, reason = "mmap(2), madvise(2), and values in what they map")]

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// Bytes of the huge pages that are asked for.
const HUGE_PAGE: usize = 2 << 20;

/// Says whether transparent huge pages can be had.
const TRANSPARENT: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// What memory lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pages {
    /// Huge pages that the machine's owner has set apart (`vm.nr_hugepages`), all of them taken.
    Reserved,
    /// Huge pages where the kernel has some when the memory is first touched.
    Transparent,
    /// Pages of the usual size.
    Ordinary,
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reserved => "reserved huge pages",
            Self::Transparent => "transparent huge pages",
            Self::Ordinary => "ordinary pages",
        })
    }
}

/// Types for which any bytes are a value.
///
/// # Safety
/// Every bit pattern must be a valid value, also one that another process writes at any moment:
/// in practice, atomic integers and arrays and structures of nothing else. The alignment must not
/// exceed a page.
pub(crate) unsafe trait AnyBits: Sync {}

// SAFETY: an atomic integer.
unsafe impl AnyBits for AtomicU64 {}
// SAFETY: a structure of atomic integers, aligned to 64; what lies between them is never read.
unsafe impl AnyBits for crate::flow::Flow {}
// SAFETY: an array of atomic integers, aligned to 64.
#[cfg(not(loom))]
unsafe impl AnyBits for crate::table::Bucket {}

/// A mapped array that threads share.
pub(crate) struct Memory<T> {
    mapping: Mapping,
    count: usize,
    owner: PhantomData<[T]>,
}

// SAFETY: it owns its mapping and gives out shared references only, like a `Box<[T]>`; `T` is
// atomic and has no destructor.
unsafe impl<T: AnyBits> Send for Memory<T> {}
// SAFETY: as above.
unsafe impl<T: AnyBits> Sync for Memory<T> {}

impl<T: AnyBits> Memory<T> {
    /// Memory of this process.
    pub(crate) fn anonymous(count: usize) -> io::Result<Self> {
        Ok(Self::new(Mapping::anonymous(Self::bytes(count)?)?, count))
    }

    /// Memory that is a file's content from `offset` (a multiple of the page size) on. The file
    /// must be long enough and must not be cut while the mapping lives. It has huge pages when its
    /// file system has (tmpfs mounted with `huge=`).
    pub(crate) fn shared(file: &File, offset: u64, count: usize) -> io::Result<Self> {
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        let len = Self::bytes(count)?;
        let mapping = Mapping::new(len, libc::MAP_SHARED, file.as_raw_fd(), offset)?;
        // Refused where the kernel has none; nobody counts on it.
        let _ = mapping.advise(libc::MADV_HUGEPAGE);
        Ok(Self::new(mapping, count))
    }

    /// What it lies in.
    pub(crate) fn pages(&self) -> Pages {
        self.mapping.pages
    }

    fn new(mapping: Mapping, count: usize) -> Self {
        Self { mapping, count, owner: PhantomData }
    }

    fn bytes(count: usize) -> io::Result<usize> {
        Ok(count.checked_mul(size_of::<T>()).ok_or(io::ErrorKind::InvalidInput)?)
    }
}

impl<T> Deref for Memory<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: the mapping is `count` values long, page-aligned, lives as long as `self`, and
        // every content of it is valid ([`AnyBits`], required by every constructor).
        unsafe { std::slice::from_raw_parts(self.mapping.base.as_ptr().cast(), self.count) }
    }
}

/// Mapped bytes with one owner.
pub(crate) struct Bytes {
    mapping: Mapping,
    len: usize,
}

// SAFETY: it owns its mapping, which nobody else has, like a `Box<[u8]>`.
unsafe impl Send for Bytes {}
// SAFETY: as above; shared references only read.
unsafe impl Sync for Bytes {}

impl Bytes {
    /// Memory of this process.
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        Ok(Self { mapping: Mapping::anonymous(len)?, len })
    }

    /// What it lies in.
    pub(crate) fn pages(&self) -> Pages {
        self.mapping.pages
    }
}

impl Deref for Bytes {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is `len` bytes long at least, private to this process and to `self`,
        // and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.mapping.base.as_ptr(), self.len) }
    }
}

impl DerefMut for Bytes {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.mapping.base.as_ptr(), self.len) }
    }
}

/// A mapping and its end.
struct Mapping {
    base: NonNull<u8>,
    len: usize,
    pages: Pages,
}

impl Mapping {
    /// Private memory in the largest pages there are: reserved huge ones for what fills at least
    /// one, else transparent ones, else ordinary ones.
    fn anonymous(len: usize) -> io::Result<Self> {
        let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        if len >= HUGE_PAGE
            && let Some(whole) = len.checked_next_multiple_of(HUGE_PAGE)
            && let Ok(mut mapping) =
                Self::new(whole, private | libc::MAP_HUGETLB | libc::MAP_HUGE_2MB, -1, 0)
            // Taken now: a page that a control group's limit denied at the first touch would end
            // the process (SIGBUS).
            && mapping.advise(libc::MADV_POPULATE_WRITE).is_ok()
        {
            mapping.pages = Pages::Reserved;
            return Ok(mapping);
        }
        let mut mapping = Self::new(len, private | libc::MAP_NORESERVE, -1, 0)?;
        if len >= HUGE_PAGE && mapping.advise(libc::MADV_HUGEPAGE).is_ok() && transparent() {
            mapping.pages = Pages::Transparent;
        }
        Ok(mapping)
    }

    fn new(len: usize, flags: i32, fd: i32, offset: libc::off_t) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice disturbs no other memory.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), len, access, flags, fd, offset) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(address.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { base, len, pages: Pages::Ordinary })
    }

    fn advise(&self, advice: i32) -> io::Result<()> {
        // SAFETY: the range is this mapping, and the advice given here changes no content.
        let result = unsafe { libc::madvise(self.base.as_ptr().cast(), self.len, advice) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length, and no reference outlives its owner.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// Whether the kernel follows the advice to use huge pages: it takes it in any case.
fn transparent() -> bool {
    fs::read_to_string(TRANSPARENT).is_ok_and(|modes| !modes.contains("[never]"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn begins_as_zeroes_and_keeps_what_is_written() {
        let memory = Memory::<AtomicU64>::anonymous(1 << 20).unwrap();
        assert_eq!(memory.len(), 1 << 20);
        assert_eq!(memory[(1 << 20) - 1].load(Relaxed), 0);
        memory[(1 << 20) - 1].store(7, Relaxed);
        assert_eq!(memory[(1 << 20) - 1].load(Relaxed), 7);
        let mut bytes = Bytes::new(HUGE_PAGE + 1).unwrap();
        assert_eq!((bytes.len(), bytes[HUGE_PAGE]), (HUGE_PAGE + 1, 0));
        bytes[HUGE_PAGE] = 9;
        assert_eq!(bytes[HUGE_PAGE], 9);
    }

    #[test]
    fn a_file_is_shared() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8192).unwrap();
        let a = Memory::<AtomicU64>::shared(&file, 4096, 512).unwrap();
        let b = Memory::<AtomicU64>::shared(&file, 0, 1024).unwrap();
        a[3].store(99, Relaxed);
        assert_eq!(b[512 + 3].load(Relaxed), 99);
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        assert!(Memory::<AtomicU64>::anonymous(0).is_err());
        assert!(Memory::<AtomicU64>::anonymous(usize::MAX / 4).is_err());
        assert!(Bytes::new(usize::MAX).is_err());
    }

    /// The pages that `smaps` shows for an address, in bytes: those of the mapping, and how many
    /// of its bytes are in transparent huge ones.
    fn smaps(address: usize) -> (usize, usize) {
        let text = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        let (mut page, mut transparent) = (0, 0);
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let first = words.next().unwrap_or_default();
            if let Some((start, end)) = first.split_once('-')
                && let Ok(start) = usize::from_str_radix(start, 16)
                && let Ok(end) = usize::from_str_radix(end, 16)
            {
                inside = (start..end).contains(&address);
                continue;
            }
            let mut kib = || words.next().and_then(|n| n.parse::<usize>().ok());
            match first {
                "KernelPageSize:" if inside => page = kib().unwrap() << 10,
                "AnonHugePages:" if inside => transparent = kib().unwrap() << 10,
                _ => {}
            }
        }
        (page, transparent)
    }

    /// Whatever this machine has, what is said is what there is.
    #[test]
    fn pages_are_what_they_are_said_to_be() {
        let mut bytes = Bytes::new(4 * HUGE_PAGE).unwrap();
        bytes.fill(1);
        let (page, transparent) = smaps(bytes.as_ptr() as usize);
        match bytes.pages() {
            Pages::Reserved => assert_eq!(page, HUGE_PAGE),
            // The kernel may have had none to give, but then this machine is nearly full.
            Pages::Transparent => assert!(page < HUGE_PAGE && transparent > 0),
            Pages::Ordinary => assert_eq!((page < HUGE_PAGE, transparent), (true, 0)),
        }
        assert_eq!(Bytes::new(HUGE_PAGE - 1).unwrap().pages(), Pages::Ordinary);
    }
}
