//! Parameters in the address of a request.

/// The first value of a parameter; later ones do not count.
pub(super) fn first(query: Option<&str>, name: &str) -> Option<String> {
    form_urlencoded::parse(query?.as_bytes())
        .find(|(own, _)| own == name)
        .map(|(_, value)| value.into_owned())
}

/// The list in a parameter, separated by commas. An empty parameter is a list of one empty text.
pub(super) fn list(query: Option<&str>, name: &str) -> Option<Vec<String>> {
    first(query, name).map(|value| value.split(',').map(ToOwned::to_owned).collect())
}

/// The number in a parameter; 0 when there is none.
pub(super) fn number(query: Option<&str>, name: &str) -> Result<i64, NotANumber> {
    match first(query, name) {
        Some(value) if !value.is_empty() => {
            value.parse().map_err(|_| NotANumber { name: name.to_owned() })
        }
        _ => Ok(0),
    }
}

/// A parameter that should be a number and is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid value for '{name}' parameter")]
pub(super) struct NotANumber {
    name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_occurrence_counts() {
        let list = |query: &str| list(Some(query), "id");
        let texts = |texts: &[&str]| Some(texts.iter().map(ToString::to_string).collect());
        assert_eq!(list("id=a,b&id=c"), texts(&["a", "b"]));
        assert_eq!(list("x=1&id=a%2Cb"), texts(&["a", "b"]));
        assert_eq!(list("id="), texts(&[""]));
        assert_eq!(list("id"), texts(&[""]));
        assert_eq!(list("id=a,,b,"), texts(&["a", "", "b", ""]));
        assert_eq!(list("ID=a"), None);
        assert_eq!(list(""), None);
        assert_eq!(super::list(None, "id"), None);
    }

    #[test]
    fn numbers_are_decimal() {
        let number = |query: &str| number(Some(query), "from");
        let wrong = NotANumber { name: "from".into() };
        assert_eq!(wrong.to_string(), "invalid value for 'from' parameter");
        assert_eq!(number("from=12"), Ok(12));
        assert_eq!(number("from=-3"), Ok(-3));
        assert_eq!(number("from="), Ok(0));
        assert_eq!(number("other=1"), Ok(0));
        for bad in ["from=a", "from=1.5", "from=0x1", "from=99999999999999999999", "from=%00"] {
            assert_eq!(number(bad), Err(wrong.clone()), "{bad}");
        }
    }
}
