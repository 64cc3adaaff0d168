//! What is written, and that it is read as it was written.

use proptest::prelude::*;
use tempfile::tempdir;

use super::super::{Published, Read, Reader, StoreError, Writer};
use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn every_state_is_read_as_it_was_written(state in arbitrary::state()) {
        let folder = tempdir().unwrap();
        let published = Writer::open(folder.path()).unwrap().publish(&state).unwrap();
        prop_assert_eq!(published.version, 1);
        let read = read_state(&mut Reader::new(folder.path()));
        prop_assert_eq!(&*read, &versioned(&state, 1));
        prop_assert_eq!(read.validate_references(), Ok(()));
    }

    #[test]
    fn a_sequence_of_changes_leaves_what_the_last_state_alone_leaves(
        states in proptest::collection::vec(arbitrary::state(), 2..5)
    ) {
        let folder = tempdir().unwrap();
        let mut writer = Writer::open(folder.path()).unwrap();
        let mut reader = Reader::new(folder.path());
        for state in &states {
            let published = writer.publish(state).unwrap();
            if published.changed {
                prop_assert_eq!(&*read_state(&mut reader), &versioned(state, published.version));
            } else {
                prop_assert!(matches!(reader.read(), Ok(Read::Unchanged)));
            }
        }
        let last = states.last().unwrap();
        let scratch = tempdir().unwrap();
        Writer::open(scratch.path()).unwrap().publish(last).unwrap();
        let needed: Vec<_> = files(scratch.path());
        for file in &needed {
            let relative = file.strip_prefix(scratch.path()).unwrap();
            if !relative.ends_with("state.yaml") {
                let (one, other) = (std::fs::read(file).unwrap(), std::fs::read(folder.path().join(relative)));
                prop_assert_eq!(one, other.unwrap());
            }
        }
        // The files of the version before go with the next version, and nothing else is left then.
        writer.publish(&shops(1)).unwrap();
        move_everything_on(&mut writer);
        let scratch = tempdir().unwrap();
        Writer::open(scratch.path()).unwrap().publish(&shops(0)).unwrap();
        prop_assert_eq!(files(folder.path()).len(), files(scratch.path()).len());
    }

    #[test]
    fn references_are_checked_the_same_from_what_changed_as_from_all(
        before in arbitrary::state(),
        other in arbitrary::state(),
        taken in proptest::bits::u8::ANY,
    ) {
        // Whole kinds of another state: some references resolve by chance, others do not.
        let mut after = before.clone();
        let takes = |kind: u8| taken & (1 << kind) != 0;
        if takes(0) { after.gateways = other.gateways }
        if takes(1) { after.routes = other.routes }
        if takes(2) { after.pools = other.pools }
        if takes(3) { after.policies = other.policies }
        if takes(4) { after.backends = other.backends }
        if takes(5) { after.certificates = other.certificates }
        if takes(6) { after.ca_bundles = other.ca_bundles }
        if takes(7) {
            after.pools.pop_first();
            after.backends.pop_last();
        }
        let (all, changed) = (after.validate_references(), after.validate_references_since(Some(&before)));
        prop_assert_eq!(all.is_ok(), changed.is_ok(), "{:?} {:?}", all, changed);
    }
}

/// Two more versions, after which only the files of [`shops`]`(0)` are left.
fn move_everything_on(writer: &mut Writer) {
    writer.publish(&shops(0)).unwrap();
    let mut other = shops(0);
    other.policies.clear();
    writer.publish(&other).unwrap();
    writer.publish(&shops(0)).unwrap();
    writer.publish(&other).unwrap();
    writer.publish(&shops(0)).unwrap();
}

#[test]
fn an_empty_complete_state_is_something_else_than_none() {
    let folder = tempdir().unwrap();
    let mut reader = Reader::new(folder.path());
    assert!(matches!(reader.read(), Err(StoreError::Missing { .. })));
    let mut writer = Writer::open(folder.path()).unwrap();
    assert!(matches!(reader.read(), Err(StoreError::Missing { .. })));
    let published = writer.publish(&State::default()).unwrap();
    assert_eq!(published, Published { version: 1, changed: true, written: 1, removed: 0 });
    assert_eq!(*read_state(&mut reader), versioned(&State::default(), 1));
    assert!(matches!(reader.read(), Ok(Read::Unchanged)));
}

