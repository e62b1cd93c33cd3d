//! How conversations are followed. One list makes the timeouts, their names in configuration files
//! and their defaults.

use serde::{Deserialize, Serialize};

/// Longest timeout, in seconds: 30 days.
pub const MAX_TIMEOUT: u32 = 30 * 86_400;

macro_rules! timeouts {
    ($($(#[doc = $doc:literal])+ $name:ident = $default:literal,)+) => {
        /// How long a conversation may be silent before it is forgotten, in seconds, from 1 to
        /// [`MAX_TIMEOUT`]. The defaults are the Linux kernel's (`nf_conntrack_*_timeout*`) but for
        /// the established TCP connection.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub struct Timeouts {
            $($(#[doc = $doc])+ pub $name: u32,)+
        }

        impl Default for Timeouts {
            fn default() -> Self {
                Self { $($name: $default,)+ }
            }
        }

        impl Timeouts {
            /// Names of all timeouts, in the order of the fields.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name),)+];

            /// All timeouts in seconds, in the order of [`Self::NAMES`].
            pub fn all(&self) -> impl Iterator<Item = (&'static str, u32)> {
                [$((stringify!($name), self.$name),)+].into_iter()
            }

            /// The timeout of that name.
            pub fn named_mut(&mut self, name: &str) -> Option<&mut u32> {
                match name {
                    $(stringify!($name) => Some(&mut self.$name),)+
                    _ => None,
                }
            }
        }
    };
}

timeouts! {
    /// TCP, taken up in mid-stream and not answered yet.
    tcp_new = 300,
    /// TCP, SYN seen.
    tcp_syn_sent = 120,
    /// TCP, SYN and SYN-ACK seen.
    tcp_syn_received = 60,
    /// TCP, established. Not the kernel's 5 days: those keep connections of hosts that died days
    /// ago. A live end that uses keep-alive speaks every 2 hours (RFC 9293 section 3.8.4), so a day
    /// of silence is 11 lost probes.
    tcp_established = 86_400,
    /// TCP, one end has sent FIN.
    tcp_fin_wait = 120,
    /// TCP, both ends have sent FIN. For so long no port of the cell is used again towards the
    /// same endpoint.
    tcp_time_wait = 120,
    /// TCP, reset seen.
    tcp_closed = 10,
    /// UDP that was not answered.
    udp_new = 30,
    /// UDP in both directions.
    udp_stream = 120,
    /// ICMP echo.
    icmp = 30,
    /// Other protocols.
    other = 600,
}

/// How conversations are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracking {
    /// When they are forgotten.
    pub timeouts: Timeouts,
    /// Percentage of the flow table, from 1 to 100, that the conversations of one container that
    /// nobody has answered may take. Further ones take the place of others of the same container.
    pub half_open_percent: u8,
}

impl Default for Tracking {
    fn default() -> Self {
        Self { timeouts: Timeouts::default(), half_open_percent: 25 }
    }
}

impl Tracking {
    /// What is wrong with it, if anything.
    pub fn mistake(&self) -> Option<String> {
        let wrong = self.timeouts.all().find(|(_, seconds)| !(1..=MAX_TIMEOUT).contains(seconds));
        if let Some((name, seconds)) = wrong {
            return Some(format!("timeout {name} of {seconds} s is not in 1 to {MAX_TIMEOUT}"));
        }
        let percent = self.half_open_percent;
        (!(1..=100).contains(&percent))
            .then(|| format!("half_open_percent {percent} is not in 1 to 100; 100 is no limit"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_to_its_timeout() {
        let mut timeouts = Timeouts::default();
        for (n, name) in (1..).zip(Timeouts::NAMES) {
            *timeouts.named_mut(name).unwrap() = n;
        }
        assert_eq!(timeouts.named_mut("tcp"), None);
        assert!(timeouts.all().map(|(_, seconds)| seconds).eq(1..=Timeouts::NAMES.len() as u32));
        assert!(timeouts.all().map(|(name, _)| name).eq(Timeouts::NAMES.iter().copied()));
        assert_eq!((timeouts.tcp_new, timeouts.tcp_established, timeouts.other), (1, 4, 11));
    }

    #[test]
    fn impossible_values_are_found() {
        let tracking = Tracking::default();
        assert_eq!(tracking.mistake(), None);
        for name in Timeouts::NAMES {
            for seconds in [0, MAX_TIMEOUT + 1, u32::MAX] {
                let mut wrong = tracking;
                *wrong.timeouts.named_mut(name).unwrap() = seconds;
                assert!(wrong.mistake().unwrap().contains(name));
                *wrong.timeouts.named_mut(name).unwrap() = MAX_TIMEOUT;
                assert_eq!(wrong.mistake(), None);
            }
        }
        for half_open_percent in [0, 101, 255] {
            assert!(Tracking { half_open_percent, ..tracking }.mistake().is_some());
        }
    }
}
