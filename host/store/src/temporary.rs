//! The folder of this program among temporary files, one per user.
//!
//! Law: what lies in it nobody else can read, and nobody else has put there.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tidemill_model::Fault;

/// For the user alone.
const MODE: u32 = 0o700;

/// `tidemill-UID` below the temporary directory; made if it is not there.
pub fn temporary_folder() -> Result<PathBuf, Fault> {
    below(&std::env::temp_dir())
}

fn below(temporary: &Path) -> Result<PathBuf, Fault> {
    let user = fs::metadata("/proc/self").map_err(|e| Fault::io(format!("cannot learn who runs this: {e}")))?.uid();
    let folder = temporary.join(format!("tidemill-{user}"));
    let failed = |e: io::Error| {
        let fault = Fault::io(format!("cannot use the temporary folder `{}`: {e}", folder.display()));
        fault.with_help("set TMPDIR to a directory in which this user can write")
    };
    match DirBuilder::new().mode(MODE).create(&folder) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed(e)),
        _ => {}
    }
    // Not what a link leads to: somebody may have made it in advance, to read along.
    let about = fs::symlink_metadata(&folder).map_err(failed)?;
    let wrong = match (about.is_dir(), about.uid() == user) {
        (true, true) => None,
        (true, false) => Some("belongs to another user"),
        (false, _) => Some("is no directory"),
    };
    if let Some(wrong) = wrong {
        let fault = Fault::config(format!("the temporary folder `{}` {wrong}", folder.display()));
        return Err(fault.with_help("remove it, or set TMPDIR to a directory of your own"));
    }
    if about.mode() & 0o777 != MODE {
        fs::set_permissions(&folder, Permissions::from_mode(MODE)).map_err(failed)?;
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_for_the_user_alone_and_closed_to_others() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = below(temporary.path()).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, MODE);
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        assert_eq!(below(temporary.path()).unwrap(), folder);
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, MODE);
    }

    #[test]
    fn what_somebody_else_has_put_there_is_refused() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = below(temporary.path()).unwrap();
        fs::remove_dir(&folder).unwrap();
        std::os::unix::fs::symlink(temporary.path(), &folder).unwrap();
        let fault = below(temporary.path()).unwrap_err();
        assert!(fault.message.contains("is no directory") && fault.help.is_some(), "{fault}");
        fs::remove_file(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        // Only the administrator can give a directory away.
        if std::os::unix::fs::chown(&folder, Some(12_345), None).is_ok() {
            let fault = below(temporary.path()).unwrap_err();
            assert!(fault.message.contains("belongs to another user"), "{fault}");
        }
        let fault = below(&temporary.path().join("nowhere")).unwrap_err();
        assert!(fault.message.contains("nowhere") && fault.help.is_some(), "{fault}");
    }
}
