//! Tensors: what the engine has to know of a dtype.

use crate::error::{Error, Result};

/// The most dimensions that a tensor may have (numpy's limit).
pub(crate) const MAX_RANK: usize = 64;

/// How the bytes of one element hang together; the codecs use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// IEEE-like float, little-endian.
    Float,
    /// Integer, bool, or a part of a complex number.
    Integer,
    /// Opaque bytes.
    Bytes,
}

/// The element of a chunk: `width` bytes of `class`. What a codec is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Element {
    /// Bytes of one word: 1, 2, 4 or 8.
    pub width: usize,
    /// What a word is.
    pub class: Class,
}

impl Element {
    /// Bytes of which nothing is known.
    pub const OPAQUE: Self = Self { width: 1, class: Class::Bytes };
}

/// Element size in bytes of a dtype name of the format (docs/format.md §5.1), and its [`Element`] for the codecs.
///
/// # Errors
/// `InvalidInput` for a name that the format does not have.
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

/// Bytes of a tensor of this dtype and shape.
///
/// # Errors
/// `InvalidInput` where the dtype is unknown, the rank too high or the product does not fit.
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
        .ok_or_else(|| Error::invalid(format!("shape {shape:?} of dtype {dtype} has more bytes than 2^64")))
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
