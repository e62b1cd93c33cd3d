//! What the programs in `bpf/` share: getting one into the kernel, and the table of taken ports.
#![expect(unsafe_code, reason = "libbpf, which speaks bpf(2) for us, is a C library")]

use std::ffi::{CStr, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr::{self, NonNull};

use parking_lot::Mutex;
use sarcenet_dataplane_api::PortRange;

/// Aligned as the headers in an ELF file are.
#[repr(C, align(8))]
pub(super) struct Aligned<T: ?Sized>(pub(super) T);

/// Bytes for what the kernel's verifier has to say.
const LOG_LEN: usize = 64 * 1024;

/// Why a program did not get into the kernel.
#[derive(Debug, thiserror::Error)]
#[error("{source} ({}){log}", cure(source))]
pub struct LoadError {
    /// What the system said.
    pub source: io::Error,
    /// What the kernel's verifier said, after a line break; empty when it said nothing.
    pub log: String,
}

/// What an error of bpf(2) means for a program that was to be loaded.
fn cure(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "a capability is missing: it takes CAP_BPF and CAP_NET_ADMIN, or a kernel that is not \
             locked down; or the verifier refused it"
        }
        Some(libc::ENOMEM | libc::ENOBUFS) => {
            "no memory, or more locked memory than the process may have: give it CAP_IPC_LOCK, or \
             raise the limit (LimitMEMLOCK=infinity, ulimit -l unlimited)"
        }
        Some(libc::ENOSYS) => "this kernel has no BPF (CONFIG_BPF_SYSCALL)",
        Some(libc::EINVAL | libc::EOPNOTSUPP) => "the kernel is too old; it takes 6.6",
        _ => "see the kernel's log",
    }
}

/// What is to be loaded.
pub(super) struct Source<'a> {
    /// The object file that clang made.
    pub(super) object: &'static Aligned<[u8]>,
    /// Name of its program.
    pub(super) program: &'a CStr,
    /// The program's constants, laid out as in its source.
    pub(super) constants: &'a [u8],
    /// Maps that are to have another number of entries than the source says.
    pub(super) sizes: &'a [(&'a CStr, u32)],
}

/// Loads a program. Returns it, and those of its maps that are asked for.
///
/// # Errors
/// [`LoadError`].
pub(super) fn load<const N: usize>(
    source: &Source<'_>,
    maps: [&CStr; N],
) -> Result<(OwnedFd, [OwnedFd; N]), LoadError> {
    let mut log = vec![0; LOG_LEN];
    load_logged(source, maps, &mut log).map_err(|source| {
        let said = CStr::from_bytes_until_nul(&log).unwrap_or_default().to_string_lossy();
        let log = if said.is_empty() { String::new() } else { format!("\n{}", said.trim_end()) };
        LoadError { source, log }
    })
}

fn load_logged<const N: usize>(
    source: &Source<'_>,
    maps: [&CStr; N],
    log: &mut [u8],
) -> io::Result<(OwnedFd, [OwnedFd; N])> {
    let object = Object::open(source.object, log)?;
    object.set_constants(source.constants)?;
    for &(name, entries) in source.sizes {
        let map = object.map(name)?;
        // SAFETY: the map is one of this object, which is not loaded yet.
        check(unsafe { libxdp_sys::bpf_map__set_max_entries(map.as_ptr(), entries) })?;
    }
    // SAFETY: the object is open.
    check(unsafe { libxdp_sys::bpf_object__load(object.0.as_ptr()) })?;
    // SAFETY: the object is loaded, the name ends with a zero byte, and the program that is found
    // belongs to the object.
    let program = unsafe {
        let program = libxdp_sys::bpf_object__find_program_by_name(
            object.0.as_ptr(),
            source.program.as_ptr(),
        );
        if program.is_null() {
            return Err(io::Error::last_os_error());
        }
        libxdp_sys::bpf_program__fd(program)
    };
    let program = duplicate(program)?;
    let maps = maps.into_iter().map(|name| object.map_fd(name)).collect::<io::Result<Vec<_>>>()?;
    let maps = maps.try_into().map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    Ok((program, maps))
}

