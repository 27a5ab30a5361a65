//! What is refused or made harmless while it is decoded: lists that are too long, text that would reach a terminal.
//!
//! A few bytes may decode to many items, and each item may take far more memory than its bytes: a bound that is
//! looked at afterwards comes too late.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

/// Items for which there is room before the first one is decoded.
const AHEAD: usize = 64;

struct Items<T, const MOST: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for Items<T, MOST> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {MOST} items")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
        let said = seq.size_hint().unwrap_or(0);
        if said > MOST {
            return Err(A::Error::invalid_length(said, &self));
        }
        let mut items = Vec::with_capacity(said.min(AHEAD));
        while let Some(item) = seq.next_element()? {
            if items.len() >= MOST {
                return Err(A::Error::invalid_length(items.len() + 1, &self));
            }
            items.push(item);
        }
        Ok(items)
    }
}

/// Decodes a list of at most `MOST` items, for `#[serde(deserialize_with)]`.
///
/// # Errors
/// What the decoder says, or that there are more.
pub fn list<'de, D, T, const MOST: usize>(from: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    from.deserialize_seq(Items::<T, MOST>(PhantomData))
}

/// Decodes text of the other side that people are shown: control characters but the end of a line are written out, so
/// that none reaches a terminal. For `#[serde(deserialize_with)]`.
///
/// # Errors
/// What the decoder says.
pub fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    let shown = |c: &char| *c == '\n' || !c.is_control();
    if text.chars().all(|c| shown(&c)) {
        return Ok(text);
    }
    let written = |c: char| -> String {
        if shown(&c) {
            c.into()
        } else {
            c.escape_default().collect()
        }
    };
    Ok(text.chars().map(written).collect())
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Three(#[serde(deserialize_with = "super::list::<_, _, 3>")] Vec<u8>);

    #[derive(Debug, Deserialize)]
    struct Said(#[serde(deserialize_with = "super::text")] String);

    #[test]
    fn control_characters_are_written_out() {
        let bytes = postcard::to_allocvec("a\x1b[31m\nb\u{9b}é").expect("encodes");
        let said: Said = postcard::from_bytes(&bytes).expect("decodes");
        assert_eq!(said.0, "a\\u{1b}[31m\nb\\u{9b}é");
    }

    #[test]
    fn one_past_the_limit_is_refused() {
        let bytes = |items: &[u8]| postcard::to_allocvec(items).expect("encodes");
        assert_eq!(
            postcard::from_bytes(&bytes(&[1, 2, 3])),
            Ok(Three(vec![1, 2, 3]))
        );
        assert!(postcard::from_bytes::<Three>(&bytes(&[1, 2, 3, 4])).is_err());
        assert!(serde_json::from_str::<Three>("[1, 2, 3]").is_ok());
        assert!(serde_json::from_str::<Three>("[1, 2, 3, 4]").is_err());
    }
}
