//! Texts that others wrote, made fit to be shown.

use std::fmt::{self, Write};
use std::ops::Deref;

/// What a registry says, or what else is not ours, as everybody may see it in a status or a log: on
/// one line, without characters that a terminal obeys, and cut where it is long.
///
/// There is no other way to make one. So no error can hold a text as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words(String);

impl Words {
    /// So many characters at most, and three dots where there were more.
    pub const LONGEST: usize = 200;

    pub(crate) fn of(text: impl fmt::Display) -> Self {
        let mut words = Taming { text: String::new(), room: Self::LONGEST };
        if write!(words, "{text}").is_err() {
            words.text.push_str("...");
        }
        Self(words.text)
    }

    /// The same with three stars in the place of a secret.
    pub(crate) fn without(&self, secret: &str) -> Self {
        // As it would have been shown.
        let secret = Self::of(secret).0;
        if secret.is_empty() { self.clone() } else { Self(self.0.replace(&secret, "***")) }
    }
}

/// Takes as much of a text as there is room for.
struct Taming {
    text: String,
    room: usize,
}

impl Write for Taming {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            self.room = self.room.checked_sub(1).ok_or(fmt::Error)?;
            self.text.push(if character.is_whitespace() {
                ' '
            } else if character.is_control() || is_hidden(character) {
                '?'
            } else {
                character
            });
        }
        Ok(())
    }
}

/// Whether it is not seen, and has others seen in another order or not at all.
fn is_hidden(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

impl Deref for Words {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_replaced() {
        for (text, words) in [
            ("permission denied", "permission denied"),
            ("größer als 5 €", "größer als 5 €"),
            ("\u{1b}[31mred\u{1b}[0m\u{7}", "?[31mred?[0m?"),
            ("one\r\ntwo\tthree\u{2028}four\u{85}five", "one  two three four five"),
            ("\u{9b}2J\u{0}\u{202e}drow\u{200b}s", "?2J??drow?s"),
        ] {
            assert_eq!(&*Words::of(text), words);
        }
    }

    #[test]
    fn what_is_long_is_cut() {
        let as_long_as_may_be = "€".repeat(Words::LONGEST);
        assert_eq!(*Words::of(&as_long_as_may_be), as_long_as_may_be);
        let longer = "€".repeat(1_000_000);
        assert_eq!(*Words::of(longer), format!("{as_long_as_may_be}..."));
    }

    #[test]
    fn a_secret_is_not_repeated() {
        let words = Words::of("no user with password s3cr3t here; s3cr3t is wrong");
        assert_eq!(&*words.without("s3cr3t"), "no user with password *** here; *** is wrong");
        assert_eq!(words.without(""), words);
    }
}
