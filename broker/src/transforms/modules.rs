//! Modules on disk: files named by their hash.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::secrets::Opened;
use crate::admin::ApiError;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tidemill_controller::command::Deploy;
use tidemill_controller::image::ErrorPolicy;
use tidemill_rt::fs::{self, File, OpenMode};
use tidemill_rt::task;
use tidemill_wasm_host::{Factory, Limits, Module, ModuleError, guest_env};

/// The hash a module is known by. Takes up to a tenth of a second, which no shard has: see [`hash_beside`].
pub(crate) fn hash(wasm: &[u8]) -> String {
    hex(&Sha256::digest(wasm))
}

/// Bytes as lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The same, computed on a helper thread.
async fn hash_beside(wasm: Bytes) -> String {
    task::blocking(move || hash(&wasm)).await
}

/// The file of a module; `None` when `hash` is none (so that no path can be smuggled in).
pub(crate) fn path(dir: &Path, hash: &str) -> Option<PathBuf> {
    let plain = hash.len() == 64
        && hash
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    plain.then(|| dir.join(format!("{hash}.wasm")))
}

/// Keeps a module, durably; `true` when it was there already. Runs on a shard.
pub(crate) async fn store(dir: &Path, wasm: Bytes) -> Result<bool, ApiError> {
    let hash = hash_beside(wasm.clone()).await;
    let file = path(dir, &hash).expect("a hash made here has the form of one");
    let stored = store_as(dir, &file, wasm).await;
    stored.map_err(|e| {
        ApiError::internal(format!("cannot keep the module at {}: {e}", file.display()))
    })
}

async fn store_as(dir: &Path, file: &Path, wasm: Bytes) -> io::Result<bool> {
    let known = holds(file, &wasm).await?;
    if known {
        // A process that was killed may have written it without coming to the end: it is there, but not for good.
        File::open(file, OpenMode::Read).await?.sync_data().await?;
        fs::sync_dir(dir).await?;
    } else {
        fs::create_dir_all(dir).await?;
        fs::write_atomic(file, vec![wasm]).await?;
    }
    if let Some(parent) = dir.parent() {
        fs::sync_dir(parent).await?;
    }
    Ok(known)
}

/// Whether `file` is there with these bytes. A damaged one is to be replaced: deploying again is what its error advises.
async fn holds(file: &Path, wasm: &Bytes) -> io::Result<bool> {
    if !fs::exists(file).await? {
        return Ok(false);
    }
    let (found, wasm) = (fs::read(file).await?, wasm.clone());
    Ok(task::blocking(move || found == wasm).await)
}

/// Reads a module and makes it runnable: from the code cache, or compiled. Runs on a shard.
pub(crate) async fn load(dir: &Path, hash: &str, factory: &Factory) -> Result<Module, String> {
    let file = path(dir, hash).ok_or_else(|| format!("'{hash}' is no module hash"))?;
    let wasm = fs::read(&file)
        .await
        .map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => format!(
                "module {hash} is not on this broker, which keeps those that a version of a transform uses: upload it again, as \
                 `transform deploy` does"
            ),
            _ => format!("module {}: {e}", file.display()),
        })?;
    let wasm = Bytes::from(wasm);
    if hash_beside(wasm.clone()).await != hash {
        return Err(format!(
            "module {} is damaged: its content has another hash; deploy it again",
            file.display()
        ));
    }
    answered(factory.load(wasm).recv().await)
}

/// What a function is told: what `wit/world.wit` promises, and what the deployment says: plain variables and secrets.
pub(crate) fn environment(
    (name, version): (&str, u32),
    (input, outputs): (&str, &[String]),
    (user, secrets): (&BTreeMap<String, String>, &[Opened]),
) -> Vec<(String, String)> {
    let secrets = secrets.iter().map(|(k, v)| (k.clone(), String::clone(v)));
    let version = ("TIDEMILL_VERSION".to_owned(), version.to_string());
    let user = user.iter().map(|(k, v)| (k.clone(), v.clone()));
    let all: Vec<(String, String)> = std::iter::once(version)
        .chain(user)
        .chain(secrets)
        .collect();
    guest_env(name, input, outputs, &all)
}

/// Whether `deploy` can be run as `version`: its module is loaded, and one instance made with the environment and the limits it will
/// have. Runs on a shard.
pub(crate) async fn try_out(
    dir: &Path,
    (deploy, version, secrets): (&Deploy, u32, &[Opened]),
    factory: &Factory,
) -> Result<(), String> {
    let module = load(dir, &deploy.module, factory).await?;
    if deploy.on_error == ErrorPolicy::PassThrough && module.forbids_pass_through() {
        return Err(format!(
            "this module hides things, and on_error 'pass-through' would hand on in the clear the records it fails on; deploy '{}' with \
             'skip', 'fail' or a dead-letter topic",
            deploy.name
        ));
    }
    let topics = (deploy.input.as_str(), &deploy.outputs[..]);
    let env = environment((&deploy.name, version), topics, (&deploy.env, secrets));
    let limits = Limits {
        time_ms: deploy.time_ms,
        memory_bytes: deploy.memory_bytes as usize,
    };
    answered(factory.try_out(module, env, limits).recv().await)
}

fn answered<T>(answer: Option<Result<T, ModuleError>>) -> Result<T, String> {
    answer
        .unwrap_or_else(|| {
            Err(ModuleError::Unavailable(
                "the compile threads are gone".to_owned(),
            ))
        })
        .map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidemill_rt::sim::Sim;
    use tidemill_rt::{rand, time};

    use super::*;

    /// Longer than a store takes in a simulation.
    const STORE_MAX_US: u64 = 20_000;

    #[test]
    fn module_is_kept_for_good_also_when_a_killed_process_had_begun_to_keep_it() {
        let (dir, wasm) = (Path::new("/data/modules"), Bytes::from(vec![7; 3000]));
        let file = path(dir, &hash(&wasm)).unwrap();
        let mut known = 0;
        for seed in 0..400 {
            let sim = Sim::new(seed);
            let made = sim.block_on(async {
                fs::create_dir_all("/data".as_ref()).await?;
                fs::sync_dir("/".as_ref()).await
            });
            made.unwrap().unwrap();
            let begun = sim.block_on(async {
                let life = Duration::from_micros(rand::below(STORE_MAX_US));
                time::timeout(life, store(dir, wasm.clone())).await.is_ok()
            });
            begun.unwrap();
            sim.kill();
            known += u32::from(sim.block_on(store(dir, wasm.clone())).unwrap().unwrap());
            sim.crash();
            let kept = sim.block_on(fs::read(&file)).unwrap();
            assert_eq!(kept.expect("it was acknowledged"), wasm, "seed {seed}");
        }
        assert!((1..400).contains(&known), "{known} were there");
    }

    #[test]
    fn only_hashes_name_module_files() {
        let dir = Path::new("/m");
        assert!(path(dir, "../../etc/passwd").is_none());
        assert!(path(dir, &hash(b"x")).is_some());
    }
}
