//! Avro's binary encoding to JSON. The datum is hostile until it was read: no length in it is believed, no value in it is nested without end.

use std::fmt::Write;

use serde_json::Value;

use crate::schema::{NESTING_MAX, Schema, Schemas};

/// Bytes of JSON that a byte of the datum may become, beside a floor: items of no bytes (null) would otherwise be written without end.
const GROWTH_MAX: usize = 64;
/// Bytes of JSON that any datum may become.
const JSON_BYTES_MIN: usize = 64 << 10;

/// The JSON text of a datum.
///
/// # Errors
/// Where it is not one of the schema.
pub(crate) fn read(schemas: &Schemas, datum: &[u8]) -> Result<String, String> {
    let mut reader = Reader {
        schemas,
        rest: datum,
        bound: datum.len().saturating_mul(GROWTH_MAX).max(JSON_BYTES_MIN),
        depth: 0,
        out: String::new(),
    };
    let read = reader.value(schemas.root());
    let at = datum.len() - reader.rest.len();
    match read {
        Ok(()) if reader.rest.is_empty() => Ok(reader.out),
        Ok(()) => Err(format!(
            "not Avro of this schema: {} bytes follow its end at byte {at}",
            reader.rest.len()
        )),
        Err(reason) => Err(format!("not Avro of this schema: {reason} at byte {at}")),
    }
}

struct Reader<'a> {
    schemas: &'a Schemas,
    rest: &'a [u8],
    bound: usize,
    depth: usize,
    out: String,
}

impl<'a> Reader<'a> {
    fn value(&mut self, schema: &'a Schema) -> Result<(), String> {
        if self.depth == NESTING_MAX {
            return Err(format!("nested deeper than {NESTING_MAX} levels"));
        }
        if self.out.len() > self.bound {
            return Err(format!("more than {} bytes of JSON", self.bound));
        }
        self.depth += 1;
        match self.schemas.of(schema) {
            Schema::Union(branches) => {
                let index = usize::try_from(self.long()?).ok();
                let branch = index.and_then(|index| branches.get(index));
                self.value(branch.ok_or("a branch that the union does not have")?)?;
            }
            Schema::Record(fields) => {
                for (n, field) in fields.iter().enumerate() {
                    self.out.push(if n == 0 { '{' } else { ',' });
                    self.text(&field.name);
                    self.out.push(':');
                    self.value(&field.schema)?;
                }
                self.out
                    .push_str(if fields.is_empty() { "{}" } else { "}" });
            }
            Schema::Array(items) => self.blocks(['[', ']'], |reader| reader.value(items))?,
            Schema::Map(values) => self.blocks(['{', '}'], |reader| {
                let name = reader.string()?;
                reader.text(name);
                reader.out.push(':');
                reader.value(values)
            })?,
            schema => self.plain(schema)?,
        }
        self.depth -= 1;
        Ok(())
    }

    fn plain(&mut self, schema: &'a Schema) -> Result<(), String> {
        match schema {
            Schema::Null => self.out.push_str("null"),
            Schema::Boolean => match self.take(1)? {
                [0] => self.out.push_str("false"),
                [1] => self.out.push_str("true"),
                _ => return Err("a boolean that is neither 0 nor 1".to_owned()),
            },
            Schema::Int => {
                let value = i32::try_from(self.long()?).map_err(|_| "an int beyond 32 bits")?;
                self.show(value);
            }
            Schema::Long => {
                let value = self.long()?;
                self.show(value);
            }
            Schema::Float => {
                let value = f32::from_le_bytes(self.array()?);
                // The shortest text of the float, not of the double that it would become.
                self.number(f64::from(value), &format!("{value:?}"));
            }
            Schema::Double => {
                let value = f64::from_le_bytes(self.array()?);
                self.number(value, &format!("{value:?}"));
            }
            Schema::String => {
                let text = self.string()?;
                self.text(text);
            }
            Schema::Bytes => {
                let bytes = self.sized()?;
                self.code_points(bytes);
            }
            Schema::Fixed(size) => {
                let bytes = self.take(*size)?;
                self.code_points(bytes);
            }
            Schema::Enum(symbols) => {
                let index = usize::try_from(self.long()?).ok();
                let symbol = index.and_then(|index| symbols.get(index));
                self.text(symbol.ok_or("a symbol that the schema does not have")?);
            }
            // Taken by the caller.
            Schema::Array(_)
            | Schema::Map(_)
            | Schema::Union(_)
            | Schema::Record(_)
            | Schema::Named(_) => {
                return Err("a type that cannot stand here".to_owned());
            }
        }
        Ok(())
    }

    /// Items in blocks: a number of items, negative where the block's bytes follow it, until one of 0.
    fn blocks(
        &mut self,
        brackets: [char; 2],
        mut item: impl FnMut(&mut Self) -> Result<(), String>,
    ) -> Result<(), String> {
        self.out.push(brackets[0]);
        let mut first = true;
        loop {
            let count = self.long()?;
            if count == 0 {
                break;
            }
            if count < 0 {
                self.long()?;
            }
            for _ in 0..count.unsigned_abs() {
                if !first {
                    self.out.push(',');
                }
                first = false;
                item(self)?;
            }
        }
        self.out.push(brackets[1]);
        Ok(())
    }

    fn long(&mut self) -> Result<i64, String> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err("a number that is too long".to_owned())
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or("it ends too early")?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    fn sized(&mut self) -> Result<&'a [u8], String> {
        let len = usize::try_from(self.long()?).map_err(|_| "a length that is negative")?;
        self.take(len)
    }

    fn string(&mut self) -> Result<&'a str, String> {
        std::str::from_utf8(self.sized()?).map_err(|_| "a string that is no UTF-8".to_owned())
    }

    fn text(&mut self, text: &str) {
        self.show(Value::from(text));
    }

    fn code_points(&mut self, bytes: &[u8]) {
        let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
        self.text(&text);
    }

    fn number(&mut self, value: f64, shown: &str) {
        if value.is_finite() {
            return self.out.push_str(shown);
        }
        self.text(if value.is_nan() {
            "NaN"
        } else if value > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        });
    }

    fn show(&mut self, shown: impl std::fmt::Display) {
        write!(self.out, "{shown}").expect("a string takes what is written");
    }
}
