//! A writer that is killed at any moment leaves the old version or the new one, and the next writer goes on.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tempfile::tempdir;

use super::super::disk::{Disk, Step};
use super::super::{Read, Reader, StoreError, Writer};
use super::*;

/// A disk on which everything fails after so many steps, and whether it did.
fn dies_after(steps: usize) -> (Disk, Arc<AtomicBool>) {
    let mut left = steps;
    let dead = Arc::new(AtomicBool::new(false));
    let died = Arc::clone(&dead);
    let hook = move |_| match left {
        0 => {
            died.store(true, Ordering::Relaxed);
            Err(io::Error::other("killed"))
        }
        _ => {
            left -= 1;
            Ok(())
        }
    };
    (Disk { hook: Some(Box::new(hook)) }, dead)
}

/// A folder with two versions, of which the second is `old`; the third will have files to remove.
fn folder_with(old: &State) -> tempfile::TempDir {
    let folder = tempdir().unwrap();
    let mut writer = Writer::open(folder.path()).unwrap();
    let mut first = shops(4);
    move_endpoint(&mut first, 1, 5);
    writer.publish(&first).unwrap();
    writer.publish(old).unwrap();
    folder
}

/// A disk that reads the state before each step, and checks that it is one of these.
fn watched(folder: &Path, allowed: Vec<State>, seen: Arc<AtomicUsize>) -> Disk {
    let mut follower = Reader::new(folder);
    let folder = folder.to_owned();
    Disk {
        hook: Some(Box::new(move |_| {
            let fresh = read_state(&mut Reader::new(&folder));
            assert!(allowed.contains(&fresh), "a mix of versions: {}", fresh.version);
            match follower.read().unwrap() {
                Read::State(state) => assert_eq!(state, fresh),
                Read::Unchanged => assert_eq!(follower.state(), Some(&fresh)),
            }
            seen.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })),
    }
}

/// States that differ in objects of every kind, with removals and additions.
fn old_and_new() -> (State, State) {
    let mut new = shops(6);
    for number in 3..6 {
        move_endpoint(&mut new, number, 4000);
    }
    let mut policy = Policy::clone(new.policies.values().next().unwrap());
    policy.buffer_limit = 1;
    new.policies.insert(policy.name.clone(), Arc::new(policy));
    let gone = RouteName::new("httproute/default/shop-0").unwrap();
    new.routes.remove(&gone);
    new.pools.remove("httproute/default/shop-0/rule/0");
    new.backends.remove("backend/default/shop-0");
    (shops(5), new)
}

#[test]
fn a_writer_killed_at_any_step_leaves_the_old_version_or_the_new_one_and_the_next_writer_goes_on() {
    let (old, new) = old_and_new();
    let mut kills = 0;
    for steps in 0.. {
        let folder = folder_with(&old);
        let mut follower = Reader::new(folder.path());
        assert_eq!(*read_state(&mut follower), versioned(&old, 2));

        let (disk, dead) = dies_after(steps);
        let mut dying = Writer::open_with(folder.path().to_owned(), disk).unwrap();
        let outcome = dying.publish(&new);
        drop(dying);

        let found = read_state(&mut Reader::new(folder.path()));
        let committed = outcome.is_ok();
        assert_eq!(*found, if committed { versioned(&new, 3) } else { versioned(&old, 2) }, "step {steps}");
        match follower.read().unwrap() {
            Read::State(state) => assert_eq!(state, found),
            Read::Unchanged => assert_eq!(follower.state(), Some(&found)),
        }

        let mut writer = Writer::open(folder.path()).unwrap();
        let published = writer.publish(&new).unwrap();
        assert_eq!((published.version, published.changed), (3, !committed), "step {steps}");
        assert_eq!(*read_state(&mut Reader::new(folder.path())), versioned(&new, 3));
        let mut newest = new.clone();
        move_endpoint(&mut newest, 1, 1);
        writer.publish(&newest).unwrap();
        move_endpoint(&mut newest, 1, 2);
        writer.publish(&newest).unwrap();
        // What killed writers left is gone after two more versions: 5 routes, pools and backends, a gateway, a
        // policy, their index files, the root, and two files of the version before.
        let left = files(folder.path());
        let index = left.iter().filter(|file| file.parent().unwrap().ends_with("index")).count();
        assert_eq!(left.len() - index, 3 * 5 + 1 + 1 + 1 + 1, "{left:#?}");
        assert!(left.iter().all(|file| !file.file_name().unwrap().to_string_lossy().starts_with('.')));
        if !dead.load(Ordering::Relaxed) {
            break;
        }
        kills += 1;
    }
    assert!(kills >= 24, "{kills}");
}

