//! What things may be called.

/// Longest container id, in bytes: as far as status and traces show it.
const CONTAINER_ID_MAX: usize = 128;

/// Letters, digits, `_`, `.` and `-`, a letter or digit first: container ids and names of CNI
/// networks.
pub fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

/// Such a name of at most 128 bytes. It can be that of a file, too.
pub fn is_container_id(text: &str) -> bool {
    text.len() <= CONTAINER_ID_MAX && is_name(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_letters_digits_and_some_more() {
        let longest = "x".repeat(CONTAINER_ID_MAX);
        let too_long = "x".repeat(CONTAINER_ID_MAX + 1);
        for (text, expected) in [
            ("6de68121-5eb5-47f6-4c1e-6884", true),
            ("a", true),
            ("0_.-Z", true),
            (&longest, true),
            (&too_long, false),
            ("", false),
            ("-a", false),
            (".", false),
            ("..", false),
            ("_a", false),
            ("a/b", false),
            ("a b", false),
            ("a\n", false),
            ("\u{e9}", false),
        ] {
            assert_eq!(is_container_id(text), expected, "{text}");
        }
        assert!(is_name(&too_long));
    }
}
