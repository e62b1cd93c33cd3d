//! TUN devices with virtio-net headers.