#[test]
fn a_reader_at_any_step_of_a_change_sees_exactly_the_old_version_or_the_new_one() {
    let (old, new) = old_and_new();
    let folder = folder_with(&old);
    let seen = Arc::new(AtomicUsize::new(0));
    let disk = watched(folder.path(), vec![versioned(&old, 2), versioned(&new, 3)], Arc::clone(&seen));
    let published = Writer::open_with(folder.path().to_owned(), disk).unwrap().publish(&new).unwrap();
    assert!(published.removed > 0);
    assert_eq!(seen.load(Ordering::Relaxed), 2 * published.written + published.removed);
}

#[test]
fn what_is_referred_to_is_written_before_what_refers_to_it_and_removal_is_last() {
    let (old, new) = old_and_new();
    let folder = folder_with(&old);
    let steps = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&steps);
    let disk = Disk {
        hook: Some(Box::new(move |step| {
            seen.lock().unwrap().push(step);
            Ok(())
        })),
    };
    Writer::open_with(folder.path().to_owned(), disk).unwrap().publish(&new).unwrap();
    let order = [
        "policies",
        "ca-bundles",
        "certificates",
        "backends",
        "pools",
        "gateways",
        "routes",
        "index",
        "state.yaml",
        "removed",
    ];
    let ranks: Vec<usize> = steps
        .lock()
        .unwrap()
        .iter()
        .filter_map(|step| match step {
            Step::Write(_) => None,
            Step::Remove(_) => Some("removed".to_owned()),
            Step::Rename(to) => {
                let relative = to.strip_prefix(folder.path()).unwrap();
                Some(relative.iter().next().unwrap().to_string_lossy().into_owned())
            }
        })
        .map(|place| order.iter().position(|known| *known == place).unwrap())
        .collect();
    assert!(ranks.is_sorted(), "{ranks:?}");
    assert_eq!(ranks.last(), Some(&9));
}

#[test]
fn a_writer_that_failed_once_goes_on_when_the_disk_works_again() {
    let (old, new) = old_and_new();
    let folder = tempdir().unwrap();
    let fail = Arc::new(AtomicBool::new(false));
    let failing = Arc::clone(&fail);
    let disk = Disk {
        hook: Some(Box::new(move |step| match step {
            Step::Rename(to) if failing.load(Ordering::Relaxed) && to.ends_with("state.yaml") => {
                Err(io::Error::from(io::ErrorKind::StorageFull))
            }
            _ => Ok(()),
        })),
    };
    let mut writer = Writer::open_with(folder.path().to_owned(), disk).unwrap();
    writer.publish(&old).unwrap();
    fail.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        let error = writer.publish(&new).unwrap_err();
        assert!(matches!(error, StoreError::Io { .. }), "{error}");
        assert_eq!(*read_state(&mut Reader::new(folder.path())), versioned(&old, 1));
    }
    fail.store(false, Ordering::Relaxed);
    assert_eq!(writer.publish(&new).unwrap().version, 2);
    assert_eq!(*read_state(&mut Reader::new(folder.path())), versioned(&new, 2));
}
