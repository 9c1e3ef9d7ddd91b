//! Names of objects, and names of people made fit for them.
//!
//! Law: a checked name leads to one place below the root of a store, in a directory as in a bucket.

use tidemill_model::Fault;

/// S3 takes 1024 bytes, prefix included.
const NAME_BYTES_MAX: usize = 900;
/// File systems take 255 bytes, and a hash or a number is put behind it.
const SAFE_BYTES_MAX: usize = 120;

/// Refuses what is not a relative path of parts between `/`.
pub fn check(name: &str) -> Result<(), Fault> {
    let wrong = |part: &str| part.is_empty() || part == "." || part == ".." || part.chars().any(char::is_control);
    if name.len() > NAME_BYTES_MAX {
        return Err(Fault::internal(format!("the name of an object has more than {NAME_BYTES_MAX} bytes: `{name}`")));
    }
    if name.split('/').any(wrong) {
        return Err(Fault::internal(format!("`{}` can't be the name of an object", name.escape_debug())));
    }
    Ok(())
}

/// Letters, digits, `-`, `_` and `.` stay; other bytes become `%XX`. Different names stay different.
pub fn safe(name: &str) -> String {
    let mut safe = String::new();
    for (i, byte) in name.bytes().enumerate() {
        match byte {
            b'.' if i == 0 => safe += "%2E",
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => safe.push(char::from(byte)),
            _ => safe += &format!("%{byte:02X}"),
        }
    }
    match safe.len() {
        0 => "%".into(),
        len if len > SAFE_BYTES_MAX => {
            format!("{}%{}", &safe[..SAFE_BYTES_MAX - 70], crate::sealed::sha256(name.as_bytes()))
        }
        _ => safe,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn only_plain_paths_pass() {
        for name in ["a", "a/b", "a b/ü%+?#=&.x", "..a", "a/...", "\\"] {
            assert!(check(name).is_ok(), "{name}");
        }
        let long = "x".repeat(901);
        for name in ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a\n", "a\0b", &long] {
            assert!(check(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn safe_names_pass_and_stay_different() {
        let long = ["x".repeat(300), "x".repeat(301), "ü".repeat(200)];
        let names = ["", ".", "..", "%", "a", "a/b", "a%2Fb", "A", "ü", ".hidden", "a.b"];
        let all: Vec<&str> = names.into_iter().chain(long.iter().map(String::as_str)).collect();
        let safe_names: BTreeSet<String> = all.iter().map(|name| safe(name)).collect();
        assert_eq!(safe_names.len(), all.len());
        for name in safe_names {
            assert!(check(&name).is_ok() && name.len() <= SAFE_BYTES_MAX && !name.starts_with('.'), "{name}");
        }
    }
}
