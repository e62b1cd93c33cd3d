//! The filter that a dataplane leaves where packets for containers come in: it stays when the
//! dataplane ends, so that the next one takes over without a gap.

use futures_util::TryStreamExt;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage};

use super::{INGRESS, Link, Netlink, NetlinkError};

/// Priority of the dataplane's filter.
const PRIORITY: u32 = 21_313;
/// Its handle: "SARC".
const HANDLE: u32 = 0x5341_5243;

impl Netlink {
    /// Removes the dataplane's filter from the device. Whether there was one.
    pub fn remove_divert(&self, device: &Link) -> Result<bool, NetlinkError> {
        let request = self.handle.traffic_filter(device.index as i32).get().ingress().execute();
        let filters: Vec<TcMessage> = self.ask(
            || format!("list the filters of {}", device.name),
            request.try_collect::<Vec<_>>(),
        )?;
        // The upper half of the field is the priority, the lower one the protocol.
        let ours = filters.into_iter().find(|filter| {
            filter.header.info >> 16 == PRIORITY && u32::from(filter.header.handle) == HANDLE
        });
        let Some(ours) = ours else { return Ok(false) };
        let mut message = TcMessage::with_index(device.index as i32);
        message.header.parent = INGRESS;
        message.header.handle = TcHandle::from(HANDLE);
        message.header.info = ours.header.info;
        message.attributes = ours
            .attributes
            .into_iter()
            .filter(|attribute| matches!(attribute, TcAttribute::Kind(_)))
            .collect();
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::DelTrafficFilter(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        self.order(|| format!("remove the dataplane's filter from {}", device.name), request)?;
        Ok(true)
    }
}
