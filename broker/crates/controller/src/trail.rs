//! What the log of a node says of each change that an operator or a client has made.

use crate::command::{ControllerCommand, Deploy};
use crate::image::Image;
use tidemill_model::TopicId;

/// What `command` does, in words, seen from the state it is applied to; nothing of what nodes do by themselves. To be made before it is
/// applied: a deleted topic has no name afterwards.
pub(crate) fn told(command: &ControllerCommand, image: &Image) -> Option<String> {
    let name = |id: &TopicId| {
        let topic = image.topic_by_id(*id);
        topic.map_or_else(|| format!("{id:?}"), |topic| topic.name.clone())
    };
    Some(match command {
        ControllerCommand::CreateTopic { topic } => format!(
            "topic '{}' made with {}{}",
            topic.name,
            partitions(topic.partition_count() as usize),
            settings(&topic.configs)
        ),
        ControllerCommand::DeleteTopic { id, .. } => format!("topic '{}' deleted", name(id)),
        ControllerCommand::AddPartitions {
            id,
            existing,
            rings,
        } => {
            let partitions = partitions(*existing as usize + rings.len());
            format!("topic '{}' widened to {partitions}", name(id))
        }
        ControllerCommand::ConfigureTopic { id, configs } => {
            let settings = settings(configs);
            format!("topic '{}' configured anew{settings}", name(id))
        }
        ControllerCommand::DeployTransform(deploy) => deployed(deploy),
        ControllerCommand::SetPaused { name, paused: true } => {
            format!("transform '{name}' paused")
        }
        ControllerCommand::SetPaused {
            name,
            paused: false,
        } => {
            format!("transform '{name}' resumed")
        }
        ControllerCommand::DeleteTransform { name } => format!("transform '{name}' deleted"),
        ControllerCommand::RetireTopics { .. }
        | ControllerCommand::AllocateProducerIds { .. }
        | ControllerCommand::RetireTransform { .. } => return None,
    })
}

fn partitions(count: usize) -> String {
    match count {
        1 => "1 partition".to_owned(),
        n => format!("{n} partitions"),
    }
}

fn settings(configs: &std::collections::BTreeMap<String, String>) -> String {
    configs
        .iter()
        .map(|(name, value)| format!(", {name}={value}"))
        .collect()
}

/// Environment and secrets are not told: they may hold what is nobody's business.
fn deployed(deploy: &Deploy) -> String {
    let what = match deploy.content_of {
        Some(version) => format!("rolled back to version {version}"),
        None => "deployed".to_owned(),
    };
    format!(
        "transform '{}' {what}: {} -> {}, module {}",
        deploy.name,
        deploy.input,
        deploy.outputs.join(", "),
        deploy.module
    )
}
