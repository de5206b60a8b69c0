//! What becomes of a text that is hidden.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Bytes that a key has, at least: a shorter one can be guessed, and with it what was hidden.
const KEY_BYTES_MIN: usize = 16;
/// What a masked character becomes.
const MASKED: char = '*';

/// How a value is hidden.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Its last characters stay.
    Mask { keep_last: usize },
    /// The whole value is replaced, by `null` or by this text.
    Redact { replacement: Option<String> },
    /// HMAC-SHA-256, in hexadecimal.
    Hash,
    /// Other characters of the same kinds.
    Tokenize,
}

/// A secret key, whose use is prepared.
#[derive(Clone)]
pub(crate) struct Key(Hmac<Sha256>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// The key that was found in the environment variable `name`.
    ///
    /// # Errors
    /// When there is none or it is short.
    pub(crate) fn new(name: &str, secret: Option<String>) -> Result<Key, String> {
        let secret = secret.unwrap_or_default();
        if secret.len() < KEY_BYTES_MIN {
            return Err(format!(
                "hash and tokenize need a secret key of at least {KEY_BYTES_MIN} bytes as {name}; give it with --secret {name}=@FILE"
            ));
        }
        let mac = Hmac::new_from_slice(secret.as_bytes())
            .map_err(|_| "the key cannot be used".to_owned())?;
        Ok(Key(mac))
    }

    /// HMAC-SHA-256 (RFC 2104) of `purpose` and `text`.
    fn of(&self, purpose: &str, text: &str) -> [u8; 32] {
        let mut mac = self.0.clone();
        mac.update(purpose.as_bytes());
        mac.update(&[0]);
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().into()
    }
}

/// `text` with all but the last characters masked. What is not twice as long as what would stay is masked wholly: little would be hidden.
pub(crate) fn mask(text: &str, keep_last: usize) -> String {
    let count = text.chars().count();
    let kept = if count >= 2 * keep_last { keep_last } else { 0 };
    let hidden = count - kept;
    text.chars()
        .enumerate()
        .map(|(n, c)| if n < hidden { MASKED } else { c })
        .collect()
}

/// The text's HMAC, in hexadecimal.
pub(crate) fn hash(key: &Key, text: &str) -> String {
    key.of("hash", text)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A text of the same length with characters of the same kinds, which depend on the key and the whole of `text`. There is no way back.
pub(crate) fn tokenize(key: &Key, text: &str) -> String {
    let mut stream = Stream::new(key, text);
    text.chars().map(|c| stream.like(c)).collect()
}

/// The token of a number: digits for digits, none of them a zero in front.
pub(crate) fn tokenize_number(key: &Key, number: &str) -> String {
    let mut stream = Stream::new(key, number);
    let (mantissa, exponent) = match number.find(['e', 'E']) {
        Some(at) => number.split_at(at),
        None => (number, ""),
    };
    let mut token = String::with_capacity(number.len());
    let single = mantissa
        .trim_start_matches('-')
        .split('.')
        .next()
        .is_some_and(|whole| whole.len() == 1);
    for c in mantissa.chars() {
        let first = !token.ends_with(|c: char| c.is_ascii_digit() || c == '.');
        token.push(match c {
            '0'..='9' if first && !single => char::from(b'1' + stream.below(9)),
            c => stream.like(c),
        });
    }
    token + exponent
}

/// Numbers that look random, made of a key and a text.
struct Stream {
    seed: Hmac<Sha256>,
    block: [u8; 32],
    used: usize,
    count: u64,
}

impl Stream {
    fn new(key: &Key, text: &str) -> Stream {
        let seed = key.of("tokenize", text);
        Stream {
            seed: Hmac::new_from_slice(&seed).expect("HMAC takes keys of every length"),
            block: [0; 32],
            used: 32,
            count: 0,
        }
    }

    /// A number below `bound`. Of 32 bits, so that none is likelier than another by more than a millionth.
    fn below(&mut self, bound: u8) -> u8 {
        if self.used == self.block.len() {
            let mut mac = self.seed.clone();
            mac.update(&self.count.to_be_bytes());
            self.block = mac.finalize().into_bytes().into();
            self.count += 1;
            self.used = 0;
        }
        let mut word = [0; 4];
        word.copy_from_slice(&self.block[self.used..self.used + 4]);
        self.used += 4;
        (u32::from_be_bytes(word) % u32::from(bound)) as u8
    }

    /// A character of the same kind; what is neither letter nor digit stays.
    fn like(&mut self, c: char) -> char {
        match c {
            c if c.is_numeric() => char::from(b'0' + self.below(10)),
            c if c.is_uppercase() => char::from(b'A' + self.below(26)),
            c if c.is_alphabetic() => char::from(b'a' + self.below(26)),
            c => c,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(secret: &str) -> Key {
        Key::new("K", Some(secret.to_owned())).unwrap()
    }

    #[test]
    fn mask_keeps_the_end_of_long_texts_only() {
        assert_eq!(mask("4111111111111234", 4), "************1234");
        assert_eq!(mask("12345678", 4), "****5678");
        assert_eq!(mask("1234567", 4), "*******");
        assert_eq!(mask("ünïcödé", 2), "*****dé");
        assert_eq!(
            (mask("", 4), mask("abc", 0)),
            (String::new(), "***".to_owned())
        );
    }

    #[test]
    fn hash_is_the_hmac_with_its_purpose_in_front() {
        // python3: hmac.new(b"0123456789abcdef", b"hash\0ada", "sha256").hexdigest()
        let expected = "a3225969d4b964d67deb64cc210ab63fcc5c12cb5ff7afffcfecac23960d2656";
        assert_eq!(hash(&key("0123456789abcdef"), "ada"), expected);
        assert_ne!(hash(&key("0123456789abcdeg"), "ada"), expected);
    }

    #[test]
    fn token_has_the_same_kinds_and_depends_on_key_and_text() {
        let key = key("0123456789abcdef");
        let card = tokenize(&key, "4111-1111-1111-1234");
        assert_eq!(card, tokenize(&key, "4111-1111-1111-1234"));
        assert_ne!(card, tokenize(&key, "4111-1111-1111-1235"));
        for text in [
            "Ada Lovelace",
            "ada@example.com",
            "Ünïcode 日本 ٣",
            "x".repeat(1000).as_str(),
        ] {
            let token = tokenize(&key, text);
            assert_ne!(token, text);
            for (a, b) in text.chars().zip(token.chars()) {
                assert_eq!(
                    (a.is_numeric(), a.is_uppercase()),
                    (b.is_numeric(), b.is_uppercase()),
                    "{text} {token}"
                );
                assert!(a.is_alphanumeric() == b.is_alphanumeric());
            }
            assert_eq!(text.chars().count(), token.chars().count());
        }
    }

    #[test]
    fn token_of_a_number_is_one_of_as_many_digits() {
        let key = key("0123456789abcdef");
        for number in [
            "4111111111111234",
            "-12.50",
            "0.5",
            "7",
            "1.25e-10",
            "0",
            "123456789012345678901234567890",
        ] {
            let token = tokenize_number(&key, number);
            assert_eq!(token.len(), number.len(), "{token}");
            let parsed: serde_json::Result<f64> = serde_json::from_str(&token);
            assert!(parsed.is_ok(), "{number} {token}");
        }
    }

    #[test]
    fn short_keys_are_refused() {
        assert!(
            Key::new("K", None).is_err()
                && Key::new("K", Some("0123456789abcde".to_owned())).is_err()
        );
    }
}
