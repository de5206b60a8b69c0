//! Secrets of transforms: sealed under the node's key as soon as they arrive, opened only for the function that is given them.
//!
//! Sealed with XChaCha20-Poly1305, whose nonces are long enough to be drawn at random; the transform's name and the variable's are
//! bound to the value, so that no sealed value can be put in another's place.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use sha2::{Digest, Sha256};
use tidemill_controller::image::Sealed;
use tidemill_rt::rand;
use zeroize::{Zeroize, Zeroizing};

use super::modules::hex;
use super::request;
use crate::admin::ApiError;
use crate::admin::types::DeployRequest;
use crate::config::table::Transforms;

/// Bytes of a key.
const KEY_BYTES: usize = 32;
/// Bytes of a nonce.
const NONCE_BYTES: usize = 24;
/// Bytes of a key's hash that name it.
const KEY_ID_BYTES: usize = 8;
/// Most bytes of a key file: hexadecimal digits and a line end.
const FILE_BYTES_MAX: u64 = 2 * KEY_BYTES as u64 + 2;
/// Most secrets of a transform.
const SECRETS_MAX: usize = 64;
/// Most bytes of a secret.
const SECRET_BYTES_MAX: usize = 16 << 10;
/// Most bytes of a transform's sealed secrets, as they are stored: as many as its environment may have, in hexadecimal digits.
const SEALED_BYTES_MAX: usize = 2 * (64 << 10);
/// What the key's hash is made over, beside the key.
const KEY_ID_OF: &[u8] = b"tidemill transforms.secrets_key_file";

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyFileError {
    /// It cannot be read.
    #[error("transforms.secrets_key_file: {}: {source}; such a file is made with: (umask 077; openssl rand -hex 32 > FILE)", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may read it.
    #[error(
        "transforms.secrets_key_file: {} may be used by others than its owner (mode {mode:03o}); chmod 600 {}",
        path.display(), path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It holds no key.
    #[error(
        "transforms.secrets_key_file: {} holds no key: it has 32 random bytes, or 64 hexadecimal digits, as of: openssl rand -hex 32",
        .0.display()
    )]
    NoKey(PathBuf),
}

/// Why a secret cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OpenError {
    /// There is no key.
    #[error(
        "the secret '{0}' is sealed, and this broker has no key: set transforms.secrets_key_file"
    )]
    NoKey(String),
    /// It was sealed with another key.
    #[error(
        "the secret '{name}' was sealed with key {sealed_with}, transforms.secrets_key_file has key {has}: put that file back, or deploy \
         with the secret given anew"
    )]
    OtherKey {
        /// The variable.
        name: String,
        /// The key it was sealed with.
        sealed_with: String,
        /// The key there is.
        has: String,
    },
    /// It was changed.
    #[error("the secret '{0}' is damaged; deploy with the secret given anew")]
    Damaged(String),
}

/// The node's key.
pub(crate) struct SecretsKey {
    id: String,
    cipher: XChaCha20Poly1305,
}

impl std::fmt::Debug for SecretsKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SecretsKey({})", self.id)
    }
}

