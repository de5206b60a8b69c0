//! Small disks and disks that fail, for brokers that have to live with them.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system of a fixed size (tmpfs), mounted while this lives.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts a file system of `bytes` at `path`, which is made.
    ///
    /// # Panics
    /// When this process may not mount: the test needs root (or `CAP_SYS_ADMIN`), as in CI.
    #[must_use]
    pub fn mount(path: &Path, bytes: u64) -> SmallDisk {
        std::fs::create_dir_all(path)
            .unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
        let size = format!("size={bytes}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path);
        let said = mount.output().expect("`mount` is installed");
        assert!(
            said.status.success(),
            "this test mounts a small file system, which takes root (CAP_SYS_ADMIN); run it as root, for example in a \
             container with --cap-add SYS_ADMIN, or leave it out by name: {}",
            String::from_utf8_lossy(&said.stderr)
        );
        SmallDisk {
            path: path.to_owned(),
        }
    }

    /// Fills what is left to the last byte, with a file that is not the broker's; where it is.
    ///
    /// # Panics
    /// When the file cannot be made.
    #[must_use]
    pub fn fill(&self) -> PathBuf {
        use std::io::Write;
        let path = self.path.join("not-the-brokers");
        let mut file = std::fs::File::create(&path).expect("a name needs no room");
        let piece = vec![1; 1 << 16];
        while file.write_all(&piece).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a broker may still be about to end.
        let unmounted = Command::new("umount").arg("-l").arg(&self.path).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.path.display());
        }
    }
}

/// Calls of libc's `fdatasync` fail with EIO while a file of this name is there.
const SHIM: &str = r#"
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
int fdatasync(int fd) {
    const char *fails = getenv("TIDEMILL_TEST_SYNC_FAILS");
    if (fails && access(fails, F_OK) == 0) { errno = EIO; return -1; }
    return syscall(SYS_fdatasync, fd);
}
"#;

/// Makes a disk whose syncs fail on demand: the environment to start a broker with, in `folder`. Syncs fail as soon as a file is made
/// at `trigger`.
///
/// # Panics
/// When there is no C compiler, which Rust needs as a linker too.
#[must_use]
pub fn failing_syncs(folder: &Path, trigger: &Path) -> Vec<(String, String)> {
    let (source, library) = (folder.join("shim.c"), folder.join("shim.so"));
    std::fs::write(&source, SHIM).expect("the folder can be written");
    let mut compile = Command::new("cc");
    compile
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source);
    let status = compile.status().expect("`cc` is installed");
    assert!(status.success(), "the shim does not compile");
    let text = |path: &Path| path.to_string_lossy().into_owned();
    vec![
        ("LD_PRELOAD".to_owned(), text(&library)),
        ("TIDEMILL_TEST_SYNC_FAILS".to_owned(), text(trigger)),
    ]
}
