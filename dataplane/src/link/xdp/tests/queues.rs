//! Several receive queues: who gets what, what they share, and what becomes of new ones.

use std::collections::BTreeSet;

use super::*;
use crate::link::xdp::open::ring_len;

/// Datagrams of many flows, so that the sending kernel spreads them.
const FLOWS: u8 = 64;

/// A flow's datagram. Each has a tag of its own, so that no two are put together.
fn flow(number: u8) -> Vec<u8> {
    let mut bytes = datagram(&udp_packet(&[number; 100]));
    bytes[3] = number;
    bytes
}

/// What arrived at each queue, the last of which is the kernel's socket: the last byte of each
/// datagram.
fn receive_flows(uplink: &XdpUplink, flows: usize) -> Vec<BTreeSet<u8>> {
    let mut arrived = vec![BTreeSet::new(); uplink.fds().count()];
    let (mut scratch, mut report) = (Scratch::new(), Report::new());
    until("all flows arrive", || {
        for (queue, arrived) in arrived.iter_mut().enumerate() {
            let mut batch = Batch::new();
            uplink.receive(queue, &mut batch, 64, &mut scratch, &mut report).unwrap();
            for index in 0..batch.len() {
                let bytes = batch.copy_out(index);
                let (&number, _) = bytes.split_last().unwrap();
                assert_eq!(bytes, flow(number));
                assert!(arrived.insert(number), "{number} came twice");
            }
        }
        arrived.iter().map(BTreeSet::len).sum::<usize>() == flows
    });
    nothing_dropped(report);
    arrived
}

fn send_flows(underlay: &Underlay) {
    for number in 0..FLOWS {
        underlay.socket(1, 0).send_to(&flow(number), (CELLS[0], PORT)).unwrap();
    }
}

/// Queues of one worker share memory, also when there are fewer workers or more.
#[test]
fn every_queue_receives_and_every_worker_sends() {
    for (mode, workers) in [
        (AttachMode::Native, 1),
        (AttachMode::Native, 2),
        (AttachMode::Generic, 3),
        (AttachMode::Generic, 6),
    ] {
        let underlay = Underlay::with_queues(4, 4);
        let tuning = Tuning { workers, ..TUNING };
        let demand = Demand::Attached(mode);
        let uplink = underlay.open_with(0, demand, tuning).unwrap();
        assert_eq!(uplink.mode(), format!("xdp {mode} copy 4 queues"));
        send_flows(&underlay);
        let arrived = receive_flows(&uplink, usize::from(FLOWS));
        let (kernel, queues) = arrived.split_last().unwrap();
        assert!(kernel.is_empty(), "{arrived:?}");
        let used = queues.iter().filter(|flows| !flows.is_empty()).count();
        assert!(used >= 2, "not spread: {arrived:?}");

        let peer = underlay.socket(1, PORT);
        resolve(&uplink, CELLS[1]);
        let (mut scratch, mut report) = (Scratch::new(), Report::new());
        for worker in 0..workers {
            // More than a ring, so that frames come back and are used again.
            for round in 0..60_u8 {
                let mut batch = Batch::new();
                let bytes = datagram(&udp_packet(&[worker as u8, round]));
                for _ in 0..50 {
                    push(&mut batch, &bytes, Offload::default(), CELLS[1]);
                }
                let sent = uplink.transmit(worker, &batch, 0..50, &mut scratch, &mut report);
                assert_eq!(sent, 50);
                let mut buffer = [0; 200];
                for _ in 0..50 {
                    let len = peer.recv(&mut buffer).unwrap();
                    assert_eq!(buffer[..len], bytes);
                }
            }
        }
        nothing_dropped(report);
    }
}