impl SecretsKey {
    /// The key in the file that the settings name, if they do.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub(crate) fn of_node(settings: &Transforms) -> Result<Option<SecretsKey>, KeyFileError> {
        let file = settings.secrets_key_file.as_deref();
        file.map(|file| SecretsKey::read(Path::new(file)))
            .transpose()
    }

    /// Reads the key in `path`, which only its owner may use. Before the shards start.
    ///
    /// # Errors
    /// [`KeyFileError`].
    #[allow(
        clippy::disallowed_methods,
        reason = "the main thread, before any runtime exists"
    )]
    fn read(path: &Path) -> Result<SecretsKey, KeyFileError> {
        let failed = |source| KeyFileError::Read {
            path: path.to_owned(),
            source,
        };
        let about = std::fs::metadata(path).map_err(failed)?;
        let mode = about.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            let path = path.to_owned();
            return Err(KeyFileError::Exposed { path, mode });
        }
        if !about.is_file() || about.len() > FILE_BYTES_MAX {
            return Err(KeyFileError::NoKey(path.to_owned()));
        }
        let content = Zeroizing::new(std::fs::read(path).map_err(failed)?);
        SecretsKey::of(&content).ok_or_else(|| KeyFileError::NoKey(path.to_owned()))
    }

    /// The key in a file's content: as it is, or as hexadecimal digits.
    fn of(content: &[u8]) -> Option<SecretsKey> {
        let key = match content.len() {
            KEY_BYTES => Zeroizing::new(content.to_vec()),
            _ => Zeroizing::new(unhex(std::str::from_utf8(content).ok()?.trim_end())?),
        };
        if key.len() != KEY_BYTES {
            return None;
        }
        let mut hash = Sha256::new();
        hash.update(KEY_ID_OF);
        hash.update(&*key);
        Some(SecretsKey {
            id: hex(&hash.finalize()[..KEY_ID_BYTES]),
            cipher: XChaCha20Poly1305::new(Key::from_slice(&key)),
        })
    }

    fn seal(&self, transform: &str, name: &str, value: &str) -> Sealed {
        let mut nonce = [0; NONCE_BYTES];
        rand::fill(&mut nonce);
        let bound = bound(transform, name);
        let payload = Payload {
            msg: value.as_bytes(),
            aad: &bound,
        };
        let sealed = self
            .cipher
            .encrypt(XNonce::from_slice(&nonce), payload)
            .expect("a secret is far below the cipher's limit");
        Sealed {
            key: self.id.clone(),
            sealed: hex(&nonce) + &hex(&sealed),
        }
    }

    fn open(
        &self,
        transform: &str,
        name: &str,
        sealed: &Sealed,
    ) -> Result<Zeroizing<String>, OpenError> {
        if sealed.key != self.id {
            return Err(OpenError::OtherKey {
                name: name.to_owned(),
                sealed_with: sealed.key.clone(),
                has: self.id.clone(),
            });
        }
        let damaged = || OpenError::Damaged(name.to_owned());
        let bytes = unhex(&sealed.sealed).ok_or_else(damaged)?;
        let (nonce, msg) = bytes.split_at_checked(NONCE_BYTES).ok_or_else(damaged)?;
        let bound = bound(transform, name);
        let payload = Payload { msg, aad: &bound };
        let opened = self.cipher.decrypt(XNonce::from_slice(nonce), payload);
        match String::from_utf8(opened.map_err(|_| damaged())?) {
            Ok(value) => Ok(Zeroizing::new(value)),
            Err(e) => {
                e.into_bytes().zeroize();
                Err(damaged())
            }
        }
    }
}

/// What a value is bound to. No transform's name has a NUL, so no two pairs are the same.
fn bound(transform: &str, name: &str) -> Vec<u8> {
    [transform.as_bytes(), b"\0", name.as_bytes()].concat()
}

/// A secret in clear: the variable it is given as, and its value.
pub(crate) type Opened = (String, Zeroizing<String>);

/// A transform's secrets in clear, by the variables they are given as.
///
/// # Errors
/// [`OpenError`].
pub(super) fn opened(
    key: Option<&SecretsKey>,
    transform: &str,
    secrets: &BTreeMap<String, Sealed>,
) -> Result<Vec<Opened>, OpenError> {
    let open = |(name, sealed): (&String, &Sealed)| {
        let key = key.ok_or_else(|| OpenError::NoKey(name.clone()))?;
        Ok((name.clone(), key.open(transform, name, sealed)?))
    };
    secrets.iter().map(open).collect()
}

/// The secrets that a new version has.
#[derive(Debug, Clone)]
pub(super) enum Wanted {
    /// Those of the version before, changed.
    Changed {
        /// Given with this deploy.
        given: BTreeMap<String, Sealed>,
        /// Not to be kept.
        removed: Vec<String>,
        /// Without which it is refused.
        required: Vec<String>,
    },
    /// Those of an earlier version; what the one that runs has newer stays.
    Of(BTreeMap<String, Sealed>),
}

