//! Which process holds a TCP port, so that "address in use" can name the culprit.

use std::fs;
use std::net::TcpListener;

/// An error that names the process listening on a loopback port, if the port is taken.
pub(crate) fn must_be_free(port: u16, wanted_for: &str) -> Result<(), String> {
    let Err(error) = TcpListener::bind(("127.0.0.1", port)) else {
        return Ok(());
    };
    if error.kind() != std::io::ErrorKind::AddrInUse {
        return Err(format!(
            "cannot listen on 127.0.0.1:{port} ({wanted_for}): {error}"
        ));
    }
    let who = match holder(port) {
        Some((pid, command)) => {
            format!("by process {pid} (`{command}`); stop it with `kill {pid}`")
        }
        None => "by a process of another user; `ss -ltnp` as root names it".to_owned(),
    };
    Err(format!(
        "port {port} ({wanted_for}) is taken {who}, then try again"
    ))
}

/// Process id and command line of whoever listens on the port, as far as `/proc` lets us see it.
fn holder(port: u16) -> Option<(u32, String)> {
    let inode = listening_inode(port)?;
    let wanted = format!("socket:[{inode}]");
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let Ok(files) = fs::read_dir(entry.path().join("fd")) else {
            continue;
        };
        let mut links = files
            .flatten()
            .filter_map(|file| fs::read_link(file.path()).ok());
        if links.any(|link| link.to_str() == Some(wanted.as_str())) {
            let raw = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&raw).replace('\0', " ");
            return Some((pid, command.trim().to_owned()));
        }
    }
    None
}

/// The inode of the listening socket: columns of `/proc/net/tcp` as in proc(5), state 0A is LISTEN.
fn listening_inode(port: u16) -> Option<String> {
    let suffix = format!(":{port:04X}");
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .find_map(|table| {
            let text = fs::read_to_string(table).ok()?;
            text.lines().skip(1).find_map(|line| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                let listens = fields.get(1)?.ends_with(&suffix) && *fields.get(3)? == "0A";
                listens.then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taken_port_names_this_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let message = must_be_free(port, "test").unwrap_err();
        assert!(
            message.contains(&std::process::id().to_string()),
            "{message}"
        );
    }
}
