//! JSON to Avro's binary encoding.

use serde_json::{Map, Number, Value};

use crate::Unknown;
use crate::schema::{Field, NESTING_MAX, Schema, Schemas};

/// Appends the datum of `value`.
///
/// # Errors
/// Where `value` does not fit, by its path. What stands there is not told, nor is a name that only the value has: it may be private.
pub(crate) fn write(
    schemas: &Schemas,
    unknown: Unknown,
    value: &Value,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    let mut writer = Writer {
        schemas,
        unknown,
        path: Vec::new(),
        out,
    };
    writer.value(schemas.root(), value).map_err(|reason| {
        let path = writer.path.concat();
        format!("${path}: {reason}")
    })
}

struct Writer<'a> {
    schemas: &'a Schemas,
    unknown: Unknown,
    /// Where the value lies that is written, for messages; left as it is when something fails.
    path: Vec<String>,
    out: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    fn value(&mut self, schema: &'a Schema, value: &Value) -> Result<(), String> {
        if self.path.len() > NESTING_MAX {
            return Err(format!("nested deeper than {NESTING_MAX} levels"));
        }
        match (self.schemas.of(schema), value) {
            (Schema::Union(branches), value) => self.union(branches, value),
            (Schema::Record(fields), Value::Object(members)) => self.record(fields, members),
            (Schema::Array(items), Value::Array(values)) => self.array(items, values),
            (Schema::Map(values), Value::Object(members)) => self.map(values, members),
            (Schema::Enum(symbols), Value::String(symbol)) => {
                let index = symbols.iter().position(|s| s == symbol);
                self.long(index.ok_or("it is none of the symbols of the schema")? as i64);
                Ok(())
            }
            (schema, value) => self.plain(schema, value),
        }
    }

    fn plain(&mut self, schema: &Schema, value: &Value) -> Result<(), String> {
        match (schema, value) {
            (Schema::Null, Value::Null) => {}
            (Schema::Boolean, Value::Bool(value)) => self.out.push(u8::from(*value)),
            (Schema::Int, Value::Number(number)) => {
                let value = whole(number).and_then(|n| i32::try_from(n).ok());
                self.long(value.ok_or("it is no whole number of 32 bits")?.into());
            }
            (Schema::Long, Value::Number(number)) => {
                self.long(whole(number).ok_or("it is no whole number of 64 bits")?);
            }
            (Schema::Float, value) => {
                let number = double(value).ok_or_else(|| mismatch(schema, value))?;
                let narrow = number as f32;
                if narrow.is_infinite() && number.is_finite() {
                    return Err("it is too large for a float".to_owned());
                }
                self.out.extend(narrow.to_le_bytes());
            }
            (Schema::Double, value) => {
                let number = double(value).ok_or_else(|| mismatch(schema, value))?;
                self.out.extend(number.to_le_bytes());
            }
            (Schema::String, Value::String(text)) => self.bytes(text.as_bytes()),
            (Schema::Bytes, Value::String(text)) => {
                let bytes = code_points(text)?;
                self.bytes(&bytes);
            }
            (Schema::Fixed(size), Value::String(text)) => {
                let bytes = code_points(text)?;
                if bytes.len() != *size {
                    return Err(format!(
                        "it has {} bytes, the schema wants {size}",
                        bytes.len()
                    ));
                }
                self.out.extend(bytes);
            }
            _ => return Err(mismatch(schema, value)),
        }
        Ok(())
    }

    fn record(&mut self, fields: &'a [Field], members: &Map<String, Value>) -> Result<(), String> {
        if self.unknown == Unknown::Fail
            && members
                .keys()
                .any(|name| !fields.iter().any(|field| field.is(name)))
        {
            return Err(
                "it has a member that is not in the schema; leave such members out with unknown_fields=drop".to_owned(),
            );
        }
        for field in fields {
            self.path.push(format!(".{}", field.name));
            let given = std::iter::once(&field.name)
                .chain(&field.aliases)
                .find_map(|name| members.get(name));
            match given.or(field.default.as_ref()) {
                Some(value) => self.value(&field.schema, value)?,
                None => {
                    return Err("it is missing, and the schema has no default for it".to_owned());
                }
            }
            self.path.pop();
        }
        Ok(())
    }

    fn array(&mut self, schema: &'a Schema, items: &[Value]) -> Result<(), String> {
        if !items.is_empty() {
            self.long(items.len() as i64);
        }
        for (n, item) in items.iter().enumerate() {
            self.path.push(format!("[{n}]"));
            self.value(schema, item)?;
            self.path.pop();
        }
        self.out.push(0);
        Ok(())
    }

    fn map(&mut self, schema: &'a Schema, members: &Map<String, Value>) -> Result<(), String> {
        if !members.is_empty() {
            self.long(members.len() as i64);
        }
        for (name, value) in members {
            self.bytes(name.as_bytes());
            self.path.push("[*]".to_owned());
            self.value(schema, value)?;
            self.path.pop();
        }
        self.out.push(0);
        Ok(())
    }

    /// The first branch that the value fits, without the name of the branch around it that Avro's own JSON has.
    fn union(&mut self, branches: &'a [Schema], value: &Value) -> Result<(), String> {
        let (start, depth) = (self.out.len(), self.path.len());
        let mut first_reason = None;
        for (index, branch) in branches.iter().enumerate() {
            if !self.may_be(branch, value) {
                continue;
            }
            self.long(index as i64);
            match self.value(branch, value) {
                Ok(()) => return Ok(()),
                Err(reason) => {
                    first_reason.get_or_insert((self.path.clone(), reason));
                    self.out.truncate(start);
                    self.path.truncate(depth);
                }
            }
        }
        let (path, reason) = first_reason.unwrap_or_else(|| {
            (
                self.path.clone(),
                "it fits no branch of the union".to_owned(),
            )
        });
        self.path = path;
        Err(reason)
    }

    /// Whether a value of this kind of JSON can be of `branch` at all.
    fn may_be(&self, branch: &'a Schema, value: &Value) -> bool {
        match self.schemas.of(branch) {
            Schema::Null => value.is_null(),
            Schema::Boolean => value.is_boolean(),
            Schema::Int | Schema::Long => value.is_number(),
            Schema::Float | Schema::Double => double(value).is_some(),
            Schema::Bytes | Schema::String | Schema::Fixed(_) | Schema::Enum(_) => {
                value.is_string()
            }
            Schema::Record(_) | Schema::Map(_) => value.is_object(),
            Schema::Array(_) => value.is_array(),
            Schema::Union(_) | Schema::Named(_) => true,
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.long(bytes.len() as i64);
        self.out.extend_from_slice(bytes);
    }

    /// Zigzag and seven bits a byte, as all numbers of Avro.
    fn long(&mut self, value: i64) {
        let mut rest = (value << 1 ^ value >> 63) as u64;
        while rest >= 0x80 {
            self.out.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.out.push(rest as u8);
    }
}

fn mismatch(schema: &Schema, value: &Value) -> String {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    format!("it is {found}, the schema wants {}", schema.name())
}

/// A number without a fraction, also where it is written with one of zeros or a power of ten.
fn whole(number: &Number) -> Option<i64> {
    if let Some(whole) = number.as_i64() {
        return Some(whole);
    }
    let text = number.to_string();
    if !text.contains(['.', 'e', 'E']) {
        return None;
    }
    // Exact up to 2^53, and no text is taken for another whole number.
    let value: f64 = text.parse().ok()?;
    (value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0).then_some(value as i64)
}

/// A number, or the text for one that JSON has no number for.
fn double(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number
            .to_string()
            .parse()
            .ok()
            .filter(|n: &f64| n.is_finite()),
        Value::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

/// Bytes in a JSON text: a character each, U+0000 to U+00FF, as Avro says.
fn code_points(text: &str) -> Result<Vec<u8>, String> {
    let byte = |c: char| u8::try_from(u32::from(c));
    let bytes: Result<Vec<u8>, _> = text.chars().map(byte).collect();
    bytes.map_err(|_| "bytes are written as the characters U+0000 to U+00FF".to_owned())
}
