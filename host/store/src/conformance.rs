//! What every store of objects must do, as a function that tests call. Panics with what was violated.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidemill_model::checkpoint::ObjectStore;

/// More than one part of an upload to S3, and no multiple of one.
const LARGE_BYTES: usize = 40 << 20 | 12345;
const WRITERS: usize = 8;
/// More than S3 lists, or removes, in one request.
const MANY: usize = 1005;

/// Runs all checks on an empty store. `scratch` is a directory for files.
pub fn conformance(store: &dyn ObjectStore, scratch: &Path) {
    objects_come_back(store);
    odd_names_are_names(store);
    names_that_lead_elsewhere_are_refused(store);
    one_creation_wins(store);
    a_replaced_object_is_one_or_the_other(store);
    prefixes_are_texts(store);
    files_come_back(store, scratch);
    many_objects(store);
}

fn objects_come_back(store: &dyn ObjectStore) {
    assert_eq!(store.get("no/such").unwrap(), None);
    assert_eq!(store.size("no/such").unwrap(), None);
    assert_eq!(store.list("").unwrap(), []);
    store.delete(&["no/such".into()]).unwrap();
    let large: Vec<u8> = (0..LARGE_BYTES).map(|i| ((i * 31) >> 3) as u8).collect();
    for (name, content) in [("empty", &[][..]), ("a/b/c", b"text"), ("large", &large)] {
        store.put(name, content).unwrap();
        assert!(store.get(name).unwrap().as_deref() == Some(content), "{name} comes back");
        assert_eq!(store.size(name).unwrap(), Some(content.len() as u64), "{name}");
        assert!(!store.location(name).is_empty());
        assert!(!store.create(name, b"other").unwrap(), "{name} is there already");
        assert!(store.get(name).unwrap().as_deref() == Some(content), "{name} is as it was");
        store.put(name, b"new").unwrap();
        assert_eq!(store.get(name).unwrap().unwrap(), b"new");
        store.delete(&[name.into(), "no/such".into()]).unwrap();
        assert_eq!((store.get(name).unwrap(), store.size(name).unwrap()), (None, None), "{name} is gone");
        assert!(store.create(name, content).unwrap(), "{name} can be created again");
        assert!(store.get(name).unwrap().as_deref() == Some(content), "{name} comes back");
        store.delete(&[name.into()]).unwrap();
    }
}

fn odd_names_are_names(store: &dyn ObjectStore) {
    let odd =
        ["a b", "a+b", "a%20b", "ü/ß", "a?x=1&y=2", "a#b", "a\\b", "'a\"", "~", "a=b,c;d:e@f", "<a>", "*", "..a/b.."];
    let content = |name: &str| format!("of {name}").into_bytes();
    for name in odd {
        store.put(name, &content(name)).unwrap();
    }
    for name in odd {
        assert_eq!(store.get(name).unwrap(), Some(content(name)), "{name}");
    }
    let mut expected: Vec<(String, u64)> =
        odd.iter().map(|name| ((*name).to_owned(), content(name).len() as u64)).collect();
    expected.sort();
    assert_eq!(store.list("").unwrap(), expected);
    store.delete(&odd.map(str::to_owned)).unwrap();
    assert_eq!(store.list("").unwrap(), []);
}

fn names_that_lead_elsewhere_are_refused(store: &dyn ObjectStore) {
    for name in ["", "/a", "a/", "a//b", "../a", "a/../../b", ".", "a/.", "a\nb", "a\0b"] {
        assert!(store.put(name, b"x").is_err(), "put {name:?}");
        assert!(store.create(name, b"x").is_err(), "create {name:?}");
        assert!(store.get(name).is_err(), "get {name:?}");
        assert!(store.size(name).is_err(), "size {name:?}");
        assert!(store.delete(&[name.into()]).is_err(), "delete {name:?}");
    }
    assert_eq!(store.list("").unwrap(), []);
}

