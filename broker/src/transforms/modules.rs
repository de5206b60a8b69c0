//! Modules on disk: files named by their hash.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tidemill_rt::fs;
use tidemill_wasm_host::{Factory, Module};

use crate::admin::ApiError;

/// The hash a module is known by.
pub(crate) fn hash(wasm: &[u8]) -> String {
    Sha256::digest(wasm)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// The file of a module; `None` when `hash` is none (so that no path can be smuggled in).
pub(crate) fn path(dir: &Path, hash: &str) -> Option<PathBuf> {
    let plain = hash.len() == 64
        && hash
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    plain.then(|| dir.join(format!("{hash}.wasm")))
}

/// Keeps a module; `true` when it was there already. Runs on a shard.
pub(crate) async fn store(dir: &Path, wasm: Bytes) -> Result<bool, ApiError> {
    let file = path(dir, &hash(&wasm)).expect("a hash made here has the form of one");
    let failed = |e: std::io::Error| {
        ApiError::internal(format!("cannot keep the module at {}: {e}", file.display()))
    };
    // A damaged file is replaced: deploying again is what its error advises.
    if fs::exists(&file).await.map_err(failed)? && fs::read(&file).await.map_err(failed)? == wasm {
        return Ok(true);
    }
    fs::create_dir_all(dir).await.map_err(failed)?;
    fs::write_atomic(&file, vec![wasm]).await.map_err(failed)?;
    Ok(false)
}

/// Reads a module and makes it runnable: from the code cache, or compiled. Runs on a shard.
pub(crate) async fn load(dir: &Path, hash: &str, factory: &Factory) -> Result<Module, String> {
    let file = path(dir, hash).ok_or_else(|| format!("'{hash}' is no module hash"))?;
    let wasm = fs::read(&file)
        .await
        .map_err(|e| format!("module {}: {e}", file.display()))?;
    if self::hash(&wasm) != hash {
        return Err(format!(
            "module {} is damaged: its content has another hash; deploy it again",
            file.display()
        ));
    }
    let loaded = factory.load(Bytes::from(wasm)).recv().await;
    match loaded {
        Some(Ok(module)) => Ok(module),
        Some(Err(e)) => Err(e.to_string()),
        None => Err("the compile threads are gone".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hashes_name_module_files() {
        let dir = Path::new("/m");
        assert!(path(dir, "../../etc/passwd").is_none());
        assert!(path(dir, &hash(b"x")).is_some());
    }
}
