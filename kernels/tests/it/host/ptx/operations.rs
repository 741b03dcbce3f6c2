//! What instructions compute (PTX ISA 8.8, chapter 9.7): functions of up to three operands.
//!
//! Operands and results are the bits of a value in the low end of a register, with zeros above.

use livediffusion_kernels::f16;

/// Of three operands; instructions with fewer pass zeros.
pub(super) type Compute = fn(u64, u64, u64) -> u64;

/// A type of values in registers. `b32` is `u32` here, as it is for all that computes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Predicate,
    U8,
    U16,
    U32,
    U64,
    S16,
    S32,
    S64,
    F16,
    F32,
    F64,
}

impl Type {
    pub(super) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "pred" => Self::Predicate,
            "u8" | "b8" => Self::U8,
            "u16" | "b16" => Self::U16,
            "u32" | "b32" => Self::U32,
            "u64" | "b64" => Self::U64,
            "s16" => Self::S16,
            "s32" => Self::S32,
            "s64" => Self::S64,
            "f16" => Self::F16,
            "f32" => Self::F32,
            "f64" => Self::F64,
            _ => return None,
        })
    }

    /// Bytes in memory.
    pub(super) const fn size(self) -> usize {
        match self {
            Self::Predicate | Self::U8 => 1,
            Self::U16 | Self::S16 | Self::F16 => 2,
            Self::U32 | Self::S32 | Self::F32 => 4,
            Self::U64 | Self::S64 | Self::F64 => 8,
        }
    }
}

/// A value as the bits of a register.
trait Bits: Copy {
    fn of(bits: u64) -> Self;
    fn bits(self) -> u64;
}

macro_rules! integers {
    ($($type:ty as $unsigned:ty),*) => {$(
        impl Bits for $type {
            fn of(bits: u64) -> Self {
                bits as $type
            }
            fn bits(self) -> u64 {
                u64::from(self as $unsigned)
            }
        }
    )*};
}
integers!(u8 as u8, u16 as u16, u32 as u32, u64 as u64, i16 as u16, i32 as u32, i64 as u64);

macro_rules! floats {
    ($($type:ty as $unsigned:ty),*) => {$(
        impl Bits for $type {
            fn of(bits: u64) -> Self {
                Self::from_bits(bits as $unsigned)
            }
            fn bits(self) -> u64 {
                u64::from(self.to_bits())
            }
        }
    )*};
}
floats!(f16 as u16, f32 as u32, f64 as u64);

impl Bits for bool {
    fn of(bits: u64) -> Self {
        bits != 0
    }
    fn bits(self) -> u64 {
        u64::from(self)
    }
}

/// One expression for each of several types: a function for the type that is asked for.
macro_rules! of_type {
    ($asked:expr, [$($name:ident: $type:ty),*], |$a:ident, $b:ident, $c:ident| $result:expr) => {
        match $asked {
            $(Type::$name => {
                #[allow(unused_variables, reason = "not every instruction takes three")]
                fn compute(a: u64, b: u64, c: u64) -> u64 {
                    let ($a, $b, $c) = (<$type>::of(a), <$type>::of(b), <$type>::of(c));
                    Bits::bits($result)
                }
                Some(compute as Compute)
            })*
            _ => None,
        }
    };
}

macro_rules! of_integers {
    ($asked:expr, $($function:tt)*) => {
        of_type!($asked, [U16: u16, U32: u32, U64: u64, S16: i16, S32: i32, S64: i64], $($function)*)
    };
}

macro_rules! of_floats {
    ($asked:expr, $($function:tt)*) => { of_type!($asked, [F32: f32, F64: f64], $($function)*) };
}

macro_rules! of_bits {
    ($asked:expr, $($function:tt)*) => {
        of_type!($asked, [Predicate: bool, U16: u16, U32: u32, U64: u64, S16: i16, S32: i32, S64: i64], $($function)*)
    };
}