impl Wanted {
    /// What a deploy asks for, checked and sealed.
    pub(super) fn of(
        key: Option<&SecretsKey>,
        transform: &str,
        r: &DeployRequest,
    ) -> Result<Wanted, ApiError> {
        let mut given = BTreeMap::new();
        for (name, value) in r.secrets.each() {
            request::check_variable(name, value)?;
            if value.len() > SECRET_BYTES_MAX {
                let message = format!(
                    "the secret '{name}' has {} bytes; a secret has at most {SECRET_BYTES_MAX}",
                    value.len()
                );
                return Err(ApiError::bad_request("invalid_secret", message));
            }
            let Some(key) = key else {
                return Err(ApiError::conflict(
                    "no_secrets_key",
                    "this broker keeps no secrets: it has no key to seal them with. In the file of `tidemill start --config`, set transforms.secrets_key_file to a file made with: \
                     (umask 077; openssl rand -hex 32 > secrets.key)",
                ));
            };
            if r.remove_secrets.contains(name) {
                let message = format!("the secret '{name}' is both given and removed");
                return Err(ApiError::bad_request("invalid_secret", message));
            }
            given.insert(name.clone(), key.seal(transform, name, value));
        }
        Ok(Wanted::Changed {
            given,
            removed: r.remove_secrets.clone(),
            required: r.required_secrets.clone(),
        })
    }

