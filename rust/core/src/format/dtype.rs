//! Dtypes: their sizes, and how the codecs treat their elements.

use crate::error::{Error, Result};

/// The most dimensions of a tensor (numpy's limit).
pub(crate) const MAX_RANK: usize = 64;

/// What a word is to the codecs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// A little-endian float with sign, exponent and mantissa.
    Float,
    /// Anything else of a known width: an integer, a bool, a big-endian float.
    Integer,
    /// Bytes without structure.
    Bytes,
}

/// The element of a chunk, as the codecs see it: words of `width` bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Element {
    /// Bytes of a word: 1, 2, 4 or 8.
    pub width: usize,
    /// What a word is.
    pub class: Class,
}

impl Element {
    /// The element of bytes of which nothing is known.
    pub const OPAQUE: Self = Self { width: 1, class: Class::Bytes };
}

/// The size in bytes of an element of this dtype (docs/format.md §5.1), and its [`Element`] for the codecs.
///
/// # Errors
/// `InvalidInput` if the format does not have the name.
///
/// # Examples
/// ```
/// use lamina_core::{Class, Element, parse_dtype};
///
/// assert_eq!(parse_dtype("<f4")?, (4, Element { width: 4, class: Class::Float }));
/// assert_eq!(parse_dtype("<c16")?, (16, Element { width: 8, class: Class::Float }));
/// assert!(parse_dtype("float32").is_err());
/// # Ok::<(), lamina_core::Error>(())
/// ```
pub fn parse_dtype(name: &str) -> Result<(usize, Element)> {
    let unknown = || Error::invalid(format!("unknown dtype {name:?}; expected a numpy dtype.str or an ml_dtypes name"));
    let element = |width: usize, class| Element { width, class };
    match name {
        "bfloat16" => return Ok((2, element(2, Class::Float))),
        "float8_e3m4" | "float8_e4m3" | "float8_e4m3b11fnuz" | "float8_e4m3fn" | "float8_e4m3fnuz" | "float8_e5m2"
        | "float8_e5m2fnuz" | "float8_e8m0fnu" | "float4_e2m1fn" | "float6_e2m3fn" | "float6_e3m2fn" | "int2"
        | "int4" | "uint2" | "uint4" => return Ok((1, element(1, Class::Integer))),
        _ => {}
    }
    let mut chars = name.chars();
    let (Some(order), Some(kind)) = (chars.next(), chars.next()) else { return Err(unknown()) };
    let digits = chars.as_str();
    if digits.is_empty() || digits.len() > 9 || !digits.bytes().all(|b| b.is_ascii_digit()) || digits.starts_with('0') {
        return Err(unknown());
    }
    let size: usize = digits.parse().map_err(|_| unknown())?;
    match (order, kind, size) {
        ('|', 'b' | 'i' | 'u', 1) => Ok((1, element(1, Class::Integer))),
        ('<', 'f', 2 | 4 | 8) => Ok((size, element(size, Class::Float))),
        ('>', 'f', 2 | 4 | 8) | ('<' | '>', 'i' | 'u', 2 | 4 | 8) => Ok((size, element(size, Class::Integer))),
        ('<', 'c', 8 | 16) => Ok((size, element(size / 2, Class::Float))),
        ('>', 'c', 8 | 16) => Ok((size, element(size / 2, Class::Integer))),
        ('<' | '>', 'f', 12 | 16) | ('<' | '>', 'c', 24 | 32) | ('|', 'V' | 'S', _) => Ok((size, Element::OPAQUE)),
        ('<' | '>', 'U', _) => Ok((size.checked_mul(4).ok_or_else(unknown)?, Element::OPAQUE)),
        _ => Err(unknown()),
    }
}

/// The bytes of a tensor of this dtype and shape.
///
/// # Errors
/// `InvalidInput` if the dtype is unknown, if there are more than 64 dimensions, or if the tensor has 2^64 bytes or
/// more.
pub fn tensor_bytes(dtype: &str, shape: &[u64]) -> Result<u64> {
    let (size, _) = parse_dtype(dtype)?;
    if shape.len() > MAX_RANK {
        return Err(Error::invalid(format!(
            "a tensor has {} dimensions; at most {MAX_RANK} are supported",
            shape.len()
        )));
    }
    if shape.contains(&0) {
        return Ok(0);
    }
    shape
        .iter()
        .try_fold(size as u64, |product, &n| product.checked_mul(n))
        .ok_or_else(|| Error::invalid(format!("shape {shape:?} of dtype {dtype} has 2^64 bytes or more")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_dtypes() {
        for (name, size) in [("<f4", 4), ("|b1", 1), ("bfloat16", 2), ("<c16", 16), ("|V3", 3), (">i8", 8), ("<U2", 8)]
        {
            assert_eq!(parse_dtype(name).unwrap().0, size, "{name}");
        }
        for name in ["", "f4", "<f3", "<f04", "<f", "<é4", "|V0", "|V99999999999999999999"] {
            assert!(parse_dtype(name).is_err(), "{name}");
        }
    }

    #[test]
    fn bytes_of_shapes() {
        assert_eq!(tensor_bytes("<f4", &[]).unwrap(), 4);
        assert_eq!(tensor_bytes("<f4", &[3, 0, u64::MAX]).unwrap(), 0);
        assert!(tensor_bytes("<f4", &[u64::MAX, 2]).is_err());
        assert!(tensor_bytes("<f4", &[1; 65]).is_err());
    }
}
