//! What a container is to be.

/// What a container runtime says of a container when it attaches it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerSpec {
    /// Its app (`policy_group_id`).
    pub app: Option<String>,
    /// Its space, to which security groups are bound (`space_id`).
    pub space: Option<String>,
    /// What it runs (`container_workload`).
    pub workload: Workload,
    /// Ports that its app listens on, as its runtime names them.
    pub ports: Option<String>,
    /// Ports of the cell that lead to it.
    pub mappings: Vec<PortMapping>,
    /// Limit on what it sends, and the same limit on what it is sent.
    pub bandwidth: Option<Bandwidth>,
}

impl ContainerSpec {
    /// A container of an app.
    pub fn app(app: &str) -> Self {
        Self { app: Some(app.to_owned()), ..Self::default() }
    }

    /// The same in this space.
    #[must_use]
    pub fn space(mut self, space: &str) -> Self {
        self.space = Some(space.to_owned());
        self
    }

    /// The same with this workload.
    #[must_use]
    pub fn workload(mut self, workload: Workload) -> Self {
        self.workload = workload;
        self
    }

    /// The same with an app that listens on these ports, which are separated by commas.
    #[must_use]
    pub fn ports(mut self, ports: &str) -> Self {
        self.ports = Some(ports.to_owned());
        self
    }

    /// The same with a port of the cell that leads to one of its own.
    #[must_use]
    pub fn mapping(mut self, host: u16, container: u16) -> Self {
        self.mappings.push(PortMapping { host, container });
        self
    }

    /// The same with a limit on its bandwidth.
    #[must_use]
    pub fn bandwidth(mut self, bits_per_second: u64, burst_bits: u64) -> Self {
        self.bandwidth = Some(Bandwidth { bits_per_second, burst_bits });
        self
    }
}

/// What a container runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Workload {
    /// An instance of an app.
    #[default]
    App,
    /// A task of an app.
    Task,
    /// The making of an app from its source.
    Staging,
}

impl Workload {
    /// Its name in a container's metadata.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Task => "task",
            Self::Staging => "staging",
        }
    }
}

/// A TCP port of the cell that leads to a container's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortMapping {
    /// Port of the cell's underlay address.
    pub host: u16,
    /// Port of the container.
    pub container: u16,
}

/// A limit on bandwidth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bandwidth {
    /// Bits per second.
    pub bits_per_second: u64,
    /// Bits at once after a quiet time.
    pub burst_bits: u64,
}
