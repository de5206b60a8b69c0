//! OffsetFetch: how far groups have read.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::Arc;

use bytes::Bytes;
use tidemill_controller::{Image, Topic};
use tidemill_groups::GroupError;
use tidemill_model::TopicId;
use tidemill_wire::offset_fetch::{
    GroupFetch, GroupFetched, PartitionFetched, TOPIC_IDS_FROM, decode, encode,
};
use tidemill_wire::{TopicRef, WireError};

use super::super::answers::{Answer, Body, Pending};
use super::super::dispatch::Request;
use super::super::error_map::{self, code};
use super::{find_topic, text};
use crate::groups::Fetched;

/// First version that says what is wrong with a group beside its partitions.
const GROUP_ERROR_FROM: i16 = 2;
/// Bytes of an answer for a partition beside its metadata, for a topic and for a group beside their names, about.
const PARTITION_BYTES: usize = 32;
const TOPIC_BYTES: usize = 32;
const GROUP_BYTES: usize = 32;

type Found = Result<Vec<Fetched>, GroupError>;

pub(in super::super) async fn start(mut request: Request) -> Result<Pending, WireError> {
    let body = decode(&request.frame, request.body_at, request.version)?;
    let image = request.shard.image();
    let mut asked = Vec::with_capacity(body.groups.len());
    for group in body.groups {
        let places = group.topics.as_ref().map(|topics| places(&image, topics));
        let id = group.group.to_string();
        let fetched = request
            .shard
            .at_coordinator(&group.group, move |coordinator| {
                ready(coordinator.fetch(&id, places.as_deref()))
            })
            .await;
        asked.push((group, fetched));
    }
    Ok(Box::pin(async move {
        let (mut groups, mut bytes) = (Vec::with_capacity(asked.len()), 0);
        for (group, fetched) in asked {
            let found: Found = fetched.await;
            let group = fill(&image, group, found, request.version);
            bytes += group_bytes(&group);
            groups.push(group);
        }
        let room = request.room(bytes).await;
        let body = Bytes::from(encode(&groups, request.version));
        // The names in the answer share the frame.
        drop(groups);
        request.release();
        Answer::Body(Body::within(room, vec![body]))
    }))
}

/// What is asked, by name.
fn places(image: &Image, topics: &[(TopicRef, Vec<i32>)]) -> Vec<(Arc<str>, i32)> {
    let mut places = Vec::new();
    for (named, partitions) in topics {
        if let Ok(topic) = find_topic(image, named) {
            let name: Arc<str> = topic.name.as_str().into();
            places.extend(partitions.iter().map(|p| (name.clone(), *p)));
        }
    }
    places
}

/// Whether what was committed is of this topic, and not of one that had its name before.
fn is_of(fetched: &Fetched, topic: &Topic) -> bool {
    fetched.topic_id == TopicId::NONE || fetched.topic_id == topic.id
}

fn fill(image: &Image, asked: GroupFetch, found: Found, version: i16) -> GroupFetched {
    let mut fetched = GroupFetched {
        group: asked.group,
        error_code: code::NONE,
        topics: Vec::new(),
    };
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            fetched.error_code = error_map::group(error);
            if version < GROUP_ERROR_FROM {
                fetched.topics = refused(asked.topics.unwrap_or_default(), fetched.error_code);
            }
            return fetched;
        }
    };
    let known = found.into_iter().filter_map(|f| {
        let topic = image.topic(&f.topic)?;
        is_of(&f, topic).then(|| ((topic.id, f.partition), f))
    });
    let known: BTreeMap<(TopicId, i32), Fetched> = known.collect();
    fetched.topics = match asked.topics {
        Some(topics) => topics
            .into_iter()
            .map(|topic| named(image, topic, &known))
            .collect(),
        None => all(image, known, version),
    };
    fetched
}

fn refused(topics: Vec<(TopicRef, Vec<i32>)>, code: i16) -> Vec<(TopicRef, Vec<PartitionFetched>)> {
    let each = |(topic, partitions): (TopicRef, Vec<i32>)| {
        (
            topic,
            partitions.into_iter().map(|p| nothing(p, code)).collect(),
        )
    };
    topics.into_iter().map(each).collect()
}

/// The answer for what was asked by name or id.
fn named(
    image: &Image,
    (topic, partitions): (TopicRef, Vec<i32>),
    known: &BTreeMap<(TopicId, i32), Fetched>,
) -> (TopicRef, Vec<PartitionFetched>) {
    let found = find_topic(image, &topic);
    // By name, an unknown topic is one of which nothing was committed.
    let code = match (&topic, &found) {
        (TopicRef::Id(_), Err(code)) => *code,
        _ => code::NONE,
    };
    let id = found.map_or(TopicId::NONE, |topic| topic.id);
    let each = partitions.into_iter().map(|p| match known.get(&(id, p)) {
        Some(fetched) => partition(fetched),
        None => nothing(p, code),
    });
    let each = each.collect();
    (topic, each)
}

/// The answer for everything that was committed.
fn all(
    image: &Image,
    known: BTreeMap<(TopicId, i32), Fetched>,
    version: i16,
) -> Vec<(TopicRef, Vec<PartitionFetched>)> {
    let mut topics: BTreeMap<TopicId, Vec<PartitionFetched>> = BTreeMap::new();
    for ((id, _), fetched) in known {
        topics.entry(id).or_default().push(partition(&fetched));
    }
    let named = |(id, partitions)| {
        let topic = match version {
            TOPIC_IDS_FROM.. => TopicRef::Id(id),
            _ => TopicRef::Name(
                image
                    .topic_by_id(id)
                    .map(|t| text(t.name.clone()))
                    .unwrap_or_default(),
            ),
        };
        (topic, partitions)
    };
    topics.into_iter().map(named).collect()
}

fn partition(fetched: &Fetched) -> PartitionFetched {
    PartitionFetched {
        index: fetched.partition,
        offset: fetched.offset,
        leader_epoch: fetched.leader_epoch,
        metadata: fetched.metadata.clone(),
        error_code: code::NONE,
    }
}

fn nothing(index: i32, error_code: i16) -> PartitionFetched {
    PartitionFetched {
        index,
        offset: -1,
        leader_epoch: -1,
        metadata: String::new(),
        error_code,
    }
}

fn group_bytes(group: &GroupFetched) -> usize {
    let topic = |(topic, partitions): &(TopicRef, Vec<PartitionFetched>)| {
        let name = match topic {
            TopicRef::Name(name) => name.len(),
            TopicRef::Id(_) => 0,
        };
        let partitions = partitions
            .iter()
            .map(|p| PARTITION_BYTES + p.metadata.len());
        TOPIC_BYTES + name + partitions.sum::<usize>()
    };
    GROUP_BYTES + group.group.len() + group.topics.iter().map(topic).sum::<usize>()
}
