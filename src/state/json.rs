//! JSON read strictly: a key that occurs twice is refused, and so is a value of another type than asked for.

use super::fault::{Fault, shown, wrong};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::fmt;

/// Whole numbers above it are not exact in the f64 that most readers of JSON have.
const LARGEST_WHOLE: u64 = 1 << 53;

/// Parses one JSON document; `what` names it in errors.
pub(super) fn parse(what: &str, text: &[u8]) -> Result<Value, Fault> {
    let parsed = serde_json::from_slice::<NoKeyTwice>(text).and_then(|_| serde_json::from_slice(text));
    match parsed {
        Ok(value) => Ok(value),
        Err(error) => wrong(format!("{what} is not JSON that can be read: {}", shown(&error.to_string()))),
    }
}

/// Reads a document for its keys alone. What its values are is left to serde_json, whose features may change how it shows
/// numbers to others.
struct NoKeyTwice;

impl<'de> Deserialize<'de> for NoKeyTwice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Keys).map(|()| Self)
    }
}

struct Keys;

impl<'de> Visitor<'de> for Keys {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element::<NoKeyTwice>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        let mut keys = HashSet::new();
        while let Some(key) = object.next_key::<String>()? {
            let NoKeyTwice = object.next_value()?;
            if keys.contains(&key) {
                return Err(A::Error::custom(format_args!("key {} occurs twice", shown(&key))));
            }
            keys.insert(key);
        }
        Ok(())
    }
}

/// The fields of one object, taken one by one; `what` names it in errors.
pub(super) struct Fields {
    what: String,
    map: Map<String, Value>,
}

impl Fields {
    pub(super) fn of(what: impl Into<String>, value: Value) -> Result<Self, Fault> {
        let what = what.into();
        match value {
            Value::Object(map) => Ok(Self { what, map }),
            _ => wrong(format!("{what} is not a JSON object")),
        }
    }

    fn take<T>(
        &mut self,
        key: &str,
        expected: &str,
        read: impl FnOnce(Value) -> Option<T>,
    ) -> Result<T, Fault> {
        match self.map.remove(key) {
            Some(value) => match read(value) {
                Some(value) => Ok(value),
                None => wrong(format!("`{key}` of {} is not {expected}", self.what)),
            },
            None => wrong(format!("{} has no `{key}`", self.what)),
        }
    }

    pub(super) fn text(&mut self, key: &str) -> Result<String, Fault> {
        self.take(key, "a string", |value| match value {
            Value::String(text) => Some(text),
            _ => None,
        })
    }

    pub(super) fn whole(&mut self, key: &str) -> Result<u64, Fault> {
        self.take(key, "a whole number of at most 2^53", |value| whole(&value))
    }

    /// As `whole`, of a field that older files do not have.
    pub(super) fn whole_or_zero(&mut self, key: &str) -> Result<u64, Fault> {
        if self.map.contains_key(key) { self.whole(key) } else { Ok(0) }
    }

    pub(super) fn number(&mut self, key: &str) -> Result<f64, Fault> {
        self.take(key, "a number", |value| value.as_f64())
    }

    /// A list of whole numbers.
    pub(super) fn wholes(&mut self, key: &str) -> Result<Vec<u64>, Fault> {
        self.take(key, "a list of whole numbers of at most 2^53", |value| match value {
            Value::Array(list) => list.iter().map(whole).collect(),
            _ => None,
        })
    }

    /// Text that is a JSON document itself.
    pub(super) fn document(&mut self, key: &str) -> Result<Value, Fault> {
        parse(&format!("`{key}` of {}", self.what), self.text(key)?.as_bytes())
    }

    /// Text that is a JSON list.
    pub(super) fn list(&mut self, key: &str) -> Result<Vec<Value>, Fault> {
        match self.document(key)? {
            Value::Array(list) => Ok(list),
            _ => wrong(format!("`{key}` of {} is not a JSON list", self.what)),
        }
    }

    pub(super) fn pairs(self) -> impl Iterator<Item = (String, Value)> {
        self.map.into_iter()
    }

    /// Refuses what nobody has taken.
    pub(super) fn finish(self) -> Result<(), Fault> {
        match self.map.keys().next() {
            Some(key) => wrong(format!("{} has {}, which is unknown", self.what, shown(key))),
            None => Ok(()),
        }
    }
}

fn whole(value: &Value) -> Option<u64> {
    value.as_u64().filter(|whole| *whole <= LARGEST_WHOLE)
}
