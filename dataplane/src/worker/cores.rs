//! Processors that workers are pinned to.
#![forbid(unsafe_code)]

use std::fmt;
use std::fs;
use std::str::FromStr;

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Lists the processors that work, in the form of [`Cores`].
const ONLINE: &str = "/sys/devices/system/cpu/online";

/// The calling thread.
const SELF: Pid = Pid::from_raw(0);

/// Processors in the order in which they were named, each once; at least one. Written as the kernel
/// writes its lists: `0-3,6` (`Documentation/admin-guide/kernel-parameters.rst`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cores(Vec<u16>);

/// Why workers cannot be pinned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoresError {
    /// It is no list.
    #[error("`{0}` is no list of processors; write numbers and ranges, as in 0-3,6")]
    NoList(String),
    /// A processor is named twice.
    #[error("processor {0} is named twice; each carries one worker")]
    Twice(u16),
    /// There is no such processor.
    #[error("there is no processor {core}: this machine has {online}")]
    Missing {
        /// The first that there is not.
        core: u16,
        /// Those that there are.
        online: Cores,
    },
    /// There is, but not for this process.
    #[error(
        "this process may not use processor {core}, only {allowed} (its affinity, see taskset(1), \
         or the cpuset of its control group)"
    )]
    Forbidden {
        /// The first that it may not use.
        core: u16,
        /// Those that it may.
        allowed: Cores,
    },
    /// The system does not say.
    #[error("cannot read the processors that this process may use: {0}")]
    Unknown(Errno),
}

impl Cores {
    /// Their numbers, in order.
    pub fn numbers(&self) -> &[u16] {
        &self.0
    }

    /// Makes sure that this process may use them all.
    ///
    /// # Errors
    /// [`CoresError`].
    pub fn check(&self) -> Result<(), CoresError> {
        let online = fs::read_to_string(ONLINE).ok().and_then(|text| text.trim().parse().ok());
        self.check_against(online.as_ref(), &Self::allowed()?)
    }

    fn check_against(&self, online: Option<&Self>, allowed: &Self) -> Result<(), CoresError> {
        for &core in &self.0 {
            match online {
                Some(online) if !online.0.contains(&core) => {
                    return Err(CoresError::Missing { core, online: online.clone() });
                }
                _ if !allowed.0.contains(&core) => {
                    return Err(CoresError::Forbidden { core, allowed: allowed.clone() });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What the calling thread may use.
    fn allowed() -> Result<Self, CoresError> {
        let set = sched_getaffinity(SELF).map_err(CoresError::Unknown)?;
        let is_set = |&core: &u16| set.is_set(usize::from(core)) == Ok(true);
        Ok(Self((0..CpuSet::count() as u16).filter(is_set).collect()))
    }
}

/// Lets the calling thread run on one processor only.
///
/// # Errors
/// What the system said.
pub(super) fn pin(core: u16) -> nix::Result<()> {
    let mut set = CpuSet::new();
    set.set(usize::from(core))?;
    sched_setaffinity(SELF, &set)
}

impl FromStr for Cores {
    type Err = CoresError;

    fn from_str(text: &str) -> Result<Self, CoresError> {
        let no_list = || CoresError::NoList(text.to_owned());
        let number = |text: &str| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            let core = text.parse::<u16>().ok().filter(|_| digits);
            core.filter(|&core| usize::from(core) < CpuSet::count()).ok_or_else(no_list)
        };
        let mut cores = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let range = number(first)?..=number(last)?;
            if range.is_empty() {
                return Err(no_list());
            }
            for core in range {
                if cores.contains(&core) {
                    return Err(CoresError::Twice(core));
                }
                cores.push(core);
            }
        }
        Ok(Self(cores))
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let follows = |a: &u16, b: &u16| a.checked_add(1) == Some(*b);
        for (number, run) in self.0.chunk_by(follows).enumerate() {
            let comma = if number == 0 { "" } else { "," };
            match run {
                [one] => write!(f, "{comma}{one}")?,
                [first, .., last] => write!(f, "{comma}{first}-{last}")?,
                [] => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cores(text: &str) -> Cores {
        text.parse().unwrap()
    }

    #[test]
    fn lists_are_read_as_the_kernel_writes_them() {
        assert_eq!(cores("0-3,6").0, [0, 1, 2, 3, 6]);
        assert_eq!(cores("7,2").0, [7, 2]);
        assert_eq!(cores("5-5").0, [5]);
        for text in ["", ",", "1,", "a", "-", "1-", "3-1", "+1", " 1", "70000", "0-1023,1024"] {
            let error = text.parse::<Cores>().unwrap_err();
            assert_eq!(error, CoresError::NoList(text.to_owned()));
        }
        assert_eq!("0-3,2".parse::<Cores>(), Err(CoresError::Twice(2)));
    }

    #[test]
    fn processors_that_are_not_or_not_ours_are_refused() {
        let (online, allowed) = (cores("0-3"), cores("0,2-3"));
        let check = |text| cores(text).check_against(Some(&online), &allowed);
        assert_eq!(check("3,0"), Ok(()));
        let text = check("2-5").unwrap_err().to_string();
        assert_eq!(text, "there is no processor 4: this machine has 0-3");
        let text = check("0-1").unwrap_err().to_string();
        assert!(text.starts_with("this process may not use processor 1, only 0,2-3 ("), "{text}");
        // Without a list of what there is.
        assert!(cores("5").check_against(None, &allowed).is_err());
    }

    /// Affinity is a thread's own, so a thread of its own can change it.
    #[test]
    fn a_pinned_thread_may_use_no_other_processor() {
        let outcome = std::thread::spawn(|| {
            let all = Cores::allowed().unwrap();
            let last = *all.0.last().unwrap();
            pin(last).unwrap();
            (all, last, Cores::allowed().unwrap())
        });
        let (all, last, left) = outcome.join().unwrap();
        assert_eq!((all.check(), left.0), (Ok(()), vec![last]));
    }

    proptest! {
        #[test]
        fn any_text(text: String) {
            let _ = text.parse::<Cores>();
        }

        #[test]
        fn round_trip(numbers in proptest::collection::hash_set(0_u16..1024, 1..40)) {
            let cores = Cores(numbers.into_iter().collect());
            prop_assert_eq!(cores.to_string().parse(), Ok(cores));
        }
    }
}
