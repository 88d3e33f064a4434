//! `setp`.

use super::{Entry, op};

/// How `setp` combines its comparison with a further predicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Combine {
    And,
    Or,
    Xor,
}

macro_rules! ordered {
    ($t:ty, $how:expr) => {
        Some(match $how {
            "eq" => op!(|a: $t, b: $t| -> bool { a == b }),
            "ne" => op!(|a: $t, b: $t| -> bool { a != b }),
            "lt" => op!(|a: $t, b: $t| -> bool { a < b }),
            "le" => op!(|a: $t, b: $t| -> bool { a <= b }),
            "gt" => op!(|a: $t, b: $t| -> bool { a > b }),
            "ge" => op!(|a: $t, b: $t| -> bool { a >= b }),
            _ => return None,
        })
    };
}

macro_rules! equality {
    ($t:ty, $how:expr) => {
        Some(match $how {
            "eq" => op!(|a: $t, b: $t| -> bool { a == b }),
            "ne" => op!(|a: $t, b: $t| -> bool { a != b }),
            _ => return None,
        })
    };
}

/// `ne` is false where either is NaN; the forms with `u` are true there.
macro_rules! float {
    ($t:ty, $how:expr) => {
        Some(match $how {
            "eq" => op!(|a: $t, b: $t| -> bool { a == b }),
            "ne" => op!(|a: $t, b: $t| -> bool { a < b || a > b }),
            "lt" => op!(|a: $t, b: $t| -> bool { a < b }),
            "le" => op!(|a: $t, b: $t| -> bool { a <= b }),
            "gt" => op!(|a: $t, b: $t| -> bool { a > b }),
            "ge" => op!(|a: $t, b: $t| -> bool { a >= b }),
            "equ" => op!(|a: $t, b: $t| -> bool { !(a < b || a > b) }),
            "neu" => op!(|a: $t, b: $t| -> bool { a != b }),
            "ltu" => op!(|a: $t, b: $t| -> bool { !(a >= b) }),
            "leu" => op!(|a: $t, b: $t| -> bool { !(a > b) }),
            "gtu" => op!(|a: $t, b: $t| -> bool { !(a <= b) }),
            "geu" => op!(|a: $t, b: $t| -> bool { !(a < b) }),
            "num" => op!(|a: $t, b: $t| -> bool { !a.is_nan() && !b.is_nan() }),
            "nan" => op!(|a: $t, b: $t| -> bool { a.is_nan() || b.is_nan() }),
            _ => return None,
        })
    };
}

/// The comparison `how` of two values of `kind`, both as PTX spells them.
#[allow(clippy::neg_cmp_op_on_partial_ord, clippy::double_comparisons)] // NaN
pub(crate) fn compare(how: &str, kind: &str) -> Option<Entry> {
    let unsigned = match how {
        "lo" => "lt",
        "ls" => "le",
        "hi" => "gt",
        "hs" => "ge",
        how => how,
    };
    match kind {
        "b16" => equality!(u16, how),
        "b32" => equality!(u32, how),
        "b64" => equality!(u64, how),
        "u16" => ordered!(u16, unsigned),
        "u32" => ordered!(u32, unsigned),
        "u64" => ordered!(u64, unsigned),
        "s16" => ordered!(i16, how),
        "s32" => ordered!(i32, how),
        "s64" => ordered!(i64, how),
        "f32" => float!(f32, how),
        "f64" => float!(f64, how),
        _ => None,
    }
}
