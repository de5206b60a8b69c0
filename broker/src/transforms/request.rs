//! What a deploy asks for, checked as far as that depends on nothing that exists.

use std::collections::{BTreeMap, BTreeSet};

use tidemill_controller::command::Deploy;
use tidemill_controller::image::{ErrorPolicy, WEIGHT_MAX, WEIGHT_MIN};
use tidemill_controller::state::OUTPUTS_MAX;
use tidemill_controller::{StartPosition, TransformSpec};
use tidemill_model::variable;
use tidemill_rt::time;
use tidemill_wasm_host::Limits;

use super::positions;
use crate::admin::ApiError;
use crate::admin::types::{DeployRequest, OnError};
use crate::config::table::Transforms;

/// Least memory of an instance, in bytes.
const MEMORY_MIN: u64 = 1 << 20;
/// Most attempts for a record.
const ATTEMPTS_MAX: u32 = 100;
/// Most environment variables.
const ENV_MAX: usize = 128;
/// Most bytes of the environment, names and values together.
const ENV_BYTES_MAX: usize = 64 << 10;

/// The limits that hold for a transform: its own, or the node's where those are smaller now.
pub(super) fn limits_that_hold(spec: &TransformSpec, node: &Transforms) -> Limits {
    let call_time_max = u64::try_from(node.call_time_max.as_millis()).unwrap_or(u64::MAX);
    Limits {
        time_ms: spec.time_ms.min(call_time_max),
        memory_bytes: spec.memory_bytes.min(node.instance_memory_max) as usize,
    }
}

/// Checks everything about a deploy that does not depend on what exists. Its secrets are not sealed yet.
pub(super) fn checked(
    name: String,
    r: &DeployRequest,
    limits: &Transforms,
) -> Result<Deploy, ApiError> {
    let bad = |code, message: String| Err(ApiError::bad_request(code, message));
    if !valid_name(&name) {
        return bad(
            "invalid_name",
            format!(
                "'{name}' is no transform name: use 1 to 128 letters, digits, '.', '_' and '-'"
            ),
        );
    }
    let (time_ms, memory_bytes) = call_limits(r, limits)?;
    let attempts = r.attempts.unwrap_or(1);
    if !(1..=ATTEMPTS_MAX).contains(&attempts) {
        return bad(
            "invalid_limit",
            format!("attempts (--attempts) is {attempts}, it may be 1 to {ATTEMPTS_MAX}"),
        );
    }
    let weight = r.weight.unwrap_or(WEIGHT_MIN);
    if !(WEIGHT_MIN..=WEIGHT_MAX).contains(&weight) {
        return bad(
            "invalid_limit",
            format!("weight (--weight) is {weight}, it may be {WEIGHT_MIN} to {WEIGHT_MAX}"),
        );
    }
    check_env(&r.env)?;
    let distinct: BTreeSet<&String> = r.outputs.iter().collect();
    if r.outputs.is_empty() || r.outputs.len() > OUTPUTS_MAX || distinct.len() != r.outputs.len() {
        return bad(
            "invalid_outputs",
            format!("a transform has 1 to {OUTPUTS_MAX} output topics, each named once"),
        );
    }
    let on_error = policy(r.on_error, r.dead_letter.is_some())?;
    if let Some(topic) = r.dead_letter.as_ref().filter(|d| r.outputs.contains(d)) {
        let message = format!(
            "dead_letter (--dead-letter) and an output are the same topic, '{topic}': records that failed come there as they came in, so they \
             have a topic of their own"
        );
        return Err(ApiError::bad_request("invalid_dead_letter", message));
    }
    let from = match &r.from {
        None => StartPosition::Latest,
        Some(text) => positions::start(text, time::unix_ms())
            .map_err(|message| ApiError::bad_request("invalid_position", message))?,
    };
    Ok(Deploy {
        name,
        module: r.module.clone(),
        input: r.input.clone(),
        outputs: r.outputs.clone(),
        dead_letter: r.dead_letter.clone(),
        env: r.env.clone(),
        from,
        time_ms,
        memory_bytes,
        on_error,
        attempts,
        compression: r.compression,
        weight,
        partition_by: r.partition_by.unwrap_or_default(),
        secrets: BTreeMap::new(),
        now_ms: time::unix_ms(),
        content_of: None,
    })
}

