//! JSON read strictly and piece by piece: a value stays text until something is expected of it. So a document takes no more
//! memory than its text and what is made of it, whatever it holds (a tree of it takes up to a hundred times its text). A key
//! that occurs twice is refused, and so is a value of another type than asked for.

use super::fault::{Fault, shown, wrong};
use crate::allocation::with_capacity;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt::{self, Display};

/// Whole numbers above it are not exact in the f64 that most readers of JSON have.
const LARGEST_WHOLE: u64 = 1 << 53;
/// An object with more is none that is read by its fields.
const MOST_FIELDS: usize = 32;

/// Calls `each` for the entries of a JSON object; `what` names it in errors.
pub(super) fn entries<'a>(
    what: &dyn Display,
    text: &'a str,
    each: impl FnMut(Cow<'a, str>, &'a RawValue) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut parts = Parts { each, fault: None };
    let mut json = serde_json::Deserializer::from_str(text);
    let read = json.deserialize_map(Object(&mut parts)).and_then(|()| json.end());
    parts.end(what, "a JSON object", read)
}

/// Calls `each` for the elements of a JSON list.
pub(super) fn elements<'a>(
    what: &dyn Display,
    text: &'a str,
    mut each: impl FnMut(&'a RawValue) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut parts = Parts { each: |_, value| each(value), fault: None };
    let mut json = serde_json::Deserializer::from_str(text);
    let read = json.deserialize_seq(List(&mut parts)).and_then(|()| json.end());
    parts.end(what, "a JSON list", read)
}

struct Parts<F> {
    each: F,
    /// Why `each` stopped.
    fault: Option<Fault>,
}

impl<F> Parts<F> {
    fn end(self, what: &dyn Display, expected: &str, read: serde_json::Result<()>) -> Result<(), Fault> {
        match (self.fault, read) {
            (Some(fault), _) => Err(fault),
            (None, Ok(())) => Ok(()),
            (None, Err(error)) if error.is_data() => wrong(format!("{what} is not {expected}")),
            (None, Err(error)) => {
                wrong(format!("{what} is not JSON that can be read: {}", shown(&error.to_string())))
            }
        }
    }

    fn take<'a, E: Error>(&mut self, key: Cow<'a, str>, value: &'a RawValue) -> Result<(), E>
    where
        F: FnMut(Cow<'a, str>, &'a RawValue) -> Result<(), Fault>,
    {
        (self.each)(key, value).map_err(|fault| {
            self.fault = Some(fault);
            E::custom("stopped")
        })
    }
}

/// A part of the document, where nothing in it is escaped.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(AnyKey).map(Self)
    }
}

struct AnyKey;

impl<'de> Visitor<'de> for AnyKey {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E>(self, key: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}

struct Object<'p, F>(&'p mut Parts<F>);

impl<'de, F: FnMut(Cow<'de, str>, &'de RawValue) -> Result<(), Fault>> Visitor<'de> for Object<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        while let Some((Key(key), value)) = object.next_entry::<Key<'de>, &RawValue>()? {
            self.0.take(key, value)?;
        }
        Ok(())
    }
}

struct List<'p, F>(&'p mut Parts<F>);

impl<'de, F: FnMut(Cow<'de, str>, &'de RawValue) -> Result<(), Fault>> Visitor<'de> for List<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(value) = list.next_element::<&RawValue>()? {
            self.0.take(Cow::Borrowed(""), value)?;
        }
        Ok(())
    }
}

