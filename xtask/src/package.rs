//! `cargo xtask package`: what is installed on a machine, as a tree, a tarball and (where `dpkg-deb` is there) a Debian package.

use crate::process::{self, cargo, program, root, target_dir};
use cargo_metadata::{DependencyKind, MetadataCommand, PackageId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

const PROGRAMS: [&str; 2] = ["tidemill", "transform"];
/// Shells, and where each looks for the completions of a command.
const SHELLS: [(&str, &str, &str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions", "", ""),
    ("zsh", "usr/share/zsh/vendor-completions", "_", ""),
    ("fish", "usr/share/fish/vendor_completions.d", "", ".fish"),
];

/// Packs release builds, or the programs in the folder of `--bins`.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let bins = match args {
        [] => release_builds()?,
        [flag, dir] if flag == "--bins" => PathBuf::from(dir),
        _ => {
            return Err(
                "package takes nothing, or --bins DIR with programs that are built already"
                    .to_owned(),
            );
        }
    };
    let out = target_dir().join("package");
    let tree = out.join("tidemill");
    let _ = fs::remove_dir_all(&tree);
    programs(&bins, &tree)?;
    texts(&tree)?;
    let version = env!("CARGO_PKG_VERSION");
    let arch = std::env::consts::ARCH;
    let glibc = newest_glibc(&tree.join("usr/bin/tidemill"))?;
    let tarball = out.join(format!("tidemill-{version}-linux-{arch}.tar.gz"));
    let mut tar = program(
        "tar",
        &[
            "--owner=0",
            "--group=0",
            "--numeric-owner",
            "--sort=name",
            "-C",
        ],
    );
    process::output(tar.arg(&out).arg("-czf").arg(&tarball).arg("tidemill"))?;
    println!(
        "{} ({}), needs glibc {glibc}",
        tarball.display(),
        megabytes(&tarball)?
    );
    if process::exists("dpkg-deb") {
        let package = debian(&out, &tree, version, &glibc)?;
        println!("{} ({})", package.display(), megabytes(&package)?);
    } else {
        println!("no Debian package: dpkg-deb is not installed");
    }
    Ok(())
}

fn release_builds() -> Result<PathBuf, String> {
    process::run(&mut cargo(&[
        "build",
        "--release",
        "--locked",
        "--bins",
        "-p",
        "tidemill",
        "-p",
        "transform-cli",
    ]))?;
    Ok(target_dir().join("release"))
}

/// Programs without debug information, their man pages and completions.
fn programs(bins: &Path, tree: &Path) -> Result<(), String> {
    let (bin, man) = (
        folder(&tree.join("usr/bin"))?,
        folder(&tree.join("usr/share/man/man1"))?,
    );
    for name in PROGRAMS {
        let from = bins.join(name);
        let to = bin.join(name);
        fs::copy(&from, &to).map_err(|e| format!("cannot copy {}: {e}", from.display()))?;
        process::output(program("strip", &["--strip-debug"]).arg(&to))?;
        process::output(program(&to, &["man"]).arg(&man))?;
        for (shell, dir, before, after) in SHELLS {
            let script = process::output(&mut program(&to, &["completions", shell]))?;
            write(
                &folder(&tree.join(dir))?.join(format!("{before}{name}{after}")),
                &script,
            )?;
        }
    }
    Ok(())
}

/// Settings, the unit and documents.
fn texts(tree: &Path) -> Result<(), String> {
    let settings = process::output(&mut program(
        tree.join("usr/bin/tidemill"),
        &["config", "default"],
    ))?;
    let data = "# data_dir = \"./tidemill-data\"";
    if !settings.contains(data) {
        return Err(format!("the default settings have no line {data}"));
    }
    let settings = settings.replace(data, "data_dir = \"/var/lib/tidemill/data\"");
    write(
        &folder(&tree.join("etc/tidemill"))?.join("tidemill.toml"),
        &settings,
    )?;
    let doc = folder(&tree.join("usr/share/doc/tidemill"))?;
    write(&doc.join("LICENCES.txt"), &licences()?)?;
    let copies = [
        (
            "deploy/systemd/tidemill.service",
            "usr/lib/systemd/system/tidemill.service",
        ),
        ("LICENSE", "usr/share/doc/tidemill/LICENSE"),
        ("README.md", "usr/share/doc/tidemill/README.md"),
        (
            "docs/guide/settings.md",
            "usr/share/doc/tidemill/settings.md",
        ),
        (
            "docs/guide/topic-settings.md",
            "usr/share/doc/tidemill/topic-settings.md",
        ),
        ("docs/guide/metrics.md", "usr/share/doc/tidemill/metrics.md"),
        (
            "docs/guide/operations.md",
            "usr/share/doc/tidemill/operations.md",
        ),
        (
            "deploy/grafana/tidemill.json",
            "usr/share/doc/tidemill/grafana.json",
        ),
        (
            "deploy/prometheus/alerts.yml",
            "usr/share/doc/tidemill/alerts.yml",
        ),
    ];
    for (from, to) in copies {
        let (from, to) = (root().join(from), tree.join(to));
        folder(to.parent().unwrap_or(tree))?;
        fs::copy(&from, &to).map_err(|e| format!("cannot copy {}: {e}", from.display()))?;
    }
    Ok(())
}

