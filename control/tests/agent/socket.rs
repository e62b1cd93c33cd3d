//! What a client may send, and what it may not.

use std::os::fd::AsFd;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, socket,
};
use sarcenet_agent_api::{ErrorCode, Expected, Reply, Request, VERSION};
use sarcenet_dataplane_api::codec;
use sarcenet_dataplane_api::transport::Connection;

use crate::world::{Namespace, World, in_cell};

/// Sends frames as they are; returns the replies until the agent closes.
fn raw(world: &World, frames: &[&[u8]]) -> Vec<Reply> {
    use std::os::fd::AsRawFd;
    let client =
        socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
    connect(client.as_raw_fd(), &UnixAddr::new(&world.root.agent_socket()).unwrap()).unwrap();
    for frame in frames {
        // The agent may have closed already.
        let _ = send(client.as_raw_fd(), frame, MsgFlags::MSG_NOSIGNAL);
    }
    let _ = nix::sys::socket::shutdown(client.as_raw_fd(), nix::sys::socket::Shutdown::Write);
    let mut replies = Vec::new();
    let mut buffer = vec![0; codec::MAX_FRAME];
    while let Ok(len @ 1..) = recv(client.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
        replies.push(codec::decode(&buffer[..len]).unwrap());
    }
    replies
}

fn hello() -> Vec<u8> {
    codec::encode(&Request::Hello { version: VERSION }).unwrap()
}

#[test]
fn garbage_ends_the_connection_and_changes_nothing() {
    in_cell(|world| {
        let (fake, _agent) = (world.dataplane(), world.agent());
        let one = Namespace::new("one");
        world.add(&one, "app-a");
        let network = std::fs::read(world.network()).unwrap();
        let state = std::fs::read(world.root.state_file()).unwrap();
        let generation = fake.told.lock().generation;

        let del = codec::encode(&Request::Del { id: one.id() }).unwrap();
        let mut longer = del.clone();
        longer.push(0);
        let mut junk = 0x9e37_79b9_u32;
        let noise: Vec<Vec<u8>> = (1..200_usize)
            .map(|len| {
                (0..len)
                    .map(|_| {
                        junk = junk.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        (junk >> 24) as u8 | 0x80
                    })
                    .collect()
            })
            .collect();
        let mut bad: Vec<&[u8]> = (0..del.len()).map(|cut| &del[..cut]).collect();
        bad.push(&longer);
        bad.extend(noise.iter().map(Vec::as_slice));
        for frame in bad {
            let replies = raw(world, &[&hello(), frame]);
            assert!(matches!(replies[0], Reply::Hello { .. }));
            for reply in &replies[1..] {
                assert!(
                    matches!(reply, Reply::Error { code: ErrorCode::Invalid, .. }),
                    "{reply:?}"
                );
            }
        }
        assert_eq!(std::fs::read(world.network()).unwrap(), network);
        assert_eq!(std::fs::read(world.root.state_file()).unwrap(), state);
        assert_eq!(fake.told.lock().generation, generation);
        world.client().check(one.id(), Expected::default(), one.netns.as_fd()).unwrap();
    });
}

#[test]
fn the_first_message_must_be_a_hello() {
    in_cell(|world| {
        let _agent = world.agent();
        let status = codec::encode(&Request::Status).unwrap();
        let replies = raw(world, &[&status]);
        assert!(
            matches!(&replies[..], [Reply::Error { code: ErrorCode::Invalid, message }]
                if message.contains("first message must be a hello")),
            "{replies:?}"
        );
    });
}

#[test]
fn another_version_is_told_ours_and_not_served() {
    in_cell(|world| {
        let _agent = world.agent();
        let old = codec::encode(&Request::Hello { version: VERSION + 1 }).unwrap();
        let status = codec::encode(&Request::Status).unwrap();
        let replies = raw(world, &[&old, &status]);
        assert!(matches!(replies[0], Reply::Hello { version: VERSION, .. }));
        assert!(matches!(replies[1], Reply::Error { code: ErrorCode::Invalid, .. }));
    });
}

#[test]
fn descriptors_must_go_with_the_request() {
    in_cell(|world| {
        let (_fake, _agent) = (world.dataplane(), world.agent());
        let one = Namespace::new("one");
        let connection = Connection::connect(&world.root.agent_socket()).unwrap();
        let ask = |request: &Request, fds: &[std::os::fd::BorrowedFd<'_>]| {
            connection.send(request, fds).unwrap();
            connection.recv::<Reply>().unwrap().unwrap().0
        };
        ask(&Request::Hello { version: VERSION }, &[]);
        let add = Request::Add(Box::new(one.wish("app-a")));
        let netns = one.netns.as_fd();
        for (request, fds) in
            [(&add, vec![]), (&add, vec![netns, netns]), (&Request::Status, vec![netns])]
        {
            let reply = ask(request, &fds);
            assert!(
                matches!(&reply, Reply::Error { code: ErrorCode::Invalid, message }
                if message.contains("file descriptors")),
                "{reply:?}"
            );
        }
        assert!(matches!(ask(&add, &[netns]), Reply::Added(_)));
    });
}

#[test]
fn one_client_too_many_is_told_so() {
    in_cell(|world| {
        let _agent = world.agent();
        let clients: Vec<_> = (0..512).map(|_| world.client()).collect();
        let one_more = raw(world, &[&hello()]);
        assert!(matches!(one_more[0], Reply::Error { code: ErrorCode::Busy, .. }), "{one_more:?}");
        drop(clients);
        crate::world::eventually("room again", || {
            matches!(raw(world, &[&hello()])[..], [Reply::Hello { .. }])
        });
    });
}

#[test]
fn a_second_agent_of_the_same_cell_does_not_take_over() {
    in_cell(|world| {
        let agent = world.agent();
        let second = sarcenet_control::server::Server::start(
            agent.agent.clone(),
            None,
            &world.root.agent_socket(),
        );
        assert!(second.is_err());
        assert_eq!(world.client().cell(), "cell1");
    });
}