/// What an instruction computes, by its whole name (`add.rn.f32`); `None` for one that is not known here.
pub(super) fn operation(name: &str) -> Option<Compute> {
    let parts: Vec<&str> = name.split('.').collect();
    let (&base, rest) = parts.split_first()?;
    let (&last, how) = rest.split_last()?;
    let of = Type::parse(last)?;
    match (base, how) {
        ("mov", []) | ("cvta", ["to", "global"]) => Some(|a, _, _| a),
        ("selp", []) => Some(|a, b, c| if c != 0 { a } else { b }),
        ("setp", [comparison]) => compare(comparison, of),
        ("cvt", [how @ .., to]) => convert(how, Type::parse(to)?, of),
        ("and", []) => of_bits!(of, |a, b, c| a & b),
        ("or", []) => of_bits!(of, |a, b, c| a | b),
        ("xor", []) => of_bits!(of, |a, b, c| a ^ b),
        ("not", []) => of_bits!(of, |a, b, c| !a),
        ("shl" | "shr", []) => shift(base == "shl", of),
        ("mul", ["wide"]) => match of {
            Type::U32 => Some(|a, b, _| a * b),
            Type::S32 => Some(|a, b, _| (i64::from(a as i32) * i64::from(b as i32)) as u64),
            _ => None,
        },
        ("mul", ["lo"]) => of_integers!(of, |a, b, c| a.wrapping_mul(b)),
        ("mad", ["lo"]) => of_integers!(of, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        // What a division by zero gives is not said; the kernels must not depend on it.
        ("div", []) => of_integers!(of, |a, b, c| a.checked_div(b).unwrap_or(!0)),
        ("rem", []) => of_integers!(of, |a, b, c| a.checked_rem(b).unwrap_or(!0)),
        ("add", []) => of_integers!(of, |a, b, c| a.wrapping_add(b)),
        ("sub", []) => of_integers!(of, |a, b, c| a.wrapping_sub(b)),
        ("min" | "max", []) => extreme(base == "min", of),
        ("neg", []) => of_type!(of, [S16: i16, S32: i32, S64: i64], |a, b, c| a.wrapping_neg())
            .or_else(|| of_floats!(of, |a, b, c| -a)),
        ("add", ["rn"]) => of_floats!(of, |a, b, c| a + b),
        ("sub", ["rn"]) => of_floats!(of, |a, b, c| a - b),
        ("mul", ["rn"]) => of_floats!(of, |a, b, c| a * b),
        ("div", ["rn"]) => of_floats!(of, |a, b, c| a / b),
        ("rcp", ["rn"]) => of_floats!(of, |a, b, c| 1.0 / a),
        ("fma", ["rn"]) => of_floats!(of, |a, b, c| a.mul_add(b, c)),
        ("fma", ["rm"]) => of_type!(of, [F32: f32], |a, b, c| multiply_add_down(a, b, c)),
        // A card is off by up to 2^-22 of the result here, this only by rounding.
        ("ex2", ["approx", "ftz"]) => of_type!(of, [F32: f32], |a, b, c| flushed(f64::from(flushed(a)).exp2() as f32)),
        _ => None,
    }
}

fn compare(comparison: &str, of: Type) -> Option<Compute> {
    macro_rules! compared {
        ($ordered:expr) => {
            of_integers!(of, |a, b, c| $ordered(a, b)).or_else(|| of_floats!(of, |a, b, c| $ordered(a, b)))
        };
    }
    macro_rules! or_unordered {
        ($ordered:expr) => {
            of_floats!(of, |a, b, c| a.is_nan() || b.is_nan() || $ordered(a, b))
        };
    }
    match comparison {
        "eq" => compared!(|a, b| a == b),
        // Of floats, not if one is NaN.
        "ne" => of_integers!(of, |a, b, c| a != b)
            .or_else(|| of_floats!(of, |a, b, c| !(a.is_nan() || b.is_nan() || a == b))),
        "lt" => compared!(|a, b| a < b),
        "le" => compared!(|a, b| a <= b),
        "gt" => compared!(|a, b| a > b),
        "ge" => compared!(|a, b| a >= b),
        "equ" => or_unordered!(|a, b| a == b),
        "neu" => of_floats!(of, |a, b, c| a != b),
        "ltu" => or_unordered!(|a, b| a < b),
        "leu" => or_unordered!(|a, b| a <= b),
        "gtu" => or_unordered!(|a, b| a > b),
        "geu" => or_unordered!(|a, b| a >= b),
        "num" => of_floats!(of, |a, b, c| !a.is_nan() && !b.is_nan()),
        "nan" => of_floats!(of, |a, b, c| a.is_nan() || b.is_nan()),
        _ => None,
    }
}

/// By more than the width it is all zeros, or all signs.
fn shift(left: bool, of: Type) -> Option<Compute> {
    fn by(amount: u64) -> u32 {
        amount as u32
    }
    match (left, of) {
        (true, Type::U16) => Some(|a, b, _| (a as u16).checked_shl(by(b)).unwrap_or(0).bits()),
        (true, Type::U32) => Some(|a, b, _| (a as u32).checked_shl(by(b)).unwrap_or(0).bits()),
        (true, Type::U64) => Some(|a, b, _| a.checked_shl(by(b)).unwrap_or(0)),
        (false, Type::U16) => Some(|a, b, _| (a as u16).checked_shr(by(b)).unwrap_or(0).bits()),
        (false, Type::U32) => Some(|a, b, _| (a as u32).checked_shr(by(b)).unwrap_or(0).bits()),
        (false, Type::U64) => Some(|a, b, _| a.checked_shr(by(b)).unwrap_or(0)),
        (false, Type::S16) => Some(|a, b, _| (a as i16 >> by(b).min(15)).bits()),
        (false, Type::S32) => Some(|a, b, _| (a as i32 >> by(b).min(31)).bits()),
        (false, Type::S64) => Some(|a, b, _| (a as i64 >> by(b).min(63)).bits()),
        _ => None,
    }
}

/// Of floats, the number where one is NaN, and -0 below 0.
fn extreme(min: bool, of: Type) -> Option<Compute> {
    macro_rules! picked {
        ($of_integers:ident, $is_it:ident) => {
            of_integers!(of, |a, b, c| a.$of_integers(b)).or_else(|| {
                of_floats!(of, |a, b, c| match (a.is_nan(), b.is_nan()) {
                    (true, _) => b,
                    (_, true) => a,
                    _ if a.total_cmp(&b).$is_it() => a,
                    _ => b,
                })
            })
        };
    }
    if min { picked!(min, is_le) } else { picked!(max, is_ge) }
}

fn convert(how: &[&str], to: Type, from: Type) -> Option<Compute> {
    // Floats to integers saturate, and NaN is 0: as Rust's `as`.
    macro_rules! float_to_integer {
        ($($name:ident: $type:ty),*) => {
            match (how, to) {
                $((["rzi"], Type::$name) => Some((|a, _, _| (f32::of(a).trunc() as $type).bits()) as Compute),
                (["rni"], Type::$name) => Some(|a, _, _| (f32::of(a).round_ties_even() as $type).bits()),
                (["rmi"], Type::$name) => Some(|a, _, _| (f32::of(a).floor() as $type).bits()),
                (["rpi"], Type::$name) => Some(|a, _, _| (f32::of(a).ceil() as $type).bits()),)*
                _ => None,
            }
        };
    }
    macro_rules! integer_to_float {
        ($($name:ident: $type:ty),*) => {
            match (how, to, from) {
                $((["rn"], Type::F32, Type::$name) => Some((|a, _, _| (<$type>::of(a) as f32).bits()) as Compute),
                (["rn"], Type::F64, Type::$name) => Some(|a, _, _| (<$type>::of(a) as f64).bits()),)*
                _ => None,
            }
        };
    }
    macro_rules! integer_to_integer {
        ($($from:ident: $wide:ty),*) => {
            match (from, to) {
                $((Type::$from, Type::U8) => Some((|a, _, _| (<$wide>::of(a) as u8).bits()) as Compute),
                (Type::$from, Type::U16 | Type::S16) => Some(|a, _, _| (<$wide>::of(a) as u16).bits()),
                (Type::$from, Type::U32 | Type::S32) => Some(|a, _, _| (<$wide>::of(a) as u32).bits()),
                (Type::$from, Type::U64 | Type::S64) => Some(|a, _, _| <$wide>::of(a) as u64),)*
                _ => None,
            }
        };
    }
    match (how, to, from) {
        ([], Type::F32, Type::F16) => Some(|a, _, _| f16::of(a).to_f32().bits()),
        (["rn"], Type::F16, Type::F32) => Some(|a, _, _| f16::from_f32(f32::of(a)).bits()),
        ([], Type::F64, Type::F32) => Some(|a, _, _| f64::from(f32::of(a)).bits()),
        (["rn"], Type::F32, Type::F64) => Some(|a, _, _| (f64::of(a) as f32).bits()),
        (["rpi"], Type::F32, Type::F32) => Some(|a, _, _| f32::of(a).ceil().bits()),
        (["rmi"], Type::F32, Type::F32) => Some(|a, _, _| f32::of(a).floor().bits()),
        (["rni"], Type::F32, Type::F32) => Some(|a, _, _| f32::of(a).round_ties_even().bits()),
        (["rzi"], Type::F32, Type::F32) => Some(|a, _, _| f32::of(a).trunc().bits()),
        // To [0, 1], and NaN to 0.
        (["sat"], Type::F32, Type::F32) => Some(|a, _, _| flat(f32::of(a)).bits()),
        (_, _, Type::F32) => float_to_integer!(U16: u16, U32: u32, U64: u64, S16: i16, S32: i32, S64: i64),
        ([], _, _) => integer_to_integer!(U8: u8, U16: u16, U32: u32, U64: u64, S16: i16, S32: i32, S64: i64),
        _ => integer_to_float!(U8: u8, U16: u16, U32: u32, U64: u64, S16: i16, S32: i32, S64: i64),
    }
}

/// In [0, 1], of NaN 0.
fn flat(value: f32) -> f32 {
    if value.is_nan() { 0.0 } else { value.clamp(0.0, 1.0) }
}

/// Numbers too small for a normal f32 are zeros.
fn flushed(value: f32) -> f32 {
    if value.is_subnormal() { 0.0_f32.copysign(value) } else { value }
}

/// a · b + c rounded towards minus infinity.
fn multiply_add_down(a: f32, b: f32, c: f32) -> f32 {
    // The product of two f32 is exact in f64; of the sum, `error` is what f64 has no room for (Knuth's TwoSum).
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    let back = sum - product;
    let error = (product - (sum - back)) + (c - back);
    let near = sum as f32;
    let is_above = f64::from(near) > sum || (f64::from(near) == sum && error < 0.0);
    if is_above { near.next_down() } else { near }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f(name: &str, a: f32, b: f32, c: f32) -> f32 {
        f32::of(operation(name).unwrap()(a.bits(), b.bits(), c.bits()))
    }

    #[test]
    fn numbers_come_out_as_the_manual_says() {
        assert_eq!(f("max.f32", f32::NAN, 0.0, 0.0).to_bits(), 0);
        assert_eq!(f("max.f32", -0.0, 0.0, 0.0).to_bits(), 0);
        assert_eq!(f("min.f32", 0.0, -0.0, 0.0), -0.0);
        // One ulp of 1 below: what is added is too little for any other rounding to show it.
        assert_eq!(f("fma.rm.f32", 1.0, 1.0, -1e-30), 1.0_f32.next_down());
        assert_eq!(f("fma.rn.f32", 1.0, 1.0, -1e-30), 1.0);
        assert_eq!(f("fma.rm.f32", 3.0, 0.1, 1.0), 1.3);
        let op = |name: &str, a: u64, b: u64| operation(name).unwrap()(a, b, 0);
        assert_eq!(op("cvt.rni.s32.f32", 2.5_f32.bits(), 0), 2);
        assert_eq!(op("cvt.rni.s32.f32", f32::NAN.bits(), 0), 0);
        assert_eq!(op("cvt.rzi.u32.f32", (-3.0_f32).bits(), 0), 0);
        assert_eq!(op("cvt.u64.u32", 0xffff_ffff, 0), 0xffff_ffff);
        assert_eq!(op("cvt.s64.s32", 0xffff_ffff, 0), u64::MAX);
        assert_eq!(op("add.s32", 0xffff_ffff, 2), 1);
        assert_eq!(op("shl.b32", 1, 32), 0);
        assert_eq!(op("setp.neu.f32", f32::NAN.bits(), f32::NAN.bits()), 1);
        assert_eq!(op("setp.lt.s32", 0xffff_ffff, 0), 1);
        assert_eq!(op("setp.lt.u32", 0xffff_ffff, 0), 0);
        assert!(operation("tanh.approx.f32").is_none());
    }
}
