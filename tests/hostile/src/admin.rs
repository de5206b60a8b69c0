//! Bodies of the admin API. The files are the broker's own: it is a program, which nothing can depend on.

use serde::Deserialize;

use crate::alloc::within;
use crate::{Target, marked, read_marked};

#[allow(
    dead_code,
    unreachable_pub,
    reason = "only what reads a body is used here"
)]
#[path = "../../../broker/src/admin"]
mod api {
    pub(crate) mod records;
    pub(crate) mod service;
    pub(crate) mod types;
}

use api::{records, types};

/// Memory for each byte of a body: the shortest record, `{}`, becomes one of about 150 bytes in a vector that
/// doubles.
const BODY_FACTOR: usize = 256;
const BODY_BYTES: usize = 16 << 10;

pub(crate) const ADMIN: Target = Target {
    name: "admin",
    run: run_admin,
    seeds: admin_seeds,
};

fn run_admin(input: &[u8]) {
    read_marked(input, |kind, body| {
        let allowed = BODY_FACTOR * body.len() + BODY_BYTES;
        within("a body", allowed, || match kind % 3 {
            0 => read::<types::CreateTopic>(body),
            1 => read::<types::DeployRequest>(body),
            _ => drop(records::parse_lines(body)),
        });
    });
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) {
    drop(serde_json::from_slice::<T>(body));
}

fn admin_seeds() -> Vec<Vec<u8>> {
    let bodies: [&[u8]; 5] = [
        br#"{"name":"t","partitions":3,"replicas":1,"configs":{"segment.bytes":"1048576"}}"#,
        br#"{"module":"00ff","input":"a","outputs":["b","c"],"env":{"K":"v"},"from":"earliest","limits":{"time_ms":5,"memory_bytes":1000},"on_error":"dead-letter","dead_letter":"d","attempts":2}"#,
        b"{\"key\":\"k\",\"value\":\"v\",\"partition\":1}\n{\"key_base64\":\"AA==\",\"value_base64\":\"/w==\",\"headers\":[[\"n\",\"v\"],[\"n\",null]]}\n\n{}",
        b"{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}",
        br#"[[[[[[[[[[[[[[[[{"a":"\u0000\ud800"}"#,
    ];
    let kinds = [0u8, 1, 2, 2, 0];
    let seeds = kinds.into_iter().zip(bodies);
    seeds.map(|(kind, body)| marked(kind, body)).collect()
}