/// The fields of one object, taken one by one; `what` names it in errors, and costs nothing without.
pub(super) struct Fields<'w, 'a> {
    what: &'w dyn Display,
    fields: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'w, 'a> Fields<'w, 'a> {
    pub(super) fn of(what: &'w dyn Display, text: &'a str) -> Result<Self, Fault> {
        let mut fields: Vec<(Cow<'_, str>, &RawValue)> = Vec::with_capacity(8); // as most have
        entries(what, text, |key, value| {
            if fields.iter().any(|(known, _)| *known == key) {
                return wrong(format!("{what} cannot be read: key {} occurs twice", shown(&key)));
            }
            if fields.len() == MOST_FIELDS {
                return wrong(format!("{what} has more than {MOST_FIELDS} entries"));
            }
            fields.push((key, value));
            Ok(())
        })?;
        Ok(Self { what, fields })
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.fields.iter().any(|(known, _)| known == key)
    }

    /// The text of a value.
    fn raw(&mut self, key: &str) -> Result<&'a str, Fault> {
        match self.fields.iter().position(|(known, _)| known == key) {
            Some(at) => Ok(self.fields.swap_remove(at).1.get()),
            None => wrong(format!("{} has no `{key}`", self.what)),
        }
    }

    fn take<T>(
        &mut self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, Fault> {
        match read(self.raw(key)?) {
            Some(value) => Ok(value),
            None => wrong(format!("`{key}` of {} is not {expected}", self.what)),
        }
    }

    pub(super) fn text(&mut self, key: &str) -> Result<String, Fault> {
        self.take(key, "a string", value)
    }

    /// A string as it is written, escapes and all: to be compared with known ones, which need none.
    pub(super) fn plain(&mut self, key: &str) -> Result<&'a str, Fault> {
        match quoted(self.raw(key)?) {
            Some(text) => Ok(text),
            None => wrong(format!("`{key}` of {} is not a string", self.what)),
        }
    }

    pub(super) fn whole(&mut self, key: &str) -> Result<u64, Fault> {
        self.take(key, "a whole number of at most 2^53", whole)
    }

    /// As `whole`, of a field that older files do not have.
    pub(super) fn whole_or_zero(&mut self, key: &str) -> Result<u64, Fault> {
        if self.has(key) { self.whole(key) } else { Ok(0) }
    }

    pub(super) fn number(&mut self, key: &str) -> Result<f64, Fault> {
        self.take(key, "a number", value)
    }

    /// A list of whole numbers, one by one.
    pub(super) fn wholes(&mut self, key: &str, mut each: impl FnMut(u64)) -> Result<(), Fault> {
        let list = self.raw(key)?;
        let read = elements(&"", list, |element| {
            each(whole(element.get()).ok_or_else(|| Fault::Wrong(String::new()))?);
            Ok(())
        });
        read.or_else(|_| {
            wrong(format!("`{key}` of {} is not a list of whole numbers of at most 2^53", self.what))
        })
    }

    /// Text that is a JSON document itself.
    pub(super) fn document(&mut self, key: &str) -> Result<Document, Fault> {
        let what = format!("`{key}` of {}", self.what);
        let raw = self.raw(key)?;
        match unescaped(raw)? {
            Some(text) => Ok(Document { what, text }),
            None => wrong(format!("{what} is not a string")),
        }
    }

    /// Refuses what nobody has taken.
    pub(super) fn finish(self) -> Result<(), Fault> {
        match self.fields.first() {
            Some((key, _)) => wrong(format!("{} has {}, which is unknown", self.what, shown(key))),
            None => Ok(()),
        }
    }
}

/// A JSON document that was a string in another one.
pub(super) struct Document {
    pub(super) what: String,
    pub(super) text: String,
}

impl Document {
    pub(super) fn fields(&self) -> Result<Fields<'_, '_>, Fault> {
        Fields::of(&self.what, &self.text)
    }
}

/// Small ones only: they are read into memory of serde_json's, which cannot be refused.
fn value<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_str(text).ok()
}

fn whole(text: &str) -> Option<u64> {
    value(text).filter(|whole| *whole <= LARGEST_WHOLE)
}

/// What stands between the quotes of a string.
pub(super) fn quoted(raw: &str) -> Option<&str> {
    raw.strip_prefix('"')?.strip_suffix('"')
}

/// What a JSON string says, however long; `None` where the value is none.
fn unescaped(raw: &str) -> Result<Option<String>, Fault> {
    let Some(mut rest) = quoted(raw) else { return Ok(None) };
    let mut bytes = with_capacity(rest.len(), "a document in the header")?;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        bytes.extend_from_slice(plain.as_bytes());
        let escape = match escaped.as_bytes() {
            [byte @ (b'"' | b'\\' | b'/'), ..] => {
                bytes.push(*byte);
                rest = &escaped[1..];
                continue;
            }
            // Half of a character beyond 16 bits, and then comes the other one.
            [b'u', b'd' | b'D', b'8' | b'9' | b'a' | b'A' | b'b' | b'B', ..] => 11,
            [b'u', ..] => 5,
            _ => 1,
        };
        let Some((escape, after)) = escaped.split_at_checked(escape) else { return Ok(None) };
        let Some(text) = value::<String>(&format!("\"\\{escape}\"")) else { return Ok(None) };
        bytes.extend_from_slice(text.as_bytes());
        rest = after;
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(String::from_utf8(bytes).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn both(raw: &str) {
        let ours = unescaped(raw).unwrap();
        assert_eq!(ours, serde_json::from_str::<String>(raw).ok(), "{raw}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 256 }))]
        #[test]
        fn strings_say_what_serde_json_reads(text in "\\PC*|[\\x00-\\x7f\u{80}-\u{10ffff}]{0,20}") {
            let raw = serde_json::to_string(&text).unwrap();
            both(&raw);
            let ascii: String = text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
            both(&format!("\"{ascii}\""));
        }
    }

    #[test]
    fn escapes() {
        for raw in [
            r#""\b\f\n\r\t\/\\\"""#,
            r#""\u0041\u00e9\u20AC\ud83d\ude00x""#,
            r#""\ud83d""#,
            r#""\ud83dx\u0041""#,
            r#""\ude00""#,
            r#""\ud83d\ud83d""#,
            r#""""#,
        ] {
            both(raw);
        }
        assert_eq!(unescaped("1").unwrap(), None);
    }
}
