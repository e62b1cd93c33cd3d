//! The program as a filter of traffic control (tc-bpf(8)) where an interface receives.
#![expect(unsafe_code, reason = "libbpf, which speaks rtnetlink for us, is a C library")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::link::bpf::{check, hush};

/// Ours is recognised by these two, so that one dataplane replaces what another one left. Filters
/// run by priority, lowest first, until one decides. This one is behind those that an operator
/// numbers by hand, and before those that the kernel numbers (from 49,152 down): a firewall at the
/// front sees everything first.
const PRIORITY: u32 = 21_313;
/// "SARC".
const HANDLE: u32 = 0x5341_5243;

/// The place where an interface's packets come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hook {
    /// Index of the interface.
    pub(super) interface: u32,
}

impl Hook {
    fn raw(self) -> libxdp_sys::bpf_tc_hook {
        // SAFETY: plain data, for which all zeroes is valid and means "not given".
        let mut hook: libxdp_sys::bpf_tc_hook = unsafe { std::mem::zeroed() };
        hook.sz = size_of_val(&hook);
        hook.ifindex = self.interface as i32;
        hook.attach_point = libxdp_sys::bpf_tc_attach_point_BPF_TC_INGRESS;
        hook
    }

    /// Attaches the program in place of the one of ours that is there, without a gap; all other
    /// filters stay. It stays when this process ends. Returns the kernel's number of the program.
    ///
    /// # Errors
    /// What rtnetlink(7) says.
    pub(super) fn attach(self, program: &OwnedFd) -> io::Result<u32> {
        hush();
        let mut hook = self.raw();
        // SAFETY: the structure says how long it is, and lives for the call.
        match check(unsafe { libxdp_sys::bpf_tc_hook_create(&raw mut hook) }) {
            Err(e) if e.raw_os_error() != Some(libc::EEXIST) => return Err(e),
            _ => {}
        }
        let mut options = ours();
        options.prog_fd = program.as_raw_fd();
        options.flags = libxdp_sys::bpf_tc_flags_BPF_TC_F_REPLACE;
        // SAFETY: both structures say how long they are, and live for the call; the descriptor is
        // that of a loaded program.
        check(unsafe { libxdp_sys::bpf_tc_attach(&raw const hook, &raw mut options) })?;
        Ok(options.prog_id)
    }

    /// The kernel's number of our program that is attached; none when none is.
    ///
    /// # Errors
    /// What rtnetlink(7) says.
    pub(super) fn attached(self) -> io::Result<Option<u32>> {
        hush();
        let (hook, mut options) = (self.raw(), ours());
        // SAFETY: both structures say how long they are, and live for the call.
        match check(unsafe { libxdp_sys::bpf_tc_query(&raw const hook, &raw mut options) }) {
            Ok(()) => Ok(Some(options.prog_id)),
            Err(e) if is_absent(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Takes our program away; success when none is there. What it hung on (the queueing discipline
    /// `clsact`) stays: others may have come to use it, and it does nothing by itself.
    ///
    /// # Errors
    /// What rtnetlink(7) says.
    pub(super) fn detach(self) -> io::Result<()> {
        if self.attached()?.is_none() {
            return Ok(());
        }
        let (hook, options) = (self.raw(), ours());
        // SAFETY: both structures say how long they are, and live for the call.
        match check(unsafe { libxdp_sys::bpf_tc_detach(&raw const hook, &raw const options) }) {
            Err(e) if !is_absent(&e) => Err(e),
            _ => Ok(()),
        }
    }
}

fn ours() -> libxdp_sys::bpf_tc_opts {
    // SAFETY: plain data, for which all zeroes is valid and means "not given".
    let mut options: libxdp_sys::bpf_tc_opts = unsafe { std::mem::zeroed() };
    options.sz = size_of_val(&options);
    options.handle = HANDLE;
    options.priority = PRIORITY;
    options
}

/// What the kernel says where there is no such filter (ENOENT), nothing that filters hang on
/// (EINVAL), or no such interface any more (ENODEV).
fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL | libc::ENODEV))
}
