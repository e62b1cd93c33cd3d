//! The result of the plugins before this one, or of the whole chain (specification 1.1.0, sections 3
//! and 5).

use std::net::Ipv4Addr;

use ipnet::IpNet;
use sarcenet_agent_api::Expected;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::failure::{Code, Failure};

/// As it came: what is not looked at here is other plugins' affair.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Previous {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) interfaces: Option<Vec<Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ips: Option<Vec<Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) routes: Option<Vec<Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) dns: Option<Map<String, Value>>,
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

#[derive(Deserialize)]
struct Interface {
    name: String,
    #[serde(default)]
    sandbox: String,
}

#[derive(Deserialize)]
struct Address {
    address: IpNet,
    interface: Option<usize>,
}

#[derive(Deserialize)]
struct Route {
    dst: IpNet,
}

impl Previous {
    /// What it says of the interface `ifname` of the container. What it does not mention, because a
    /// plugin has taken it out, is not expected either.
    pub(crate) fn expected(&self, ifname: &str) -> Result<Expected, Failure> {
        let interfaces: Vec<Interface> = read("interfaces", self.interfaces.as_ref())?;
        let ips: Vec<Address> = read("ips", self.ips.as_ref())?;
        let routes: Vec<Route> = read("routes", self.routes.as_ref())?;
        let index = interfaces.iter().position(|one| one.name == ifname && !one.sandbox.is_empty());
        let own = |ip: &&Address| interfaces.is_empty() || ip.interface == index && index.is_some();
        let four = |ip: &Address| match ip.address {
            IpNet::V4(net) => Some(net.addr()),
            IpNet::V6(_) => None,
        };
        let everywhere = |route: &Route| {
            route.dst.prefix_len() == 0 && route.dst.addr() == Ipv4Addr::UNSPECIFIED
        };
        Ok(Expected {
            address: ips.iter().filter(own).find_map(four),
            default_route: routes.iter().any(everywhere),
            bandwidth: None,
        })
    }
}

fn read<T: serde::de::DeserializeOwned>(
    name: &str,
    values: Option<&Vec<Value>>,
) -> Result<Vec<T>, Failure> {
    let read: Result<Vec<T>, _> =
        values.into_iter().flatten().map(|value| T::deserialize(value)).collect();
    read.map_err(|error| {
        let what = format!("decode {name} of prevResult");
        Failure::new(Code::Decode, what, error)
    })
}
