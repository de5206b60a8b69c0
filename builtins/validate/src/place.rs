//! Where in a value something is, told without telling the value: names of members may be data, such as numbers of patients.

use std::collections::BTreeSet;

use serde_json::Value;

/// What stands for a name that is not told.
const HIDDEN: &str = "*";

/// Names that a schema itself tells, all of its members' names among them.
#[derive(Debug)]
pub(crate) struct Told(BTreeSet<String>);

impl Told {
    /// Those of `schema`.
    pub(crate) fn of(schema: &Value) -> Told {
        let mut names = BTreeSet::new();
        let mut todo = vec![schema];
        while let Some(value) = todo.pop() {
            match value {
                Value::Object(members) => {
                    names.extend(members.keys().cloned());
                    todo.extend(members.values());
                }
                Value::Array(items) => todo.extend(items),
                _ => {}
            }
        }
        Told(names)
    }

    /// The place in `value` that the JSON pointer (RFC 6901) `path` leads to, its unknown names hidden.
    pub(crate) fn place(&self, value: &Value, path: &str) -> String {
        if path.is_empty() {
            return "the document".to_owned();
        }
        let mut place = String::with_capacity(path.len());
        let mut at = Some(value);
        for step in path.split('/').skip(1) {
            let name = step.replace("~1", "/").replace("~0", "~");
            let told = match at {
                Some(Value::Array(_)) => true,
                _ => self.0.contains(&name),
            };
            place.push('/');
            place.push_str(if told { step } else { HIDDEN });
            at = match at {
                Some(Value::Array(items)) => step.parse().ok().and_then(|n: usize| items.get(n)),
                Some(Value::Object(members)) => members.get(&name),
                _ => None,
            };
        }
        place
    }
}
