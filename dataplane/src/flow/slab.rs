//! Where the flows lie: a fixed array, and which places of it are free.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use nix::fcntl::{FallocateFlags, fallocate};
use parking_lot::Mutex;

use super::window::{self, Windows};
use super::{Flow, FlowTableError};
use crate::memory::Memory;
use crate::table::prefetch;

/// The array of flows, in memory of this process or in a file that outlives it.
pub(super) struct Slab {
    flows: Memory<Flow>,
    /// Sequence numbers of each flow, if it is a TCP connection: see [`window`]. They do not
    /// outlive the process.
    windows: Memory<AtomicU64>,
    /// See [`word`].
    header: Memory<AtomicU64>,
    file: Option<File>,
    free: Mutex<Free>,
}

struct Free {
    /// Places that were used and are free again.
    places: Vec<u32>,
    /// Places in front of this one have pages in the file.
    backed: usize,
}

/// Words of the header.
mod word {
    pub(super) const MAGIC: usize = 0;
    pub(super) const LAYOUT: usize = 1;
    pub(super) const PLACES: usize = 2;
    /// Places from here on have never been used.
    pub(super) const HIGH_WATER: usize = 3;
    /// Address of the outer views of all translated flows, 0 for none.
    pub(super) const CELL: usize = 4;
    /// What new flows are translated to: `address << 32 | first port << 16 | last port`, 0 for
    /// nothing.
    pub(super) const OFFER: usize = 5;
    /// The header fills one page.
    pub(super) const COUNT: usize = 512;
}

const HEADER_BYTES: u64 = (word::COUNT * size_of::<AtomicU64>()) as u64;
const MAGIC: u64 = u64::from_le_bytes(*b"sarcenet");
/// Raised when [`Flow`] changes its layout or the meaning of a field. What was always 0 may get a
/// meaning without that.
const LAYOUT: u64 = 1 << 32 | size_of::<Flow>() as u64;

/// Places for which pages are reserved at once: 256 KiB.
const CHUNK: usize = 4096;

impl Slab {
    pub(super) fn anonymous(places: usize) -> io::Result<Self> {
        let header = Memory::anonymous(word::COUNT)?;
        let windows = Memory::anonymous(places * window::WORDS)?;
        Ok(Self::new(Memory::anonymous(places)?, windows, header, None, places))
    }