unsafe extern "C" {
    /// In libbpf, as all the others, but missing among the bindings. The argument is a function
    /// that prints, or null; so is what it returns.
    fn libbpf_set_print(print: *const c_void) -> *const c_void;
}

/// Keeps libbpf from printing: what it would say to standard error, our errors do.
pub(super) fn hush() {
    // SAFETY: null is allowed and means that nothing is printed.
    unsafe { libbpf_set_print(ptr::null()) };
}

/// An opened object file, closed with everything in it that was not duplicated.
struct Object(NonNull<libxdp_sys::bpf_object>);

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: the object was opened by `bpf_object__open_mem` and is closed only here.
        unsafe { libxdp_sys::bpf_object__close(self.0.as_ptr()) };
    }
}

impl Object {
    /// Opens an embedded file. `log` is where the verifier writes; it must outlive the object.
    fn open(file: &'static Aligned<[u8]>, log: &mut [u8]) -> io::Result<Self> {
        hush();
        // SAFETY: plain data, for which all zeroes is valid and means "not given".
        let mut options: libxdp_sys::bpf_object_open_opts = unsafe { std::mem::zeroed() };
        options.sz = size_of_val(&options);
        options.kernel_log_buf = log.as_mut_ptr().cast();
        options.kernel_log_size = log.len();
        options.kernel_log_level = 1;
        // SAFETY: the bytes are static and the options live for the call; the log outlives the
        // object, as this function asks for.
        let object = unsafe {
            libxdp_sys::bpf_object__open_mem(
                file.0.as_ptr().cast(),
                file.0.len(),
                &raw const options,
            )
        };
        NonNull::new(object).map(Self).ok_or_else(io::Error::last_os_error)
    }

    fn map(&self, name: &CStr) -> io::Result<NonNull<libxdp_sys::bpf_map>> {
        // SAFETY: the object is open, the name ends with a zero byte.
        let map =
            unsafe { libxdp_sys::bpf_object__find_map_by_name(self.0.as_ptr(), name.as_ptr()) };
        NonNull::new(map).ok_or_else(io::Error::last_os_error)
    }

    /// A descriptor of a map of the loaded object.
    fn map_fd(&self, name: &CStr) -> io::Result<OwnedFd> {
        let map = self.map(name)?;
        // SAFETY: the map is one of this object, which is open.
        duplicate(unsafe { libxdp_sys::bpf_map__fd(map.as_ptr()) })
    }

    /// Sets what the program knows as `cell`, before it is loaded.
    fn set_constants(&self, value: &[u8]) -> io::Result<()> {
        let map = self.map(c".rodata")?;
        let mut len = 0;
        // SAFETY: the map is one of this object; libbpf returns where its initial value lies and
        // how long it is, and it stays there until the object is loaded. At most that much is
        // written.
        unsafe {
            let at = libxdp_sys::bpf_map__initial_value(map.as_ptr(), &raw mut len);
            if at.is_null() || len < value.len() {
                return Err(io::Error::from_raw_os_error(libc::EINVAL));
            }
            ptr::copy_nonoverlapping(value.as_ptr(), at.cast::<u8>(), value.len());
        }
        Ok(())
    }
}

/// Ports in one word of the table of taken ports (`bpf/ports.bpf.h`).
const PORTS_PER_WORD: usize = 64;

/// Words of the table for one protocol.
const WORDS: usize = 65_536 / PORTS_PER_WORD;

/// A bit for each port that is taken: those of TCP, then those of UDP.
type Words = [u64; 2 * WORDS];

/// Ports at the cell's address whose packets are the dataplane's and not the kernel's: those of its
/// source NAT, and mapped host ports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TakenPorts {
    /// Of TCP.
    pub tcp: Vec<PortRange>,
    /// Of UDP.
    pub udp: Vec<PortRange>,
}

impl TakenPorts {
    /// These, and `more` of both protocols.
    pub(crate) fn and(&self, more: Option<PortRange>) -> Self {
        let with = |ports: &[PortRange]| ports.iter().copied().chain(more).collect();
        Self { tcp: with(&self.tcp), udp: with(&self.udp) }
    }
}