#[test]
fn one_endpoint_among_five_thousand_routes_costs_one_backend_one_index_file_and_the_root() {
    let folder = tempdir().unwrap();
    let mut writer = Writer::open(folder.path()).unwrap();
    let mut reader = Reader::new(folder.path());
    let mut state = shops(5_000);
    let first = writer.publish(&state).unwrap();
    // Four kinds with objects: 15,002 objects, at most 64 index files each, and the root.
    assert!((15_002..15_002 + 5 * 64).contains(&first.written), "{first:?}");
    let before = read_state(&mut reader);
    move_endpoint(&mut state, 4321, 3001);
    let second = writer.publish(&state).unwrap();
    assert_eq!(second, Published { version: 2, changed: true, written: 3, removed: 0 });
    let after = read_state(&mut reader);
    assert_eq!(*after, versioned(&state, 2));
    let moved = BackendName::new("backend/default/shop-4321").unwrap();
    for (name, backend) in &after.backends {
        assert_eq!(Arc::ptr_eq(backend, &before.backends[name]), *name != moved, "{name}");
    }
    assert!(after.routes.iter().all(|(name, route)| Arc::ptr_eq(route, &before.routes[name])));
    // The third version removes the two files that only the first needed.
    move_endpoint(&mut state, 4321, 3002);
    let third = writer.publish(&state).unwrap();
    assert_eq!(third, Published { version: 3, changed: true, written: 3, removed: 2 });
}

#[test]
fn a_state_that_equals_what_stands_on_disk_is_not_written_again_even_after_a_restart() {
    let folder = tempdir().unwrap();
    let mut writer = Writer::open(folder.path()).unwrap();
    writer.publish(&shops(10)).unwrap();
    let unchanged = Published { version: 1, changed: false, written: 0, removed: 0 };
    assert_eq!(writer.publish(&shops(10)).unwrap(), unchanged);
    drop(writer);
    let mut writer = Writer::open(folder.path()).unwrap();
    assert_eq!(writer.state().unwrap().version, 1);
    assert_eq!(writer.publish(&shops(10)).unwrap(), unchanged);
    let mut changed = shops(10);
    move_endpoint(&mut changed, 3, 1);
    assert_eq!(writer.publish(&changed).unwrap().written, 3);
}

#[test]
fn going_back_and_forth_between_two_states_never_loses_a_file() {
    let folder = tempdir().unwrap();
    let mut writer = Writer::open(folder.path()).unwrap();
    let (one, mut other) = (shops(3), shops(3));
    move_endpoint(&mut other, 0, 9);
    let mut reader = Reader::new(folder.path());
    for version in (1..10).step_by(2) {
        writer.publish(&one).unwrap();
        assert_eq!(*read_state(&mut Reader::new(folder.path())), versioned(&one, version));
        writer.publish(&other).unwrap();
        assert_eq!(*read_state(&mut reader), versioned(&other, version + 1));
    }
}

#[test]
fn a_dangling_reference_is_refused_before_anything_is_written() {
    let folder = tempdir().unwrap();
    let mut writer = Writer::open(folder.path()).unwrap();
    writer.publish(&shops(2)).unwrap();
    let before = files(folder.path());
    let mut broken = shops(3);
    broken.pools.remove("httproute/default/shop-2/rule/0");
    let error = writer.publish(&broken).unwrap_err();
    assert!(matches!(&error, StoreError::Dangling { .. }), "{error}");
    assert!(error.to_string().contains("httproute/default/shop-2 refers to"), "{error}");
    assert_eq!(files(folder.path()), before);
}

