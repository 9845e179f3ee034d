//! Text forms of an id, for URLs and for people.
//!
//! * base62: digits, capitals, small letters, in ASCII's order; as short as the
//!   number allows (11 characters at most).
//! * base32: [Crockford's](https://www.crockford.com/base32.html), always 13
//!   characters, so that the texts sort as the ids do. Reading takes small
//!   letters, `I` and `L` for 1, `O` for 0, and hyphens anywhere, as Crockford says.

use crate::error::TextError;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const BASE32: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Characters of the greatest bigint in base62.
pub const BASE62_MAX_LENGTH: usize = 11;
/// Characters of every id in base32: 13 times 5 bits hold 63.
pub const BASE32_LENGTH: usize = 13;

/// The id in base62; `None` for a negative number, which is no id.
pub fn to_base62(id: i64) -> Option<String> {
    let mut rest = u64::try_from(id).ok()?;
    let mut digits = [0u8; BASE62_MAX_LENGTH];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = BASE62[(rest % 62) as usize];
        rest /= 62;
        if rest == 0 {
            return Some(digits[first..].iter().map(|&digit| char::from(digit)).collect());
        }
    }
}

/// The number that a base62 text stands for. Leading zeros are allowed up to
/// [`BASE62_MAX_LENGTH`] characters.
pub fn from_base62(text: &str) -> Result<i64, TextError> {
    read_base62(text.chars())
}

/// The same for a text in whatever form: its characters.
pub fn read_base62(text: impl Iterator<Item = char> + Clone) -> Result<i64, TextError> {
    let length = text.clone().count();
    if !(1..=BASE62_MAX_LENGTH).contains(&length) {
        return Err(TextError::BadLength(length));
    }
    number(text, 62, |c| match c {
        '0'..='9' => Some(c as u64 - '0' as u64),
        'A'..='Z' => Some(c as u64 - 'A' as u64 + 10),
        'a'..='z' => Some(c as u64 - 'a' as u64 + 36),
        _ => None,
    })
}

/// The id in base32; `None` for a negative number, which is no id.
pub fn to_base32(id: i64) -> Option<String> {
    let id = u64::try_from(id).ok()?;
    let digit = |place: usize| char::from(BASE32[(id >> (5 * place)) as usize % 32]);
    Some((0..BASE32_LENGTH).rev().map(digit).collect())
}

/// The number that a base32 text stands for.
pub fn from_base32(text: &str) -> Result<i64, TextError> {
    read_base32(text.chars())
}

/// The same for a text in whatever form: its characters.
pub fn read_base32(text: impl Iterator<Item = char> + Clone) -> Result<i64, TextError> {
    let digits = text.filter(|&c| c != '-');
    let length = digits.clone().count();
    if length != BASE32_LENGTH {
        return Err(TextError::BadLength(length));
    }
    number(digits, 32, |c| {
        let c = match c.to_ascii_uppercase() {
            'I' | 'L' => '1',
            'O' => '0',
            other => other,
        };
        BASE32.iter().position(|&digit| char::from(digit) == c).map(|value| value as u64)
    })
}

fn number(
    digits: impl Iterator<Item = char>,
    base: u64,
    value_of: impl Fn(char) -> Option<u64>,
) -> Result<i64, TextError> {
    // u128 holds 13 digits of either base, so that a bad character behind an
    // overflow is still reported as what it is.
    let mut number = 0u128;
    for c in digits {
        let value = value_of(c).ok_or(TextError::BadCharacter(c))?;
        number = number * u128::from(base) + u128::from(value);
    }
    i64::try_from(number).map_err(|_| TextError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_texts() {
        assert_eq!(to_base62(0).as_deref(), Some("0"));
        assert_eq!(to_base62(61).as_deref(), Some("z"));
        assert_eq!(to_base62(62).as_deref(), Some("10"));
        assert_eq!(to_base62(i64::MAX).as_deref(), Some("AzL8n0Y58m7"));
        assert_eq!(to_base32(0).as_deref(), Some("0000000000000"));
        assert_eq!(to_base32(i64::MAX).as_deref(), Some("7ZZZZZZZZZZZZ"));
        assert_eq!(to_base62(-1), None);
        assert_eq!(to_base32(-1), None);
    }

    #[test]
    fn bad_texts() {
        assert_eq!(from_base62(""), Err(TextError::BadLength(0)));
        assert_eq!(from_base62("000000000000"), Err(TextError::BadLength(12)));
        assert_eq!(from_base62("AzL8n0Y58m8"), Err(TextError::TooLarge));
        assert_eq!(from_base62("zzzzzzzzzzz"), Err(TextError::TooLarge));
        assert_eq!(from_base62("zzzzzzzzzz!"), Err(TextError::BadCharacter('!')));
        assert_eq!(from_base62("a b"), Err(TextError::BadCharacter(' ')));
        assert_eq!(from_base62("-1"), Err(TextError::BadCharacter('-')));
        assert_eq!(from_base62("é"), Err(TextError::BadCharacter('é')));
        assert_eq!(from_base32("0"), Err(TextError::BadLength(1)));
        assert_eq!(from_base32("8000000000000"), Err(TextError::TooLarge));
        assert_eq!(from_base32("ZZZZZZZZZZZZZ"), Err(TextError::TooLarge));
        assert_eq!(from_base32("U000000000000"), Err(TextError::BadCharacter('U')));
    }

    #[test]
    fn crockford_reads_what_people_write() {
        assert_eq!(from_base32("0-1234-5678-9abc"), from_base32("0123456789ABC"));
        assert_eq!(from_base32("oooo-oooo-ooo-il"), Ok(33));
    }

    proptest! {
        #[test]
        fn round_trip(id in 0..=i64::MAX) {
            prop_assert_eq!(from_base62(&to_base62(id).expect("not negative")), Ok(id));
            prop_assert_eq!(from_base32(&to_base32(id).expect("not negative")), Ok(id));
        }

        #[test]
        fn base32_sorts_as_the_ids(a in 0..=i64::MAX, b in 0..=i64::MAX) {
            prop_assert_eq!(a.cmp(&b), to_base32(a).cmp(&to_base32(b)));
        }

        #[test]
        fn any_text_is_an_id_or_an_error(text in "\\PC{0,14}") {
            if let Ok(id) = from_base62(&text) {
                let written = to_base62(id).expect("not negative");
                let zeros = text.trim_start_matches('0');
                prop_assert_eq!(written.trim_start_matches('0'), zeros);
            }
        }
    }
}
