//! Schemas of Avro (Apache Avro 1.12, "Schema Declaration"), with their named types at hand.

use std::collections::HashMap;

use serde_json::{Map, Value};

/// Levels of nesting that a value, or a schema, may have.
pub(crate) const NESTING_MAX: usize = 128;
/// Named types of a schema, at most.
const NAMES_MAX: usize = 1024;

/// A schema and the types that it names.
#[derive(Debug)]
pub(crate) struct Schemas {
    root: Schema,
    named: Vec<Schema>,
}

/// A type. A logical type is what carries it: a date is an int, a decimal bytes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Schema {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Fixed(usize),
    Enum(Vec<String>),
    Array(Box<Schema>),
    Map(Box<Schema>),
    Union(Vec<Schema>),
    Record(Vec<Field>),
    /// The named type of this number.
    Named(usize),
}

/// A field of a record.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) aliases: Vec<String>,
    pub(crate) schema: Schema,
    pub(crate) default: Option<Value>,
}

impl Schemas {
    /// Reads a schema.
    ///
    /// # Errors
    /// Why it is none.
    pub(crate) fn parse(json: &Value) -> Result<Schemas, String> {
        let mut parser = Parser::default();
        let root = parser
            .schema(json, "", 0)
            .map_err(|reason| format!("the schema cannot be used: {reason}"))?;
        Ok(Schemas {
            root,
            named: parser.named,
        })
    }

    /// The schema of a whole value.
    pub(crate) fn root(&self) -> &Schema {
        &self.root
    }

    /// What `schema` stands for: itself, or the named type that it refers to.
    pub(crate) fn of<'s>(&'s self, schema: &'s Schema) -> &'s Schema {
        match schema {
            Schema::Named(number) => &self.named[*number],
            schema => schema,
        }
    }
}

impl Field {
    /// Whether `name` is its name, or another one that it has.
    pub(crate) fn is(&self, name: &str) -> bool {
        self.name == name || self.aliases.iter().any(|alias| alias == name)
    }
}

impl Schema {
    /// As the specification calls it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Schema::Null => "null",
            Schema::Boolean => "a boolean",
            Schema::Int => "an int",
            Schema::Long => "a long",
            Schema::Float => "a float",
            Schema::Double => "a double",
            Schema::Bytes => "bytes",
            Schema::String => "a string",
            Schema::Fixed(_) => "a fixed",
            Schema::Enum(_) => "an enum",
            Schema::Array(_) => "an array",
            Schema::Map(_) => "a map",
            Schema::Union(_) => "a union",
            Schema::Record(_) | Schema::Named(_) => "a record",
        }
    }
}

#[derive(Default)]
struct Parser {
    names: HashMap<String, usize>,
    named: Vec<Schema>,
}

impl Parser {
    fn schema(&mut self, json: &Value, namespace: &str, depth: usize) -> Result<Schema, String> {
        if depth > NESTING_MAX {
            return Err(format!("it is nested deeper than {NESTING_MAX} levels"));
        }
        match json {
            Value::String(name) => self.by_name(name, namespace),
            Value::Array(branches) => {
                let branch = |json| self.schema(json, namespace, depth + 1);
                let branches: Result<Vec<Schema>, String> = branches.iter().map(branch).collect();
                union(branches?)
            }
            Value::Object(members) => self.object(members, namespace, depth),
            _ => Err("a schema is a name, a list or an object".to_owned()),
        }
    }

    fn by_name(&self, name: &str, namespace: &str) -> Result<Schema, String> {
        if let Some(primitive) = primitive(name) {
            return Ok(primitive);
        }
        let number = self
            .names
            .get(&full(name, namespace))
            .or_else(|| self.names.get(name));
        number
            .map(|number| Schema::Named(*number))
            .ok_or_else(|| format!("there is no type `{name}`"))
    }