/// Every crate that is linked into the programs, with its licence.
fn licences() -> Result<String, String> {
    let metadata = MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .other_options(vec!["--locked".to_owned()])
        .exec()
        .map_err(|e| format!("cargo metadata: {e}"))?;
    let resolve = metadata
        .resolve
        .as_ref()
        .ok_or("cargo metadata resolved nothing")?;
    let nodes: BTreeMap<&PackageId, _> = resolve.nodes.iter().map(|n| (&n.id, n)).collect();
    let ours = metadata
        .packages
        .iter()
        .filter(|p| ["tidemill", "transform-cli"].contains(&p.name.as_str()));
    let mut open: Vec<&PackageId> = ours.map(|p| &p.id).collect();
    let mut linked = BTreeSet::new();
    while let Some(id) = open.pop() {
        if let (true, Some(node)) = (linked.insert(id), nodes.get(id)) {
            let normal = node
                .deps
                .iter()
                .filter(|d| d.dep_kinds.iter().any(|k| k.kind == DependencyKind::Normal));
            open.extend(normal.map(|d| &d.pkg));
        }
    }
    let mut out = String::from("Crates that Tidemill is built from, with their licences.\n\n");
    let mut packages: Vec<_> = metadata
        .packages
        .iter()
        .filter(|p| linked.contains(&p.id))
        .collect();
    packages.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    for package in packages {
        let licence = package.license.as_deref().unwrap_or("see its source");
        let source = package.repository.as_deref().unwrap_or("");
        let _ = writeln!(
            out,
            "{} {}  {licence}  {source}",
            package.name, package.version
        );
    }
    Ok(out)
}

/// The newest glibc that the program asks for.
fn newest_glibc(program_path: &Path) -> Result<String, String> {
    let symbols = process::output(program("objdump", &["-T"]).arg(program_path))?;
    let versions = symbols.split("GLIBC_").skip(1).filter_map(|rest| {
        let text: String = rest
            .chars()
            .take_while(|c| c.is_ascii_digit() || *c == '.')
            .collect();
        let numbers: Vec<u32> = text.split('.').filter_map(|n| n.parse().ok()).collect();
        (!numbers.is_empty()).then_some((numbers, text))
    });
    Ok(versions
        .max()
        .map_or("of any version".to_owned(), |(_, text)| text))
}

fn debian(out: &Path, tree: &Path, version: &str, glibc: &str) -> Result<PathBuf, String> {
    let staged = out.join("deb");
    let _ = fs::remove_dir_all(&staged);
    process::output(program("cp", &["-a"]).arg(tree).arg(&staged))?;
    let control = folder(&staged.join("DEBIAN"))?;
    let arch = process::output(&mut program("dpkg", &["--print-architecture"]))?;
    let text = format!(
        "Package: tidemill\nVersion: {version}\nArchitecture: {}\nMaintainer: The Tidemill developers <tidemill@example.com>\n\
         Depends: libc6 (>= {glibc}), adduser\nSection: database\nPriority: optional\n\
         Description: Kafka-compatible broker that runs WebAssembly transforms\n \
         Records arrive in a topic; small WebAssembly modules mask, filter, route or reshape them\n \
         inside the broker, on the core that owns the partition.\n",
        arch.trim()
    );
    write(&control.join("control"), &text)?;
    write(&control.join("conffiles"), "/etc/tidemill/tidemill.toml\n")?;
    let script = "#!/bin/sh\nset -e\nif [ \"$1\" = configure ]; then\n    \
                  getent passwd tidemill >/dev/null || adduser --system --group --no-create-home --home /var/lib/tidemill tidemill\n    \
                  [ ! -d /run/systemd/system ] || systemctl daemon-reload\nfi\n";
    write(&control.join("postinst"), script)?;
    let stop = "#!/bin/sh\nset -e\n[ ! -d /run/systemd/system ] || [ \"$1\" != remove ] || systemctl stop tidemill.service || true\n";
    write(&control.join("prerm"), stop)?;
    process::output(
        program("chmod", &["0755"]).args([control.join("postinst"), control.join("prerm")]),
    )?;
    let package = out.join(format!("tidemill_{version}_{}.deb", arch.trim()));
    process::output(
        program("dpkg-deb", &["--root-owner-group", "--build"])
            .arg(&staged)
            .arg(&package),
    )?;
    Ok(package)
}

fn folder(path: &Path) -> Result<PathBuf, String> {
    fs::create_dir_all(path).map_err(|e| format!("cannot make {}: {e}", path.display()))?;
    Ok(path.to_owned())
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))
}

fn megabytes(path: &Path) -> Result<String, String> {
    let bytes = fs::metadata(path)
        .map_err(|e| format!("cannot measure {}: {e}", path.display()))?
        .len();
    Ok(format!("{:.1} MB", bytes as f64 / 1e6))
}