fn one_creation_wins(store: &dyn ObjectStore) {
    for round in 0..10 {
        let (name, wins) = (format!("race/{round}"), AtomicUsize::new(0));
        let winner = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for writer in 1..=WRITERS {
                let (name, wins, winner) = (&name, &wins, &winner);
                scope.spawn(move || {
                    if store.create(name, &vec![writer as u8; 1000 + writer]).unwrap() {
                        wins.fetch_add(1, Ordering::Relaxed);
                        winner.store(writer, Ordering::Relaxed);
                    }
                    assert!(store.get(name).unwrap().is_some(), "whoever has lost sees what has won");
                });
            }
        });
        assert_eq!(wins.into_inner(), 1, "creations that succeeded");
        let winner = winner.into_inner();
        assert_eq!(store.get(&name).unwrap().unwrap(), vec![winner as u8; 1000 + winner]);
        store.delete(&[name]).unwrap();
    }
}

fn a_replaced_object_is_one_or_the_other(store: &dyn ObjectStore) {
    let content = |value: usize| vec![value as u8; 100_000 + value];
    store.put("replaced", &content(0)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| (1..20).for_each(|value| store.put("replaced", &content(value)).unwrap()));
        for _ in 0..50 {
            let seen = store.get("replaced").unwrap().expect("it is there all the time");
            assert!(seen == content(usize::from(seen[0])), "half an object was seen");
        }
    });
    store.delete(&["replaced".into()]).unwrap();
}

fn prefixes_are_texts(store: &dyn ObjectStore) {
    let names = ["p", "pb/c", "pb/cd/e", "pb/cd/f", "pbc", "q/p"].map(str::to_owned);
    for name in &names {
        store.put(name, name.as_bytes()).unwrap();
    }
    for prefix in ["", "p", "pb", "pb/", "pb/c", "pb/cd", "pb/cd/", "pb/cd/e", "pbc", "q", "q/p", "c", "c/d", "pbc/"] {
        let expected: Vec<(String, u64)> = names
            .iter()
            .filter(|name| name.starts_with(prefix))
            .map(|name| (name.clone(), name.len() as u64))
            .collect();
        assert_eq!(store.list(prefix).unwrap(), expected, "{prefix}");
    }
    store.delete(&names).unwrap();
}

fn files_come_back(store: &dyn ObjectStore, scratch: &Path) {
    let (from, to) = (scratch.join("from"), scratch.join("to"));
    let large: Vec<u8> = (0..LARGE_BYTES).map(|i| ((i * 7) >> 2) as u8).collect();
    for content in [&[][..], b"text", &large] {
        fs::write(&from, content).unwrap();
        store.put_file("file", &from).unwrap();
        // The same once more, as a retry does it.
        store.put_file("file", &from).unwrap();
        fs::remove_file(&from).unwrap();
        assert!(store.get("file").unwrap().as_deref() == Some(content));
        assert!(store.get_file("file", &to).unwrap());
        assert!(store.get_file("file", &to).unwrap(), "a file that is in the way is replaced");
        assert!(fs::read(&to).unwrap() == content);
        store.delete(&["file".into()]).unwrap();
        assert!(fs::read(&to).unwrap() == content, "the file is its own");
        assert!(!store.get_file("file", &to).unwrap());
    }
    let missing = store.put_file("file", &from).unwrap_err();
    assert!(missing.message.contains(&*from.to_string_lossy()), "{missing}");
    assert_eq!(store.list("").unwrap(), []);
}

fn many_objects(store: &dyn ObjectStore) {
    let names: Vec<String> = (0..MANY).map(|i| format!("many/{i:05}")).collect();
    std::thread::scope(|scope| {
        for part in names.chunks(MANY.div_ceil(WRITERS)) {
            scope.spawn(move || part.iter().for_each(|name| store.put(name, b"x").unwrap()));
        }
    });
    let listed: Vec<String> = store.list("many/").unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(listed, names);
    store.delete(&names).unwrap();
    assert_eq!(store.list("").unwrap(), []);
}
