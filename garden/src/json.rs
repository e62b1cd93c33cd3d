//! JSON objects as Go's programs read them: keys in any case, `null` and nothing alike
//! (contract section 0.2).

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// An object whose fields are taken one by one; what is left is of no interest.
#[derive(Debug)]
pub(crate) struct Object(Map<String, Value>);

/// A field, or the whole, is not what it should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JsonError {
    #[error(transparent)]
    Whole(#[from] serde_json::Error),
    #[error("{key}: {source}")]
    Field { key: &'static str, source: serde_json::Error },
}

impl Object {
    /// Reads an object; `null` is an empty one.
    pub(crate) fn read(text: &[u8]) -> Result<Self, JsonError> {
        Ok(Self(serde_json::from_slice::<Option<_>>(text)?.unwrap_or_default()))
    }

    /// The value of `key`, in exactly this case if there is one; the default when there is none.
    pub(crate) fn take<T: DeserializeOwned + Default>(
        &mut self,
        key: &'static str,
    ) -> Result<T, JsonError> {
        let value = self.0.remove(key).or_else(|| {
            let found = self.0.keys().find(|have| have.eq_ignore_ascii_case(key))?.clone();
            self.0.remove(&found)
        });
        let decoded = value.map(serde_json::from_value::<Option<T>>).transpose();
        Ok(decoded
            .map_err(|source| JsonError::Field { key, source })?
            .flatten()
            .unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_in_any_case() {
        for (text, expected) in [
            (r#"{"Pid":42}"#, Ok(42)),
            (r#"{"pid":42}"#, Ok(42)),
            (r#"{"PID":1,"Pid":42}"#, Ok(42)),
            (r#"{"pid":null}"#, Ok(0)),
            (r#"{"pod":42}"#, Ok(0)),
            ("null", Ok(0)),
            (r#"{"pid":"x"}"#, Err("Pid: invalid type: string \"x\", expected i32")),
            ("[]", Err("invalid type: sequence, expected a map at line 1 column 0")),
        ] {
            let pid = Object::read(text.as_bytes()).and_then(|mut object| object.take("Pid"));
            let pid: Result<i32, _> = pid.map_err(|error| error.to_string());
            assert_eq!(pid, expected.map_err(ToOwned::to_owned), "{text}");
        }
    }
}