    /// The secrets of a version that follows one with `current`.
    pub(super) fn after(
        &self,
        current: &BTreeMap<String, Sealed>,
        env: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, Sealed>, ApiError> {
        let bad = |message: String| Err(ApiError::bad_request("invalid_secret", message));
        let all = match self {
            Wanted::Of(earlier) => {
                let newest = |name| current.get(name).unwrap_or(&earlier[name]).clone();
                earlier.keys().map(|n| (n.clone(), newest(n))).collect()
            }
            Wanted::Changed {
                given,
                removed,
                required,
            } => {
                if let Some(name) = removed.iter().find(|name| !current.contains_key(*name)) {
                    let names: Vec<&str> = current.keys().map(String::as_str).collect();
                    return bad(format!(
                        "there is no secret '{name}' to remove; it has: {}",
                        match names.is_empty() {
                            true => "none".to_owned(),
                            false => names.join(", "),
                        }
                    ));
                }
                if let Some(name) = required.iter().find(|name| removed.contains(name)) {
                    return bad(format!(
                        "the secret '{name}' cannot be removed: transform.toml requires it; take it out of `secrets` there first"
                    ));
                }
                let mut all = current.clone();
                all.retain(|name, _| !removed.contains(name));
                all.extend(given.clone());
                if let Some(name) = required.iter().find(|name| !all.contains_key(*name)) {
                    return bad(format!(
                        "the secret '{name}' is required (secrets in transform.toml), and neither given nor there from an earlier version; \
                         give it with: --secret {name}=@FILE"
                    ));
                }
                all
            }
        };
        if let Some(name) = all.keys().find(|name| env.contains_key(*name)) {
            return bad(format!(
                "'{name}' is set as a secret and as a plain variable (--env); keep one (--remove-secret {name} drops the secret)"
            ));
        }
        let bytes: usize = all.iter().map(|(k, v)| k.len() + v.sealed.len()).sum();
        if all.len() > SECRETS_MAX || bytes > SEALED_BYTES_MAX {
            return bad(format!(
                "a transform has at most {SECRETS_MAX} secrets, of {} bytes in all",
                SEALED_BYTES_MAX / 2
            ));
        }
        Ok(all)
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
    let pairs = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    pairs.map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SecretsKey {
        SecretsKey::of(&[byte; KEY_BYTES]).expect("a key")
    }

    #[test]
    fn secret_is_opened_with_its_key_and_in_its_place_only() {
        let sealed = key(1).seal("pay", "PIN", "hush");
        let again = key(1).seal("pay", "PIN", "hush");
        assert_ne!(sealed, again, "equal secrets do not look alike");
        assert_eq!(key(1).open("pay", "PIN", &sealed).unwrap().as_str(), "hush");
        for (transform, name) in [("pay", "PIN2"), ("play", "PIN")] {
            let damaged = key(1).open(transform, name, &sealed);
            assert_eq!(damaged, Err(OpenError::Damaged(name.to_owned())));
        }
        let other = key(2).open("pay", "PIN", &sealed).unwrap_err();
        assert!(matches!(other, OpenError::OtherKey { .. }));
        let mut changed = sealed.clone();
        let last = changed.sealed.pop().unwrap();
        changed.sealed.push(if last == '0' { '1' } else { '0' });
        assert!(key(1).open("pay", "PIN", &changed).is_err());
        changed.sealed.truncate(3);
        assert!(key(1).open("pay", "PIN", &changed).is_err());
        let secrets = BTreeMap::from([("PIN".to_owned(), sealed)]);
        assert!(matches!(
            opened(None, "pay", &secrets),
            Err(OpenError::NoKey(_))
        ));
        assert_eq!(opened(Some(&key(1)), "pay", &secrets).unwrap().len(), 1);
    }

    #[test]
    fn key_is_read_as_bytes_and_as_digits_and_from_no_file_that_others_may_read() {
        let digits = format!("{}\n", "01".repeat(KEY_BYTES));
        assert_eq!(SecretsKey::of(digits.as_bytes()).unwrap().id, key(1).id);
        for none in [&b""[..], b"0101", &[7; 31], &[b'x'; 64]] {
            assert!(SecretsKey::of(none).is_none());
        }
    }

    #[test]
    fn secrets_stay_until_they_are_given_anew_or_removed() {
        let sealed = |text: &str| Sealed {
            key: "k".to_owned(),
            sealed: text.to_owned(),
        };
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, Sealed> {
            let pair = |(n, v): &(&str, &str)| ((*n).to_owned(), sealed(v));
            pairs.iter().map(pair).collect()
        };
        let wanted = |given, removed: &[&str], required: &[&str]| Wanted::Changed {
            given,
            removed: removed.iter().map(|n| (*n).to_owned()).collect(),
            required: required.iter().map(|n| (*n).to_owned()).collect(),
        };
        let env = BTreeMap::new();
        let current = map(&[("A", "1"), ("B", "2")]);
        let kept = wanted(map(&[("A", "9")]), &[], &["B"]).after(&current, &env);
        assert_eq!(kept.unwrap(), map(&[("A", "9"), ("B", "2")]));
        let less = wanted(map(&[]), &["B"], &[]).after(&current, &env);
        assert_eq!(less.unwrap(), map(&[("A", "1")]));
        let missing = wanted(map(&[]), &["B"], &["B"]).after(&current, &env);
        assert!(
            missing
                .unwrap_err()
                .message
                .contains("transform.toml requires it")
        );
        let missing = wanted(map(&[]), &[], &["C"]).after(&current, &env);
        assert!(missing.unwrap_err().message.contains("--secret C"));
        let mistyped = wanted(map(&[]), &["D"], &[]).after(&current, &env);
        assert!(mistyped.unwrap_err().message.contains("it has: A, B"));
        let rolled = Wanted::Of(map(&[("A", "0"), ("C", "3")])).after(&current, &env);
        assert_eq!(rolled.unwrap(), map(&[("A", "1"), ("C", "3")]));
        let env = BTreeMap::from([("A".to_owned(), "plain".to_owned())]);
        let twice = wanted(map(&[]), &[], &[]).after(&current, &env);
        assert!(twice.unwrap_err().message.contains("'A'"));
    }
}