/// CPU time in ms and memory in bytes of a call.
fn call_limits(r: &DeployRequest, limits: &Transforms) -> Result<(u64, u64), ApiError> {
    let ms = |d: std::time::Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let bad = |message: String| Err(ApiError::bad_request("invalid_limit", message));
    let time_ms = r.limits.time_ms.unwrap_or(ms(limits.call_time));
    let time_ms_max = ms(limits.call_time_max);
    if !(1..=time_ms_max).contains(&time_ms) {
        return bad(format!(
            "the CPU time of a call (--time-ms, limits.time_ms) is {time_ms} ms; this broker allows 1 to {time_ms_max} ms \
             (transforms.call_time_max)"
        ));
    }
    let memory_bytes = r.limits.memory_bytes.unwrap_or(limits.instance_memory);
    let memory_max = limits.instance_memory_max;
    if !(MEMORY_MIN..=memory_max).contains(&memory_bytes) {
        return bad(format!(
            "the memory of an instance (--memory-mb, limits.memory_mb) is {}; this broker allows {} to {} \
             (transforms.instance_memory_max)",
            mebibytes(memory_bytes),
            mebibytes(MEMORY_MIN),
            mebibytes(memory_max)
        ));
    }
    Ok((time_ms, memory_bytes))
}

fn mebibytes(bytes: u64) -> String {
    match bytes % (1 << 20) {
        0 => format!("{} MiB", bytes >> 20),
        _ => format!("{bytes} bytes"),
    }
}

/// What happens to records a transform fails on: a dead-letter topic that is named is used.
fn policy(asked: Option<OnError>, named: bool) -> Result<ErrorPolicy, ApiError> {
    let bad = |code, message: &str| Err(ApiError::bad_request(code, message));
    match (asked, named) {
        (None | Some(OnError::DeadLetter), true) => Ok(ErrorPolicy::DeadLetter),
        (Some(OnError::DeadLetter), false) => bad(
            "no_dead_letter",
            "on_error (--on-error) is dead-letter, but no dead_letter topic (--dead-letter TOPIC) is named",
        ),
        (Some(_), true) => bad(
            "unused_dead_letter",
            "a dead_letter topic (--dead-letter) is used with on_error (--on-error) dead-letter only; leave one of them out",
        ),
        (None | Some(OnError::Fail), false) => Ok(ErrorPolicy::Fail),
        (Some(OnError::Skip), false) => Ok(ErrorPolicy::Skip),
        (Some(OnError::PassThrough), false) => Ok(ErrorPolicy::PassThrough),
    }
}

fn valid_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=128).contains(&name.len()) && name.bytes().all(allowed) && name != "." && name != ".."
}

fn check_env(env: &BTreeMap<String, String>) -> Result<(), ApiError> {
    let bytes: usize = env.iter().map(|(k, v)| k.len() + v.len()).sum();
    if env.len() > ENV_MAX || bytes > ENV_BYTES_MAX {
        let message = format!(
            "the environment may have {ENV_MAX} variables and {ENV_BYTES_MAX} bytes in all"
        );
        return Err(ApiError::bad_request("invalid_env", message));
    }
    for (name, value) in env {
        check_variable(name, value)?;
    }
    Ok(())
}

/// Whether a variable can be set to `value`, which is not shown.
pub(super) fn check_variable(name: &str, value: &str) -> Result<(), ApiError> {
    let refused = |message| Err(ApiError::bad_request("invalid_env", message));
    match variable::check(name) {
        Err(error) => refused(error.to_string()),
        Ok(()) if value.contains('\0') => {
            refused(format!("'{name}' cannot be set: its value has a NUL"))
        }
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_letters_go_to_no_output() {
        let asked = |dead_letter: &str| {
            let request = serde_json::json!({
                "module": "m", "input": "in", "outputs": ["out", "more"], "dead_letter": dead_letter
            });
            let request: DeployRequest = serde_json::from_value(request).expect("a request");
            checked(
                "t".into(),
                &request,
                &crate::config::table::Settings::default().transforms,
            )
        };
        assert_eq!(
            asked("dead").map(|d| d.on_error).ok(),
            Some(ErrorPolicy::DeadLetter)
        );
        let refused = asked("more").expect_err("it is an output");
        assert!(refused.message.contains("'more'"), "{}", refused.message);
    }
}