/// A program's table of taken ports. Empty at first.
pub(super) struct PortTable {
    map: OwnedFd,
    /// What the table holds. Changed under the lock, word by word.
    words: Mutex<Box<Words>>,
}

impl PortTable {
    /// `map` is the new program's map `taken_ports`.
    pub(super) fn new(map: OwnedFd) -> Self {
        Self { map, words: Mutex::new(Box::new([0; 2 * WORDS])) }
    }

    /// Takes these ports, and gives back all others. A port that was taken and stays so is so all
    /// the time.
    ///
    /// # Errors
    /// What bpf(2) says. Some of the ports are changed then; the next call finds the others.
    pub(super) fn set(&self, taken: &TakenPorts) -> io::Result<()> {
        let wanted = words_of(taken);
        let mut words = self.words.lock();
        for (key, (word, wanted)) in (0_u32..).zip(words.iter_mut().zip(&*wanted)) {
            if word != wanted {
                update(&self.map, key, wanted)?;
                *word = *wanted;
            }
        }
        Ok(())
    }
}

fn words_of(taken: &TakenPorts) -> Box<Words> {
    let mut words = Box::new([0; 2 * WORDS]);
    let (of_tcp, of_udp) = words.split_at_mut(WORDS);
    for (words, ranges) in [(of_tcp, &taken.tcp), (of_udp, &taken.udp)] {
        for range in ranges.iter().filter(|range| range.first <= range.last) {
            let (first, last) = (usize::from(range.first), usize::from(range.last));
            let numbers = first / PORTS_PER_WORD..=last / PORTS_PER_WORD;
            for (number, word) in numbers.clone().zip(&mut words[numbers]) {
                let base = number * PORTS_PER_WORD;
                let low = first.max(base) - base;
                let high = last.min(base + PORTS_PER_WORD - 1) - base;
                *word |= (u64::MAX >> (PORTS_PER_WORD - 1 - (high - low))) << low;
            }
        }
    }
    words
}

/// Sets an entry of a map whose keys are `u32` and whose values are of the size of `T`.
pub(super) fn update<T: Copy>(map: &OwnedFd, key: u32, value: &T) -> io::Result<()> {
    // SAFETY: key and value live for the call, which reads as much of them as the map's entries
    // are long: the callers give values of that size.
    check(unsafe {
        libxdp_sys::bpf_map_update_elem(
            map.as_raw_fd(),
            (&raw const key).cast(),
            ptr::from_ref(value).cast(),
            0,
        )
    })
}

/// Turns what libbpf returns (a negative errno) into a result.
pub(super) fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}

/// A descriptor of our own for one that libbpf closes with its object.
fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    check(fd)?;
    // SAFETY: libbpf has it open, for at least as long as the caller holds the object.
    unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()
}

/// What a program says about a frame that came in at the interface of that index, 0 for whichever
/// the kernel takes (`BPF_PROG_TEST_RUN`). Only programs of traffic control know interfaces here.
#[cfg(test)]
pub(super) fn judge(program: &OwnedFd, frame: &[u8], interface: u32) -> io::Result<u32> {
    // The beginning of `struct __sk_buff` (linux/bpf.h), up to `ifindex`; all else is not given.
    let mut context = [0_u32; 11];
    context[10] = interface;
    // SAFETY: plain data, for which all zeroes is valid and means "not given".
    let mut options: libxdp_sys::bpf_test_run_opts = unsafe { std::mem::zeroed() };
    options.sz = size_of_val(&options);
    options.data_in = frame.as_ptr().cast();
    options.data_size_in = frame.len() as u32;
    if interface != 0 {
        options.ctx_in = (&raw const context).cast();
        options.ctx_size_in = size_of_val(&context) as u32;
    }
    // SAFETY: the descriptor is that of a loaded program; the frame and the context, which are only
    // read, and the options live for the call.
    check(unsafe { libxdp_sys::bpf_prog_test_run_opts(program.as_raw_fd(), &raw mut options) })?;
    Ok(options.retval)
}
