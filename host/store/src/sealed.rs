//! Small JSON documents with their own checksum: `{"sha256":"HEX","content":CONTENT}` and a newline.
//!
//! Law: what comes out is what went in, byte for byte, or a fault that names the object.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tidemill_model::Fault;

const HEAD: &str = "{\"sha256\":\"";
const MIDDLE: &str = "\",\"content\":";
const TAIL: &str = "}\n";

/// SHA-256 in hex, small letters.
pub fn sha256(content: &[u8]) -> String {
    hex(Sha256::digest(content).as_slice())
}

pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

pub fn seal<T: Serialize>(content: &T) -> Result<Vec<u8>, Fault> {
    let content =
        serde_json::to_string(content).map_err(|e| Fault::internal(format!("a document can't be written: {e}")))?;
    Ok(format!("{HEAD}{}{MIDDLE}{content}{TAIL}", sha256(content.as_bytes())).into_bytes())
}

/// `place` is where the document is, for people.
pub fn open<T: DeserializeOwned>(document: &[u8], place: &str) -> Result<T, Fault> {
    let content = content(document).ok_or_else(|| damaged(place, "its checksum does not fit"))?;
    serde_json::from_slice(content).map_err(|e| damaged(place, &e.to_string()))
}

fn content(document: &[u8]) -> Option<&[u8]> {
    let (sum, rest) = document.strip_prefix(HEAD.as_bytes())?.split_at_checked(64)?;
    let content = rest.strip_prefix(MIDDLE.as_bytes())?.strip_suffix(TAIL.as_bytes())?;
    (sha256(content).as_bytes() == sum).then_some(content)
}

/// The fault of a stored thing that is not as it was written.
pub fn damaged(place: &str, what: &str) -> Fault {
    Fault::data(format!("`{place}` is damaged: {what}"))
        .with_help("restore it from a copy, or restore the job from another checkpoint or savepoint")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_comes_back_and_any_change_is_seen() {
        let sealed = seal(&vec!["a", "é\n"]).unwrap();
        assert_eq!(open::<Vec<String>>(&sealed, "x").unwrap(), ["a", "é\n"]);
        assert!(serde_json::from_slice::<serde_json::Value>(&sealed).is_ok());
        for i in 0..sealed.len() {
            for bit in 0..8 {
                let mut broken = sealed.clone();
                broken[i] ^= 1 << bit;
                let fault = open::<Vec<String>>(&broken, "the/name").unwrap_err();
                assert!(fault.message.contains("the/name"), "{fault}");
            }
            assert!(open::<Vec<String>>(&sealed[..i], "x").is_err());
        }
        assert!(open::<u8>(&sealed, "x").is_err());
    }
}
