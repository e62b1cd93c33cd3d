//! What becomes of the flows in a table's file, and of files that hold something else.

use super::*;
use proptest::prelude::*;
use std::sync::atomic::AtomicUsize;

#[test]
fn flows_outlive_the_table_in_their_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flows");
    {
        let (table, adopted) = FlowTable::open(&path, 10_000).unwrap();
        assert_eq!(adopted, 0);
        let guard = table.pin();
        for n in 0..6_000 {
            table.insert(&new_flow(n, TCP), 777, &guard).unwrap();
        }
        let hit = table.lookup(&key(5, TCP), &guard).unwrap();
        table.carry(hit.flow, true, Some(TCP_SYN), 1, 60, 777);
        table.carry(hit.flow, false, Some(TCP_SYN | TCP_ACK), 1, 60, 777);
        table.carry(hit.flow, true, Some(TCP_ACK), 1, 52, 777);
        table.carry(hit.flow, true, Some(TCP_FIN | TCP_ACK), 1, 52, 777);
        table.remove(table.lookup(&key(6, TCP), &guard).unwrap().flow, &guard);
        assert!(matches!(FlowTable::open(&path, 10_000), Err(FlowTableError::InUse(_))));
    }
    let (table, adopted) = FlowTable::open(&path, 10_000).unwrap();
    assert_eq!((adopted, table.status().used), (5_999, 5_999));
    let guard = table.pin();
    assert!(table.lookup(&key(6, TCP), &guard).is_none());
    for n in (0..6_000).filter(|&n| n != 6) {
        let flow = table.lookup(&key(n, TCP).reversed(), &guard).unwrap().flow;
        assert_eq!((flow.rule(), flow.to()), (Some(RuleId(n + 1)), Via::Container(PortId(3))));
        assert_eq!(flow.generation(), 0, "to be decided again");
    }
    let flow = table.lookup(&key(5, TCP), &guard).unwrap().flow;
    assert_eq!((flow.state(), flow.established()), (FlowState::FinWait, true));
    assert_eq!(flow.info(0, Ipv4Addr::UNSPECIFIED).packets, [3, 1]);
    assert_eq!(table.sweep(1, usize::MAX), 0, "they count as seen just now");
    // The removed one's place is used before new ones.
    let before = table.store.slab.high_water();
    table.insert(&new_flow(7_000, UDP), 0, &guard).unwrap();
    assert_eq!(table.store.slab.high_water(), before);
}

#[test]
fn a_file_that_does_not_fit_starts_empty() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flows");
    let fill = |capacity| {
        let (table, adopted) = FlowTable::open(&path, capacity).unwrap();
        let guard = table.pin();
        for n in 0..50 {
            table.insert(&new_flow(n, TCP), 0, &guard).unwrap();
        }
        adopted
    };
    assert_eq!(fill(100), 0);
    assert_eq!(fill(200), 0, "another capacity");
    assert_eq!(fill(200), 50);
    for garbage in [vec![], b"hello".to_vec(), vec![0xa5; 70_000], vec![0xff; 4096]] {
        std::fs::write(&path, &garbage).unwrap();
        assert_eq!(fill(200), 0, "{} bytes of garbage", garbage.len());
    }
}

proptest! {
    #[test]
    fn any_bytes_in_a_file_make_a_table_that_works(
        bytes in prop::collection::vec(any::<u8>(), 64 * 20),
        live: [bool; 20],
    ) {
        use std::os::unix::fs::FileExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flows");
        {
            let (table, _) = FlowTable::open(&path, 30).unwrap();
            let guard = table.pin();
            for n in 0..20 {
                table.insert(&new_flow(n, TCP), 0, &guard).unwrap();
            }
        }
        let mut bytes = bytes;
        for (entry, live) in bytes.chunks_mut(64).zip(live) {
            if live {
                // In use, and nothing where no key has bits.
                entry[38] = 0x80 | entry[38] & 0x3f;
                entry[7] = 0;
                entry[14..16].fill(0);
            }
        }
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.write_all_at(&bytes, 4096).unwrap();
        let (table, adopted) = FlowTable::open(&path, 30).unwrap();
        let guard = table.pin();
        let (flows, _) = table.page(0, 100, 0);
        prop_assert_eq!(flows.len(), adopted);
        let found = AtomicUsize::new(0);
        table.purge(|flow| {
            let there = table.lookup(&flow.key(), &guard).is_some();
            found.fetch_add(usize::from(there), Relaxed);
            table.carry(flow, false, Some(TCP_ACK), 1, 1, 1);
            flow.state() != FlowState::Closed || flow.established()
        });
        prop_assert_eq!((found.into_inner(), table.status().used), (adopted, 0));
        for n in 0..30 {
            prop_assert!(table.insert(&new_flow(n, UDP), 0, &guard).unwrap().created);
        }
    }
}

#[test]
fn what_is_inconsistent_in_a_file_is_dropped() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flows");
    {
        let (table, _) = FlowTable::open(&path, 100).unwrap();
        let guard = table.pin();
        for n in 0..40 {
            table.insert(&new_flow(n, TCP), 0, &guard).unwrap();
        }
    }
    let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    let place = |n: u64| 4096 + 64 * n;
    let mut first = [0; 64];
    file.read_exact_at(&mut first, place(0)).unwrap();
    // The same conversation twice; bytes that no flow has; the last word of a flow alone.
    file.write_all_at(&first, place(1)).unwrap();
    file.write_all_at(&[0xff; 64], place(2)).unwrap();
    file.write_all_at(&[0; 40], place(3)).unwrap();
    drop(file);
    let (table, adopted) = FlowTable::open(&path, 100).unwrap();
    assert_eq!(adopted, 37);
    assert_eq!(table.page(0, 100, 0).0.len(), 37);
    assert_eq!(table.purge(|_| true), 37);
    let guard = table.pin();
    for n in 0..100 {
        assert!(table.insert(&new_flow(n, UDP), 0, &guard).unwrap().created);
    }
}
