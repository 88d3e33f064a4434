//! No tensor that is written may share memory with another one. Addresses, lengths and names; no tensor is touched.

use crate::allocation::with_capacity;
use crate::error::Error;
use crate::job::PAIRS;
use crate::tensor::{Dtype, Location, Tensor, TensorMut};

/// A stretch of memory that a step touches, for the alias check.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) parameter: usize,
    pub(crate) written: bool,
}

/// A span that is written, and another one that overlaps it.
pub(crate) fn find_alias(spans: &mut [Span]) -> Option<(Span, Span)> {
    spans.sort_unstable_by_key(|span| span.start);
    // The span that reaches furthest so far, among all and among the written ones.
    let (mut any, mut written): (Option<Span>, Option<Span>) = (None, None);
    for &span in &*spans {
        let before = if span.written { any } else { written };
        if let Some(before) = before.filter(|before| before.end > span.start) {
            return Some(if span.written { (span, before) } else { (before, span) });
        }
        let further = |best: Option<Span>| best.is_none_or(|best| span.end > best.end);
        if further(any) {
            any = Some(span);
        }
        if span.written && further(written) {
            written = Some(span);
        }
    }
    None
}

pub(crate) fn check_places(pairs: &[(TensorMut<'_>, Tensor<'_>)], here: Location) -> Result<(), Error> {
    for (index, (sum, gradient)) in pairs.iter().enumerate() {
        sum.place.check(here, &pair_name(index))?;
        gradient.place.check(here, &pair_name(index))?;
    }
    Ok(())
}

/// A pair by its addresses, on whichever device.
pub(crate) struct Pair {
    pub(crate) sum: usize,
    pub(crate) gradient: usize,
    pub(crate) len: usize,
    pub(crate) gradient_dtype: Dtype,
}

/// No sum may share memory with another tensor; gradients may with each other.
pub(crate) fn refuse_pairs(pairs: &[Pair]) -> Result<(), Error> {
    let mut spans = with_capacity(2 * pairs.len(), PAIRS)?;
    for (index, pair) in pairs.iter().enumerate().filter(|(_, pair)| pair.len > 0) {
        let span = |start: usize, dtype: Dtype, written| Span {
            start,
            end: start + pair.len * dtype.size(),
            parameter: index,
            written,
        };
        spans.push(span(pair.sum, Dtype::F32, true));
        spans.push(span(pair.gradient, pair.gradient_dtype, false));
    }
    let Some((victim, other)) = find_alias(&mut spans) else { return Ok(()) };
    let role = if other.written { "the sum" } else { "the gradient" };
    Err(Error::Aliased {
        name: pair_name(victim.parameter),
        other: format!("{role} of {}", pair_name(other.parameter)),
    })
}

/// These tensors have no names; errors call them by their place.
pub(crate) fn pair_name(index: usize) -> String {
    format!("pair {index}")
}

/// θ, at these addresses, may share no memory with its gradient and its Fisher diagonal.
pub(crate) fn refuse_theta(
    parameter: usize,
    gradient: usize,
    fisher: usize,
    like: &Tensor<'_>,
) -> Result<(), Error> {
    let f32s = like.len * Dtype::F32.size();
    let sides =
        [(gradient, like.len * like.dtype.size(), "its gradient"), (fisher, f32s, "its Fisher diagonal")];
    for (at, bytes, role) in sides {
        if parameter < at + bytes && at < parameter + f32s {
            return Err(Error::Aliased { name: NAME.into(), other: role.into() });
        }
    }
    Ok(())
}

/// These functions know no names; errors call their parameter θ.
pub(crate) const NAME: &str = "θ";
