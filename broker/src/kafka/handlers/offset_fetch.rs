//! OffsetFetch: how far groups have read.

use std::collections::{BTreeMap, BTreeSet};
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
use super::super::memory::SMALL_ANSWER_BYTES_MAX;
use super::{ANSWER_BYTES_MAX, find_topic, text};
use crate::groups::{Fetched, Findings};

/// First version that says what is wrong with a group beside its partitions.
const GROUP_ERROR_FROM: i16 = 2;
/// Bytes of an answer for a partition beside its metadata, for a topic and for a group beside their names, about.
const PARTITION_BYTES: usize = 32;
const TOPIC_BYTES: usize = 32;
const GROUP_BYTES: usize = 32;
/// What is found at once, without asking how large it is, in bytes: half of a small answer.
const FIRST_BYTES: usize = SMALL_ANSWER_BYTES_MAX as usize / 2;

type Found = Result<Vec<Fetched>, GroupError>;
/// Topics, by name, and partitions of them.
type Places = Arc<[(Arc<str>, i32)]>;

pub(in super::super) async fn start(request: Request) -> Result<Pending, WireError> {
    let body = decode(&request.frame, request.body_at, request.version)?;
    let asked = once_each(body.groups);
    Ok(Box::pin(answer(request, asked)))
}

/// What is fetched of a group.
struct Asked {
    group: GroupFetch,
    places: Option<Places>,
    found: Result<Findings, GroupError>,
}

impl Asked {
    /// Bytes of an answer that tells of it, about.
    fn bytes(&self) -> usize {
        let named = self
            .group
            .topics
            .iter()
            .flatten()
            .map(|(topic, partitions)| {
                let name = match topic {
                    TopicRef::Name(name) => name.len(),
                    TopicRef::Id(_) => 0,
                };
                TOPIC_BYTES + name + PARTITION_BYTES * partitions.len()
            });
        let found = match self.found {
            Ok(Findings::All(_, bytes) | Findings::Larger(bytes)) => bytes,
            Err(_) => 0,
        };
        GROUP_BYTES + self.group.group.len() + named.sum::<usize>() + found
    }
}

/// Looks at how large an answer is before it takes the room for it, and copies what was committed only then: a request of a few bytes
/// may ask for all that a group has committed.
async fn answer(mut request: Request, groups: Vec<GroupFetch>) -> Answer {
    // What was committed by requests ahead of it is told; and a connection with many requests holds what one of them finds.
    request.turn().await;
    let image = request.shard.image();
    let (mut all, mut bytes) = (Vec::new(), 0_usize);
    for group in groups {
        let places: Option<Places> = group.topics.as_ref().map(|t| places(&image, t).into());
        let found = match bytes < ANSWER_BYTES_MAX {
            true => fetch(&request, &group, &places, FIRST_BYTES.saturating_sub(bytes)).await,
            // To be asked for once more, with fewer others.
            false => Err(GroupError::CoordinatorNotAvailable),
        };
        let asked = Asked {
            group,
            places,
            found,
        };
        bytes = bytes.saturating_add(asked.bytes());
        all.push(asked);
    }
    // Once as it is found, and once as it is written.
    let room = request.room(bytes.saturating_mul(2)).await;
    let mut told = Vec::with_capacity(all.len());
    for Asked {
        group,
        places,
        found,
    } in all
    {
        let found = match found {
            // What was committed meanwhile may be more, up to a limit.
            Ok(Findings::Larger(bytes)) => {
                fetch(&request, &group, &places, bytes.saturating_mul(2)).await
            }
            found => found,
        };
        let found = found.and_then(|found| match found {
            Findings::All(fetched, _) => Ok(fetched),
            // Consumers of Java take few errors here for ones that pass; this is one of them.
            Findings::Larger(_) => Err(GroupError::CoordinatorLoadInProgress),
        });
        told.push(fill(&image, group, found, request.version));
    }
    let body = Bytes::from(encode(&told, request.version));
    // The names in the answer share the frame.
    drop(told);
    request.release();
    Answer::Body(Body::within(room, vec![body]))
}

async fn fetch(
    request: &Request,
    group: &GroupFetch,
    places: &Option<Places>,
    most: usize,
) -> Result<Findings, GroupError> {
    let (id, places) = (group.group.to_string(), places.clone());
    let fetching = request
        .shard
        .at_coordinator(&group.group, move |coordinator| {
            ready(coordinator.fetch(&id, places.as_deref(), most))
        })
        .await;
    fetching.await
}

/// What is asked, with each group once and each partition of it once, so that a small request has no vast answer.
fn once_each(asked: Vec<GroupFetch>) -> Vec<GroupFetch> {
    let mut at: BTreeMap<String, usize> = BTreeMap::new();
    let mut groups: Vec<GroupFetch> = Vec::new();
    for group in asked {
        match at.get(&*group.group) {
            None => {
                at.insert(group.group.to_string(), groups.len());
                groups.push(group);
            }
            Some(at) => {
                let topics = &mut groups[*at].topics;
                *topics = topics.take().zip(group.topics).map(|(mut first, more)| {
                    first.extend(more);
                    first
                });
            }
        }
    }
    for group in &mut groups {
        let mut seen = BTreeSet::new();
        for (topic, partitions) in group.topics.iter_mut().flatten() {
            partitions.retain(|p| seen.insert((topic.clone(), *p)));
        }
    }
    groups
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
    let mut known: BTreeMap<(TopicId, i32), Fetched> = known.collect();
    fetched.topics = match asked.topics {
        Some(topics) => topics
            .into_iter()
            .map(|topic| named(image, topic, &mut known))
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
    known: &mut BTreeMap<(TopicId, i32), Fetched>,
) -> (TopicRef, Vec<PartitionFetched>) {
    let found = find_topic(image, &topic);
    // By name, an unknown topic is one of which nothing was committed.
    let code = match (&topic, &found) {
        (TopicRef::Id(_), Err(code)) => *code,
        _ => code::NONE,
    };
    let id = found.map_or(TopicId::NONE, |topic| topic.id);
    let each = partitions
        .into_iter()
        .map(|p| match known.remove(&(id, p)) {
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
        topics.entry(id).or_default().push(partition(fetched));
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

fn partition(fetched: Fetched) -> PartitionFetched {
    PartitionFetched {
        index: fetched.partition,
        offset: fetched.offset,
        leader_epoch: fetched.leader_epoch,
        metadata: fetched.metadata,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_and_partition_named_many_times_are_looked_up_once() {
        let asked =
            |group: &'static str, topics: Option<Vec<(&'static str, Vec<i32>)>>| GroupFetch {
                group: text(group),
                member: None,
                member_epoch: -1,
                topics: topics.map(|topics| {
                    let named = |(name, partitions)| (TopicRef::Name(text(name)), partitions);
                    topics.into_iter().map(named).collect()
                }),
            };
        let once = once_each(vec![
            asked("a", Some(vec![("t", vec![0, 1, 0]), ("u", vec![0])])),
            asked("b", Some(vec![("t", vec![0])])),
            asked("a", Some(vec![("t", vec![1, 2])])),
            asked("b", None),
            asked("b", Some(vec![("t", vec![0])])),
        ]);
        let topics = vec![("t", vec![0, 1]), ("u", vec![0]), ("t", vec![2])];
        assert_eq!(once, [asked("a", Some(topics)), asked("b", None)]);
    }
}
