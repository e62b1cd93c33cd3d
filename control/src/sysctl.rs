//! Settings of the kernel's network stack (`/proc/sys/net`), of the calling thread's namespace.

use std::fs::{self, File};
use std::io::{self, Read as _};

/// More bytes than any setting has: the longest is a list of ports, with each second port of all.
const LONGEST: usize = 256 * 1024;

/// Why a setting could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// Reading.
    #[error("cannot read /proc/sys/net/{name}: {source}")]
    Read {
        /// Its path below `/proc/sys/net`.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// Writing.
    #[error(
        "cannot write {value} to /proc/sys/net/{name}: {source}; it takes CAP_NET_ADMIN and a \
         /proc/sys that is not mounted read-only; or make the setting yourself"
    )]
    Write {
        /// Its path below `/proc/sys/net`.
        name: String,
        /// What was to be written.
        value: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Reads the setting at this path below `/proc/sys/net`.
pub fn get(name: &str) -> Result<String, SysctlError> {
    let failed = |source| SysctlError::Read { name: name.to_owned(), source };
    let mut file = File::open(format!("/proc/sys/net/{name}")).map_err(failed)?;
    // In one call: after the first the kernel says that a list of ports has ended, wherever that
    // call's buffer did (`proc_do_large_bitmap` in kernel/sysctl.c). `fs::read` begins with a small
    // one.
    let mut bytes = vec![0; LONGEST];
    let len = file.read(&mut bytes).map_err(failed)?;
    bytes.truncate(len);
    String::from_utf8(bytes).map_err(|error| failed(io::Error::other(error)))
}

/// Makes a setting. One that is so already is not written, which needs no rights.
pub fn set(name: &str, value: &str) -> Result<(), SysctlError> {
    if get(name).is_ok_and(|found| found.trim() == value) {
        return Ok(());
    }
    fs::write(format!("/proc/sys/net/{name}"), value).map_err(|source| SysctlError::Write {
        name: name.to_owned(),
        value: value.to_owned(),
        source,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    /// Runs `test` in a network namespace that ends with it. Needs root.
    pub(crate) fn in_new_namespace(test: impl FnOnce() + Send + 'static) {
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("this test needs CAP_SYS_ADMIN");
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    #[test]
    fn settings_are_made_and_errors_name_them() {
        in_new_namespace(|| {
            set("ipv4/conf/lo/accept_local", "1").unwrap();
            assert_eq!(get("ipv4/conf/lo/accept_local").unwrap(), "1\n");
            let error = get("ipv4/no_such").unwrap_err().to_string();
            assert!(error.starts_with("cannot read /proc/sys/net/ipv4/no_such: "), "{error}");
            let error = set("ipv4/ip_forward", "perhaps").unwrap_err().to_string();
            assert!(error.contains("perhaps to /proc/sys/net/ipv4/ip_forward: "), "{error}");
        });
    }

    #[test]
    fn long_lists_are_read_whole() {
        in_new_namespace(|| {
            let odd: Vec<_> = (1..30_000).step_by(2).map(|port: u16| port.to_string()).collect();
            let odd = odd.join(",");
            set("ipv4/ip_local_reserved_ports", &odd).unwrap();
            assert!(get("ipv4/ip_local_reserved_ports").unwrap().trim() == odd);
        });
    }
}