/// The kernel keeps a queue for us that has a socket, and tells of new ones; what arrives there
/// meanwhile is not lost.
#[test]
fn other_queues_are_noticed() {
    let underlay = Underlay::with_queues(4, 2);
    let uplink = underlay.open(0, AttachMode::Native);
    assert_eq!(uplink.mode(), "xdp native copy 2 queues");
    assert!(!uplink.is_outgrown());
    for cell in &underlay.0 {
        cell.command("ethtool -L up0 rx 4 tx 4");
    }
    assert!(uplink.is_outgrown());
    send_flows(&underlay);
    let arrived = receive_flows(&uplink, usize::from(FLOWS));
    assert_eq!(arrived.len(), 3);
    assert!(!arrived[2].is_empty(), "nothing at the kernel's socket: {arrived:?}");
    drop(uplink);
    let uplink = underlay.open(0, AttachMode::Native);
    assert_eq!(uplink.mode(), "xdp native copy 4 queues");
    assert!(!uplink.is_outgrown());
}

/// The kernel shows a frame before it lets go of the frame's place in the fill ring (`xsk_flush`,
/// `net/xdp/xsk.c`). Who reads in between gives it back all the same.
#[test]
fn frames_are_given_back_while_the_kernel_is_at_work() {
    const DATAGRAMS: usize = 100_000;
    for mode in [AttachMode::Native, AttachMode::Generic] {
        let underlay = Underlay::new();
        let uplink = underlay.open(0, mode);
        let free_places = || uplink.queues[0].rx.lock().free_places();
        let free = free_places();
        assert!(free >= 2 * ring_len(1), "each frame may have a place twice: {free} are free");
        let (peer, bytes) = (underlay.socket(1, 0), datagram(&udp_packet(b"x")));
        let send = || peer.send_to(&bytes, (CELLS[0], PORT)).unwrap();
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                for _ in 0..DATAGRAMS {
                    send();
                }
            });
            until("all datagrams are sent", || {
                while receive_now(&uplink).0 > 0 {}
                sender.is_finished()
            });
        });
        // A frame whose datagram found the receive ring full the kernel keeps for the next datagram
        // (`__xsk_rcv`, `xp_free`).
        until("every frame is given back", || {
            send();
            while receive_now(&uplink).0 > 0 {}
            free_places() == free
        });
    }
}

/// A driver is polled where there is one to be polled.
#[test]
fn busy_polling() {
    let busy = Tuning { busy_poll: Duration::from_millis(20), ..TUNING };
    for (mode, tuning, shown) in [
        (AttachMode::Native, busy, "xdp native copy 2 queues busy-poll"),
        (AttachMode::Native, TUNING, "xdp native copy 2 queues"),
        (AttachMode::Generic, busy, "xdp generic copy 2 queues"),
    ] {
        let underlay = Underlay::with_queues(2, 2);
        let uplink = underlay.open_with(0, Demand::Attached(mode), tuning).unwrap();
        assert_eq!(uplink.mode(), shown);
        let polled = shown.ends_with("busy-poll");
        for queue in &uplink.queues {
            assert_eq!(queue.prefers_busy_poll(), polled, "{shown}");
        }
        send_flows(&underlay);
        receive_flows(&uplink, usize::from(FLOWS));
        // Comes again by itself for a while, and then no more.
        let (mut scratch, mut report) = (Scratch::new(), Report::new());
        let mut again = || {
            let mut batch = Batch::new();
            (0..2).any(|queue| {
                !uplink.receive(queue, &mut batch, 64, &mut scratch, &mut report).unwrap().drained
            })
        };
        until("it waits to be woken", || !again());
        let peer = underlay.socket(1, 0);
        peer.send_to(&datagram(&udp_packet(b"x")), (CELLS[0], PORT)).unwrap();
        let (mut came_again, mut packets) = (false, 0);
        until("a packet arrives", || {
            for queue in 0..2 {
                let mut batch = Batch::new();
                let received =
                    uplink.receive(queue, &mut batch, 64, &mut scratch, &mut report).unwrap();
                packets += received.packets;
                came_again |= received.packets > 0 && !received.drained;
            }
            packets > 0
        });
        assert_eq!(came_again, polled, "{shown}");
    }
}
