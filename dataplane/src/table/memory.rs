//! Mapped memory that begins as zeroes and costs nothing until it is touched.

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

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
unsafe impl AnyBits for super::index::Bucket {}

/// A mapped array.
pub(crate) struct Memory<T> {
    base: NonNull<T>,
    count: usize,
    owner: PhantomData<[T]>,
}

// SAFETY: it owns its mapping and gives out shared references only, like a `Box<[T]>`; `T` is
// atomic and has no destructor.
unsafe impl<T: AnyBits> Send for Memory<T> {}
// SAFETY: as above.
unsafe impl<T: AnyBits> Sync for Memory<T> {}

impl<T: AnyBits> Memory<T> {
    /// Memory of this process, in huge pages where the kernel has them.
    pub(crate) fn anonymous(count: usize) -> io::Result<Self> {
        let memory =
            Self::map(count, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE, -1, 0)?;
        // SAFETY: the range is the mapping made just now. Failure (a kernel without huge pages)
        // costs speed and nothing else.
        unsafe { libc::madvise(memory.base.as_ptr().cast(), memory.bytes(), libc::MADV_HUGEPAGE) };
        Ok(memory)
    }

    /// Memory that is a file's content from `offset` (a multiple of the page size) on. The file
    /// must be long enough and must not be cut while the mapping lives.
    pub(crate) fn shared(file: &File, offset: u64, count: usize) -> io::Result<Self> {
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        Self::map(count, libc::MAP_SHARED, file.as_raw_fd(), offset)
    }

    fn map(count: usize, flags: i32, fd: i32, offset: libc::off_t) -> io::Result<Self> {
        let bytes = count.checked_mul(size_of::<T>()).filter(|&bytes| bytes > 0);
        let bytes = bytes.ok_or(io::ErrorKind::InvalidInput)?;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice disturbs no other memory.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, flags, fd, offset) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(address.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { base, count, owner: PhantomData })
    }

    fn bytes(&self) -> usize {
        self.count * size_of::<T>()
    }
}

impl<T> Deref for Memory<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: the mapping is `count` values long, page-aligned, lives as long as `self`, and
        // every content of it is valid ([`AnyBits`], required by every constructor).
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.count) }
    }
}

impl<T> Drop for Memory<T> {
    fn drop(&mut self) {
        let bytes = self.count * size_of::<T>();
        // SAFETY: the mapping was made with this length, and no reference outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), bytes) };
    }
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
    }
}
