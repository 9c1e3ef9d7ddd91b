//! A disk that is really full: a file system of 64 KiB, where the system allows to mount one.

use crate::support::Folder;

const PIPELINE: &str = "\
sources:
  rows: { datagen: { rows: 100000, columns: { id: { sequence: {} } } } }
sinks:
  out: { input: rows, file: { path: out, format: csv, roll_rows: 1000 } }
";

#[test]
fn a_full_disk_leaves_no_file_behind() {
    let folder = Folder::with(&[("pipeline.yaml", PIPELINE)]);
    // A mount in a namespace of its own ends with it; users other than root may make one where they are root.
    let mount =
        "mkdir out && exec unshare --map-root-user --mount sh -c 'mount -t tmpfs -o size=64k none out || exit 99; ";
    let run = "tidemill run pipeline.yaml --workers 2 --quiet; code=$?; ls -A out; exit $code'";
    let ended = folder.run(&format!("{mount}{run}"));
    if ended.code() == 99 || ended.stderr.starts_with("unshare: ") {
        // The limit on the size of files stands in, in tests/cases/run/disk-full-*.case.
        eprintln!("NOT TESTED: no file system can be mounted here: {}", ended.stderr);
        return;
    }
    assert_eq!((ended.code(), ended.stdout.as_str()), (1, ""), "{}", ended.stderr);
    assert!(ended.stderr.starts_with("error: out (worker "), "{}", ended.stderr);
    assert!(ended.stderr.contains("No space left on device"), "{}", ended.stderr);
    assert!(ended.stderr.ends_with("\n  help: free some space and run again\n"), "{}", ended.stderr);
}