#[test]
fn an_object_that_would_not_read_back_the_same_is_refused_before_anything_is_written() {
    let folder = tempdir().unwrap();
    let mut writer = Writer::open(folder.path()).unwrap();
    let mut misnamed = shops(1);
    let backend = misnamed.backends.values().next().unwrap().clone();
    misnamed.backends.insert(BackendName::new("backend/default/other").unwrap(), backend);
    let error = writer.publish(&misnamed).unwrap_err();
    assert!(
        matches!(&error, StoreError::Unwritable { object, .. } if object == "backend/default/other"),
        "{error}"
    );
    assert_eq!(files(folder.path()), Vec::<PathBuf>::new());
}

#[test]
fn a_second_controller_on_the_same_folder_is_refused_until_the_first_is_gone() {
    let folder = tempdir().unwrap();
    let first = Writer::open(folder.path()).unwrap();
    let error = Writer::open(folder.path()).err().unwrap();
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    assert!(error.to_string().contains("another controller"), "{error}");
    drop(first);
    assert!(Writer::open(folder.path()).is_ok());
}

#[test]
fn a_controller_whose_lock_was_taken_away_writes_no_more() {
    let folder = tempdir().unwrap();
    let mut first = Writer::open(folder.path()).unwrap();
    first.publish(&shops(1)).unwrap();
    std::fs::remove_file(folder.path().join("controller.lock")).unwrap();
    let mut second = Writer::open(folder.path()).unwrap();
    assert!(matches!(first.publish(&shops(2)), Err(StoreError::LockLost { .. })));
    assert_eq!(second.publish(&shops(3)).unwrap().version, 2);
}

#[test]
fn the_proxy_s_answers_are_read_as_they_were_written() {
    let folder = tempdir().unwrap();
    assert_eq!(store::read_acknowledgement(folder.path()).unwrap(), None);
    assert_eq!(store::read_reports(folder.path()).unwrap(), None);
    let acknowledgement = Acknowledgement {
        serving: Some(7),
        refused: Some(Refusal { version: None, reason: "cut: \"off\"\n".to_owned() }),
        degraded: vec!["true".to_owned(), String::new()],
    };
    store::write_acknowledgement(folder.path(), &acknowledgement).unwrap();
    assert_eq!(store::read_acknowledgement(folder.path()).unwrap(), Some(acknowledgement));
    let reports = Reports {
        started_ms: 5,
        refused: vec![RefusedTarget {
            backend: "a".into(),
            target: "127.0.0.1:1".into(),
            why: "loopback".into(),
        }],
        pools: vec![PoolReport {
            pool: PoolName::new("httproute/default/shop/rule/0").unwrap(),
            state: PoolState::Split,
            reason: "1 of 3 is healthy".to_owned(),
            load: vec![(0, 46), (1, 54)],
            endpoints: vec![],
            without_endpoints: vec!["backend/default/b".to_owned()],
        }],
        switches: vec![Switch {
            seq: 3,
            at_ms: 1,
            kind: SwitchKind::Failover,
            pool: PoolName::new("p").unwrap(),
            endpoint: None,
            backends: vec!["backend/default/a".to_owned()],
            cause: "x".to_owned(),
            lasted_ms: u64::MAX,
        }],
    };
    store::write_reports(folder.path(), &reports).unwrap();
    assert_eq!(store::read_reports(folder.path()).unwrap(), Some(reports));
    std::fs::write(folder.path().join("proxy/acknowledgement.yaml"), "serving: [").unwrap();
    assert!(matches!(store::read_acknowledgement(folder.path()), Err(StoreError::Garbled { .. })));
}

#[test]
fn a_state_folder_that_is_gone_is_not_made_anew_for_the_proxy_s_answers() {
    let parent = tempdir().unwrap();
    let folder = parent.path().join("state");
    let refused = store::write_acknowledgement(&folder, &Acknowledgement::default()).unwrap_err();
    assert!(matches!(refused, StoreError::Io { action: "create", .. }), "{refused}");
    assert!(store::write_reports(&folder, &Reports::default()).is_err());
    assert!(!folder.exists());
    std::fs::create_dir(&folder).unwrap();
    for _ in 0..2 {
        store::write_reports(&folder, &Reports::default()).unwrap();
    }
    assert_eq!(store::read_reports(&folder).unwrap(), Some(Reports::default()));
}
