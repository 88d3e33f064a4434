//! The keys of one JSON object, taken one by one with a type and a domain; what is left over is unknown.

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value};

/// What a number may be.
#[derive(Clone, Copy)]
pub(crate) enum Domain {
    NonNegative,
    Positive,
    /// [0, 1)
    Beta,
}

impl Domain {
    pub(crate) fn expected(self) -> &'static str {
        match self {
            Self::NonNegative => "a finite number of at least 0",
            Self::Positive => "a finite number greater than 0",
            Self::Beta => "a number in [0, 1)",
        }
    }

    /// The number, where the value is one of this domain. JSON has no NaN and no infinity.
    pub(crate) fn number(self, value: &Value) -> Option<f64> {
        value.as_f64().filter(|number| {
            number.is_finite()
                && match self {
                    Self::NonNegative => *number >= 0.0,
                    Self::Positive => *number > 0.0,
                    Self::Beta => (0.0..1.0).contains(number),
                }
        })
    }
}

pub(crate) struct Keys(Map<String, Value>);

impl Keys {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        match super::json::parse(text).context("not JSON that can be read")? {
            Value::Object(map) => Ok(Self(map)),
            other => bail!("is {}, expected one JSON object", short(&other)),
        }
    }

    pub(crate) fn take(&mut self, key: &str) -> Option<Value> {
        self.0.remove(key)
    }

    pub(crate) fn put(&mut self, key: &str, value: Value) {
        self.0.insert(key.to_string(), value);
    }

    pub(crate) fn number(&mut self, key: &str, domain: Domain, default: f64) -> Result<f64> {
        match self.take(key) {
            None => Ok(default),
            Some(value) => domain.number(&value).ok_or_else(|| wrong(key, &value, domain.expected())),
        }
    }

    /// A number that null turns off.
    pub(crate) fn nullable(
        &mut self,
        key: &str,
        domain: Domain,
        default: Option<f64>,
    ) -> Result<Option<f64>> {
        match self.take(key) {
            None => Ok(default),
            Some(Value::Null) => Ok(None),
            Some(value) => match domain.number(&value) {
                Some(number) => Ok(Some(number)),
                None => Err(wrong(key, &value, &format!("{}, or null", domain.expected()))),
            },
        }
    }

    pub(crate) fn boolean(&mut self, key: &str, default: bool) -> Result<bool> {
        match self.take(key) {
            None => Ok(default),
            Some(Value::Bool(value)) => Ok(value),
            Some(other) => Err(wrong(key, &other, "true or false")),
        }
    }

    /// A whole number that fits 64 bits; nothing where the key is absent.
    pub(crate) fn whole(&mut self, key: &str) -> Result<Option<u64>> {
        let whole = |value: Value| {
            value.as_u64().ok_or_else(|| wrong(key, &value, "a whole number from 0 to 18446744073709551615"))
        };
        self.take(key).map(whole).transpose()
    }

    /// One of a few words; nothing where the key is absent.
    pub(crate) fn choice<T: Copy>(&mut self, key: &str, words: &[(&str, T)]) -> Result<Option<T>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match words.iter().find(|(word, _)| value.as_str() == Some(word)) {
            Some(&(_, meaning)) => Ok(Some(meaning)),
            None => {
                let words: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
                Err(wrong(key, &value, &words.join(" or ")))
            }
        }
    }

    /// A key that nobody has taken.
    pub(crate) fn left_over(&self) -> Option<&str> {
        self.0.keys().next().map(String::as_str)
    }
}

pub(crate) fn wrong(key: &str, found: &Value, expected: &str) -> anyhow::Error {
    anyhow!("key `{key}` is {}, expected {expected}", short(found))
}

/// The value as JSON, cut where it would swamp the message.
fn short(value: &Value) -> String {
    const LONGEST: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