    fn object(
        &mut self,
        members: &Map<String, Value>,
        namespace: &str,
        depth: usize,
    ) -> Result<Schema, String> {
        let kind = match members.get("type") {
            Some(Value::String(kind)) => kind.as_str(),
            // A type in another pair of brackets.
            Some(inner) => return self.schema(inner, namespace, depth + 1),
            None => return Err("an object without `type`".to_owned()),
        };
        let mut inner = |name: &str| {
            let json = members
                .get(name)
                .ok_or_else(|| format!("an {kind} without `{name}`"))?;
            Ok::<_, String>(Box::new(self.schema(json, namespace, depth + 1)?))
        };
        match kind {
            "array" => Ok(Schema::Array(inner("items")?)),
            "map" => Ok(Schema::Map(inner("values")?)),
            "record" | "error" | "enum" | "fixed" => self.declare(kind, members, namespace, depth),
            kind => self.by_name(kind, namespace),
        }
    }

    /// A type with a name, by which it may refer to itself.
    fn declare(
        &mut self,
        kind: &str,
        members: &Map<String, Value>,
        namespace: &str,
        depth: usize,
    ) -> Result<Schema, String> {
        let name = text(members, "name").ok_or_else(|| format!("a {kind} without `name`"))?;
        let namespace = match name.rsplit_once('.') {
            Some((own, _)) => own.to_owned(),
            None => text(members, "namespace").unwrap_or(namespace).to_owned(),
        };
        let name = full(name, &namespace);
        let number = self.named.len();
        if number == NAMES_MAX {
            return Err(format!("it has more than {NAMES_MAX} named types"));
        }
        if primitive(&name).is_some() || self.names.insert(name.clone(), number).is_some() {
            return Err(format!("the name `{name}` is taken"));
        }
        self.named.push(Schema::Null);
        let schema = match kind {
            "enum" => Schema::Enum(
                texts(members, "symbols")
                    .ok_or_else(|| format!("the enum `{name}` has no `symbols`"))?,
            ),
            "fixed" => {
                let size = members
                    .get("size")
                    .and_then(Value::as_u64)
                    .and_then(|size| usize::try_from(size).ok());
                Schema::Fixed(size.ok_or_else(|| format!("the fixed `{name}` has no `size`"))?)
            }
            _ => Schema::Record(
                self.fields(members, &namespace, depth)
                    .map_err(|reason| format!("{name}: {reason}"))?,
            ),
        };
        self.named[number] = schema;
        Ok(Schema::Named(number))
    }

    fn fields(
        &mut self,
        members: &Map<String, Value>,
        namespace: &str,
        depth: usize,
    ) -> Result<Vec<Field>, String> {
        let fields = members
            .get("fields")
            .and_then(Value::as_array)
            .ok_or("a record without `fields`")?;
        let mut all: Vec<Field> = Vec::with_capacity(fields.len());
        for field in fields {
            let members = field.as_object().ok_or("a field is an object")?;
            let name = text(members, "name").ok_or("a field without `name`")?;
            if all.iter().any(|field| field.name == name) {
                return Err(format!("two fields are called `{name}`"));
            }
            let json = members
                .get("type")
                .ok_or_else(|| format!("the field `{name}` has no `type`"))?;
            all.push(Field {
                name: name.to_owned(),
                aliases: texts(members, "aliases").unwrap_or_default(),
                schema: self.schema(json, namespace, depth + 1)?,
                default: members.get("default").cloned(),
            });
        }
        Ok(all)
    }
}

fn union(branches: Vec<Schema>) -> Result<Schema, String> {
    match branches
        .iter()
        .any(|branch| matches!(branch, Schema::Union(_)))
    {
        true => Err("a union in a union".to_owned()),
        false if branches.is_empty() => Err("a union of nothing".to_owned()),
        false => Ok(Schema::Union(branches)),
    }
}

fn primitive(name: &str) -> Option<Schema> {
    Some(match name {
        "null" => Schema::Null,
        "boolean" => Schema::Boolean,
        "int" => Schema::Int,
        "long" => Schema::Long,
        "float" => Schema::Float,
        "double" => Schema::Double,
        "bytes" => Schema::Bytes,
        "string" => Schema::String,
        _ => return None,
    })
}

fn full(name: &str, namespace: &str) -> String {
    match name.contains('.') || namespace.is_empty() {
        true => name.to_owned(),
        false => format!("{namespace}.{name}"),
    }
}

fn text<'a>(members: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    members.get(name)?.as_str()
}

fn texts(members: &Map<String, Value>, name: &str) -> Option<Vec<String>> {
    let list = members.get(name)?.as_array()?;
    list.iter()
        .map(|text| text.as_str().map(str::to_owned))
        .collect()
}
