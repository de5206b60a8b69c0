//! Valid request bodies made up from the table, for whoever tests the readers: an API that enters the table is tested
//! from then on without a line of its own.

use tidemill_model::varint::write_u64;

use super::{Field, Kind, fields};
use crate::api;
use crate::bounded::Flexible;

/// Deepest nesting that elements are made for; deeper arrays stay empty.
const DEPTH_MAX: usize = 4;
/// Elements of an array at most.
const ELEMENTS_MAX: u32 = 4;
/// Bytes of a text at most.
const TEXT_BYTES_MAX: u32 = 12;

/// A body that [`super::walk`] takes, of an API and version in the table; `None` when they are not. `choose` gives numbers
/// below what it is asked for: the same numbers give the same body.
pub fn specimen(api_key: i16, version: i16, choose: &mut dyn FnMut(u32) -> u32) -> Option<Vec<u8>> {
    let served = api::find(api_key).filter(|api| api.serves(version))?;
    let mut maker = Maker {
        version,
        flexible: served.flexible(version),
        out: Vec::new(),
        choose,
    };
    maker.fields(fields(api_key)?, 0);
    Some(maker.out)
}

struct Maker<'a> {
    version: i16,
    flexible: Flexible,
    out: Vec<u8>,
    choose: &'a mut dyn FnMut(u32) -> u32,
}

impl Maker<'_> {
    fn fields(&mut self, fields: &[Field], depth: usize) {
        for f in fields {
            if (f.from..=f.to).contains(&self.version) {
                self.value(&f.kind, depth);
            }
        }
        if self.flexible == Flexible::Yes {
            let count = (self.choose)(8).saturating_sub(5);
            write_u64(&mut self.out, u64::from(count));
            for tag in 0..count {
                write_u64(&mut self.out, u64::from(tag + 90));
                let len = (self.choose)(TEXT_BYTES_MAX);
                write_u64(&mut self.out, u64::from(len));
                self.out.extend((0..len).map(|n| n as u8));
            }
        }
    }

    fn value(&mut self, kind: &Kind, depth: usize) {
        match kind {
            Kind::Fixed(bytes) => {
                let byte = (self.choose)(256) as u8;
                // Small numbers are the common ones.
                let wide = (self.choose)(4) == 0;
                let lead = if wide { byte } else { 0 };
                self.out.extend((1..*bytes).map(|_| lead));
                self.out.push(byte);
            }
            Kind::Text => {
                let len = (self.choose)(TEXT_BYTES_MAX);
                self.length(len, Width::Two);
                for _ in 0..len {
                    let letter = b'a' + (self.choose)(26) as u8;
                    self.out.push(letter);
                }
            }
            Kind::Bytes => {
                let len = (self.choose)(TEXT_BYTES_MAX);
                self.length(len, Width::Four);
                for _ in 0..len {
                    let byte = (self.choose)(256) as u8;
                    self.out.push(byte);
                }
            }
            Kind::Maybe(fields) => match (self.choose)(2) {
                0 => self.out.push(0xff),
                _ => {
                    self.out.push(1);
                    self.fields(fields, depth);
                }
            },
            Kind::Struct(fields) => self.fields(fields, depth),
            Kind::Array(element) => {
                let most = if depth < DEPTH_MAX { ELEMENTS_MAX } else { 1 };
                let count = (self.choose)(most);
                self.length(count, Width::Four);
                (0..count).for_each(|_| self.value(element, depth + 1));
            }
        }
    }

    fn length(&mut self, len: u32, width: Width) {
        match (self.flexible, width) {
            (Flexible::Yes, _) => write_u64(&mut self.out, u64::from(len) + 1),
            (Flexible::No, Width::Two) => self.out.extend((len as u16).to_be_bytes()),
            (Flexible::No, Width::Four) => self.out.extend(len.to_be_bytes()),
        }
    }
}

/// Bytes of a length that is not compact.
enum Width {
    Two,
    Four,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specimens_of_every_api_and_version_are_walked_to_their_end() {
        for api in api::APIS {
            for version in api.min..=api.max {
                for seed in 0u32..50 {
                    let mut state = seed;
                    let mut choose = |below: u32| {
                        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        (state >> 8) % below.max(1)
                    };
                    if let Some(body) = specimen(api.key, version, &mut choose) {
                        let walked = super::super::walk(api.key, version, &body);
                        assert_eq!(walked, Ok(body.len()), "{} {version}", api.name);
                    }
                }
            }
        }
    }
}