    /// Opens or makes the file. One of another layout or size, or of anything else, starts empty.
    pub(super) fn open(path: &Path, places: usize) -> Result<Self, FlowTableError> {
        let failed = |operation| {
            move |source| FlowTableError::Io { operation, path: path.to_owned(), source }
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
            .map_err(failed("open"))?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => FlowTableError::InUse(path.to_owned()),
            TryLockError::Error(source) => failed("lock")(source),
        })?;
        let length = HEADER_BYTES + (places * size_of::<Flow>()) as u64;
        let map = |file: &File| -> io::Result<(Memory<Flow>, Memory<AtomicU64>)> {
            file.set_len(length)?;
            reserve(file, 0, HEADER_BYTES)?;
            Ok((Memory::shared(file, HEADER_BYTES, places)?, Memory::shared(file, 0, word::COUNT)?))
        };
        let (mut flows, mut header) = map(&file).map_err(failed("map"))?;
        let said = |at: usize| header[at].load(Acquire);
        let known = said(word::MAGIC) == MAGIC
            && said(word::LAYOUT) == LAYOUT
            && said(word::PLACES) == places as u64
            && said(word::HIGH_WATER) <= places as u64;
        if !known {
            drop((flows, header));
            file.set_len(0).map_err(failed("empty"))?;
            (flows, header) = map(&file).map_err(failed("map"))?;
            header[word::LAYOUT].store(LAYOUT, Relaxed);
            header[word::PLACES].store(places as u64, Relaxed);
            header[word::MAGIC].store(MAGIC, Release);
        }
        let used = header[word::HIGH_WATER].load(Relaxed) as usize;
        let backed = used.next_multiple_of(CHUNK).min(places);
        reserve(&file, HEADER_BYTES, (backed * size_of::<Flow>()) as u64)
            .map_err(failed("reserve"))?;
        let windows =
            Memory::anonymous(places * window::WORDS).map_err(failed("find memory for"))?;
        Ok(Self::new(flows, windows, header, Some(file), backed))
    }

    fn new(
        flows: Memory<Flow>,
        windows: Memory<AtomicU64>,
        header: Memory<AtomicU64>,
        file: Option<File>,
        backed: usize,
    ) -> Self {
        Self { flows, windows, header, file, free: Mutex::new(Free { places: Vec::new(), backed }) }
    }

    /// Lets go of the file, so that it can be opened again even while readers hold the memory.
    pub(super) fn unlock(&self) {
        if let Some(file) = &self.file {
            // Without effect only when the lock is gone already.
            let _ = file.unlock();
        }
    }

    #[inline]
    pub(super) fn get(&self, place: u32) -> Option<&Flow> {
        self.flows.get(place as usize)
    }

    /// Asks for the cache line of a flow, and for that of its sequence numbers if it is `tcp`.
    #[inline]
    pub(super) fn prefetch(&self, place: u32, tcp: bool) {
        if let Some(flow) = self.flows.get(place as usize) {
            prefetch(flow);
        }
        if tcp && let Some(word) = self.windows.get(place as usize * window::WORDS) {
            prefetch(word);
        }
    }

    /// The sequence numbers of the flow at a place.
    #[inline]
    pub(super) fn windows(&self, place: u32) -> Option<Windows<'_>> {
        let at = place as usize * window::WORDS;
        let words = self.windows.get(at..at + window::WORDS)?;
        let (sides, _) = words.as_chunks();
        sides.first_chunk().map(Windows)
    }

    /// The place of a flow; none when it lies in another slab.
    pub(super) fn place(&self, flow: &Flow) -> Option<u32> {
        let distance =
            (std::ptr::from_ref(flow) as usize).checked_sub(self.flows.as_ptr() as usize)?;
        Some(distance / size_of::<Flow>()).filter(|&at| at < self.flows.len()).map(|at| at as u32)
    }

    /// Every place that was ever used lies in front of this one.
    pub(super) fn high_water(&self) -> usize {
        self.header[word::HIGH_WATER].load(Acquire) as usize
    }

    /// Address of the outer views of all translated flows.
    pub(super) fn cell(&self) -> &AtomicU64 {
        &self.header[word::CELL]
    }

    /// What new flows are translated to.
    pub(super) fn offer(&self) -> &AtomicU64 {
        &self.header[word::OFFER]
    }

    /// A place that nobody else uses or looks at.
    pub(super) fn take(&self) -> Option<u32> {
        let mut free = self.free.lock();
        if let Some(place) = free.places.pop() {
            return Some(place);
        }
        let place = self.high_water();
        if place == self.flows.len() {
            return None;
        }
        if place == free.backed
            && let Some(file) = &self.file
        {
            // A page that the file system cannot give would end the process at the first touch.
            let chunk = CHUNK.min(self.flows.len() - place);
            let offset = HEADER_BYTES + (place * size_of::<Flow>()) as u64;
            reserve(file, offset, (chunk * size_of::<Flow>()) as u64).ok()?;
            free.backed += chunk;
        }
        self.header[word::HIGH_WATER].store(place as u64 + 1, Release);
        Some(place as u32)
    }

    /// Gives places back. Nobody may be able to look at them any more.
    pub(super) fn give(&self, places: &[u32]) {
        self.free.lock().places.extend_from_slice(places);
    }
}

fn reserve(file: &File, offset: u64, length: u64) -> io::Result<()> {
    if length == 0 {
        return Ok(());
    }
    let (offset, length) = (offset as libc::off_t, length as libc::off_t);
    Ok(fallocate(file, FallocateFlags::empty(), offset, length)?)
}
