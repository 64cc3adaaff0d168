//! Files that were cut, garbled, removed or written by somebody else.

use std::fs;

use proptest::prelude::*;
use tempfile::tempdir;

use super::super::{Read, Reader, StoreError, Writer};
use super::*;

/// A change of a file, by name.
type Damage = (&'static str, fn(&mut Vec<u8>));

const DAMAGES: [Damage; 9] = [
    ("emptied", Vec::clear),
    ("cut in the middle", |content| content.truncate(content.len() / 2)),
    ("without its last byte", |content| content.truncate(content.len() - 1)),
    ("without its last line", |content| {
        let end = content[..content.len() - 1].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        content.truncate(end);
    }),
    ("one digit changed", |content| change_first(content, u8::is_ascii_digit)),
    ("one letter changed", |content| change_first(content, u8::is_ascii_alphabetic)),
    ("one space changed", |content| change_first(content, |byte| *byte == b' ')),
    ("a byte that is no text", |content| content[0] = 0xff),
    ("something behind the end", |content| content.extend_from_slice(b"x: 1\n")),
];

fn change_first(content: &mut [u8], which: impl Fn(&u8) -> bool) {
    let at = content.iter().rposition(which).unwrap_or(0);
    content[at] ^= 1;
}

#[test]
fn every_damage_to_every_file_is_refused_and_the_repaired_state_is_read() {
    let folder = tempdir().unwrap();
    let mut writer = Writer::open(folder.path()).unwrap();
    writer.publish(&shops(1)).unwrap();
    let mut changed = shops(2);
    move_endpoint(&mut changed, 0, 99);
    let mut version = 1;
    for (what, damage) in DAMAGES {
        let count = files(folder.path()).len();
        for number in 0..count {
            // A reader that had the version before, and one that starts.
            let mut follower = Reader::new(folder.path());
            let before = read_state(&mut follower);
            version += 1;
            let next = if before.routes.len() == 1 { changed.clone() } else { shops(1) };
            assert_eq!(writer.publish(&next).unwrap().version, version);
            let mut needed = vec![folder.path().join("state.yaml")];
            let own =
                super::super::snapshot::load_snapshot(folder.path(), fs::read(&needed[0]).unwrap(), None);
            needed.extend(own.unwrap().index.files().map(|id| id.path(folder.path())));
            let file = &needed[number % needed.len()];
            let good = fs::read(file).unwrap();
            let mut bad = good.clone();
            damage(&mut bad);
            assert_ne!(bad, good, "{what} {}", file.display());
            fs::write(file, &bad).unwrap();
            let fresh = Reader::new(folder.path()).read();
            let error = fresh.err().unwrap_or_else(|| panic!("{what} was not found in {}", file.display()));
            assert!(
                matches!(
                    error,
                    StoreError::Truncated { .. }
                        | StoreError::Garbled { .. }
                        | StoreError::NewerFormat { .. }
                ),
                "{what}: {error}"
            );
            assert!(error.to_string().contains(&*file.to_string_lossy()), "{error}");
            // The follower has some files in memory, and need not look at them again.
            match follower.read() {
                Err(_) => assert_eq!(follower.state(), Some(&before), "the last good state stays"),
                Ok(Read::State(state)) => assert_eq!(*state, versioned(&next, version)),
                Ok(Read::Unchanged) => panic!("{what} of {}", file.display()),
            }
            let repaired = writer.repair().unwrap();
            assert!(repaired.changed && repaired.written <= 2, "{repaired:?}");
            version += 1;
            assert_eq!(*read_state(&mut Reader::new(folder.path())), versioned(&next, version), "{what}");
            assert_eq!(*read_state(&mut follower), versioned(&next, version), "{what}");
            assert!(!writer.repair().unwrap().changed);
        }
    }
}

#[test]
fn every_missing_file_is_named_and_repaired() {
    let folder = tempdir().unwrap();
    let mut writer = Writer::open(folder.path()).unwrap();
    writer.publish(&shops(2)).unwrap();
    for file in files(folder.path()) {
        fs::remove_file(&file).unwrap();
        let error = Reader::new(folder.path()).read().unwrap_err();
        assert!(matches!(error, StoreError::Vanished { .. } | StoreError::Missing { .. }), "{error}");
        assert!(error.to_string().contains(&*file.to_string_lossy()), "{error}");
        let repaired = writer.repair().unwrap();
        assert!(repaired.changed);
        let read = read_state(&mut Reader::new(folder.path()));
        assert_eq!(*read, versioned(&shops(2), repaired.version));
    }
}

#[test]
fn a_controller_that_finds_a_damaged_state_replaces_it_with_a_version_above() {
    for (what, damage) in DAMAGES {
        let folder = tempdir().unwrap();
        let mut writer = Writer::open(folder.path()).unwrap();
        for count in 1..6 {
            writer.publish(&shops(count)).unwrap();
        }
        drop(writer);
        let serving = Acknowledgement { serving: Some(5), ..Acknowledgement::default() };
        store::write_acknowledgement(folder.path(), &serving).unwrap();
        let root = folder.path().join("state.yaml");
        let mut content = fs::read(&root).unwrap();
        damage(&mut content);
        fs::write(&root, content).unwrap();
        let mut writer = Writer::open(folder.path()).unwrap();
        assert_eq!(writer.state(), None, "{what}");
        let published = writer.publish(&shops(5)).unwrap();
        assert!(published.changed && published.version > 5, "{what}: {published:?}");
        let mut reader = Reader::new(folder.path());
        assert_eq!(*read_state(&mut reader), versioned(&shops(5), published.version), "{what}");
        // Nothing that the damage left behind stays.
        writer.publish(&shops(4)).unwrap();
        writer.publish(&shops(5)).unwrap();
        writer.publish(&shops(4)).unwrap();
        assert_eq!(*read_state(&mut reader), versioned(&shops(4), published.version + 3));
    }
}

#[test]
fn a_root_that_somebody_else_changed_or_removed_is_written_again() {
    let folder = tempdir().unwrap();
    let root = folder.path().join("state.yaml");
    let mut writer = Writer::open(folder.path()).unwrap();
    writer.publish(&shops(2)).unwrap();
    fs::remove_file(&root).unwrap();
    assert_eq!(writer.publish(&shops(2)).unwrap().version, 2);
    fs::write(&root, "format: 1\nversion: 40\nnonsense\n").unwrap();
    assert_eq!(writer.publish(&shops(2)).unwrap().version, 41);
    fs::remove_dir_all(folder.path().join("routes")).unwrap();
    fs::remove_file(&root).unwrap();
    assert_eq!(writer.publish(&shops(2)).unwrap().version, 42);
    assert_eq!(*read_state(&mut Reader::new(folder.path())), versioned(&shops(2), 42));
}

#[test]
fn a_newer_format_is_refused_and_the_last_good_state_stays() {
    let folder = tempdir().unwrap();
    let mut writer = Writer::open(folder.path()).unwrap();
    writer.publish(&shops(1)).unwrap();
    let mut reader = Reader::new(folder.path());
    let good = read_state(&mut reader);
    let root = folder.path().join("state.yaml");
    let ours = fs::read(&root).unwrap();
    fs::write(&root, "format: 2\nversion: 9\nshards: elsewhere\n").unwrap();
    let error = reader.read().unwrap_err();
    assert!(matches!(error, StoreError::NewerFormat { found: 2, known: 1, .. }), "{error}");
    assert!(error.to_string().contains("upgrade the proxy"), "{error}");
    assert_eq!(reader.state(), Some(&good));
    assert_eq!(reader.found_version(), Some(9));
    fs::write(&root, ours).unwrap();
    assert!(matches!(reader.read(), Ok(Read::Unchanged)));
}

#[test]
fn a_root_that_refers_to_objects_which_refer_to_nothing_is_refused() {
    let folder = tempdir().unwrap();
    let mut broken = shops(1);
    broken.pools.clear();
    let plan = super::super::plan::build_plan(None, &broken).unwrap();
    drop(Writer::open(folder.path()).unwrap());
    for (id, text) in &plan.files {
        fs::write(id.path(folder.path()), text).unwrap();
    }
    let root = super::super::root::Root::new(1, |kind| plan.index.digests(kind)).to_bytes().unwrap();
    fs::write(folder.path().join("state.yaml"), root).unwrap();
    let error = Reader::new(folder.path()).read().unwrap_err();
    assert!(matches!(error, StoreError::Dangling { .. }), "{error}");
}

#[test]
fn a_root_that_is_too_large_or_no_file_is_refused() {
    let folder = tempdir().unwrap();
    let root = folder.path().join("state.yaml");
    fs::create_dir(&root).unwrap();
    assert!(matches!(Reader::new(folder.path()).read(), Err(StoreError::Garbled { .. })));
    fs::remove_dir(&root).unwrap();
    // A file with a hole takes no space.
    fs::File::create(&root).unwrap().set_len(store::MAX_FILE_BYTES + 1).unwrap();
    assert!(matches!(Reader::new(folder.path()).read(), Err(StoreError::TooLarge { .. })));
}

#[test]
fn a_reader_that_meets_a_version_half_removed_takes_the_newer_one() {
    let folder = tempdir().unwrap();
    let mut writer = Writer::open(folder.path()).unwrap();
    // Two threads, many versions: whatever the timing, each read is one whole version.
    let path = folder.path().to_owned();
    let reading = std::thread::spawn(move || {
        let mut last = 0;
        while last < 300 {
            match Reader::new(&path).read() {
                Ok(Read::State(state)) => {
                    assert!(state.version >= last);
                    last = state.version;
                    let stamp = u16::try_from(last).unwrap();
                    for backend in state.backends.values() {
                        let expected = EndpointAddress::Ip { address: [10, 0, 0, 1].into(), port: stamp };
                        assert_eq!(backend.endpoints[0].address, expected, "version {last}");
                    }
                }
                Ok(Read::Unchanged) => unreachable!("a new reader has read nothing"),
                Err(StoreError::Missing { .. }) => {}
                // So fast a writer may outrun every attempt; the next read is to succeed.
                Err(StoreError::Vanished { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    });
    let mut state = shops(4);
    for version in 1..=300 {
        for number in 0..4 {
            move_endpoint(&mut state, number, version);
        }
        assert_eq!(writer.publish(&state).unwrap().version, u64::from(version));
    }
    reading.join().unwrap();
}

proptest! {
    #[test]
    fn no_text_makes_a_reader_panic(text in "(serving|pools|[-:\\[\\]{}&*!|>'\"#~0-9a-c \n\t,?@]){0,30}|\\PC{0,30}") {
        let folder = tempdir().unwrap();
        fs::create_dir(folder.path().join("proxy")).unwrap();
        for name in ["proxy/acknowledgement.yaml", "proxy/reports.yaml", "state.yaml"] {
            fs::write(folder.path().join(name), &text).unwrap();
        }
        // Whether such a text can mean something is not the point; that it does not stop the controller is.
        let _ = store::read_acknowledgement(folder.path());
        let _ = store::read_reports(folder.path());
        prop_assert!(Reader::new(folder.path()).read().is_err());
        prop_assert!(Writer::open(folder.path()).unwrap().publish(&shops(1)).unwrap().changed);
    }
}
