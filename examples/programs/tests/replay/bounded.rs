//! Running error analysis: a real number together with a bound on how far an f32 computation of it can be off.
//!
//! Every operation rounds once to f32. By the standard model its result is off by at most u·|result| (u = 2⁻²⁴) or, where
//! it is subnormal, by half the smallest f32; on top of that comes what the operands' errors become in it. So a tolerance
//! is not chosen: it is what the arithmetic of the step amounts to for these very inputs.

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Bounded {
    pub(crate) value: f64,
    pub(crate) error: f64,
}

/// Half the distance between 1 and the next f32.
pub(crate) const U: f64 = 1.0 / (1 << 24) as f64;
/// Half the smallest positive f32, 2⁻¹⁴⁹.
const UNDERFLOW: f64 = f32::from_bits(1) as f64 / 2.0;

pub(crate) const ZERO: Bounded = Bounded { value: 0.0, error: 0.0 };

impl Bounded {
    /// A number that f32 holds, or one that is computed in f64.
    pub(crate) fn exact(value: f64) -> Self {
        Self { value, error: 0.0 }
    }

    /// A scalar that is known in f64 and rounded once.
    pub(crate) fn constant(value: f64) -> Self {
        Self { value, error: (f64::from(value as f32) - value).abs() }
    }

    /// Computed in f64 from bounded operands.
    pub(crate) fn wide(value: f64, error: f64) -> Self {
        Self { value, error }
    }

    /// The result of one operation in f32, whose operands alone make it this much wrong.
    pub(crate) fn rounded(value: f64, error: f64) -> Self {
        if value == 0.0 && error == 0.0 {
            return ZERO; // exact zeros come from zeros
        }
        Self { value, error: error + U * (value.abs() + error) + UNDERFLOW }
    }

    fn product_error(self, other: Self) -> f64 {
        self.value.abs() * other.error + other.value.abs() * self.error + self.error * other.error
    }

    pub(crate) fn mul(self, other: Self) -> Self {
        Self::rounded(self.value * other.value, self.product_error(other))
    }

    pub(crate) fn add(self, other: Self) -> Self {
        Self::rounded(self.value + other.value, self.error + other.error)
    }

    /// self · factor + addend, rounded once.
    pub(crate) fn mul_add(self, factor: Self, addend: Self) -> Self {
        Self::rounded(self.value * factor.value + addend.value, self.product_error(factor) + addend.error)
    }

    /// 0 where the divisor is 0.
    pub(crate) fn div_or_zero(self, divisor: Self) -> Self {
        if divisor == ZERO {
            return ZERO;
        }
        let value = self.value / divisor.value;
        let room = divisor.value.abs() - divisor.error;
        assert!(room > 0.0, "a divisor of which nothing is certain: {divisor:?}");
        Self::rounded(value, (self.error + value.abs() * divisor.error) / room)
    }

    /// √ in f64: |√x − √y| = |x − y| / (√x + √y).
    pub(crate) fn sqrt_wide(self) -> Self {
        let value = self.value.sqrt();
        if self.error == 0.0 {
            return Self::exact(value);
        }
        Self::wide(value, self.error / (value + (self.value - self.error).max(0.0).sqrt()))
    }

    pub(crate) fn sqrt(self) -> Self {
        let wide = self.sqrt_wide();
        Self::rounded(wide.value, wide.error)
    }

    /// x^ρ by a function that is right to one unit in the last place (2u); ρ itself is exact in f32.
    pub(crate) fn pow(self, exponent: f64) -> Self {
        assert_eq!(exponent, f64::from(exponent as f32));
        if self == ZERO {
            return ZERO;
        }
        let power = |x: f64| x.max(0.0).powf(exponent);
        let (value, low, high) =
            (power(self.value), power(self.value - self.error), power(self.value + self.error));
        let wide = Self::rounded(value, (high - value).max(value - low));
        Self { error: wide.error + U * wide.value, ..wide }
    }

    /// The smaller one: off by at most the larger error where either may be it.
    pub(crate) fn min(self, other: Self) -> Self {
        let (low, high) = if other.value < self.value { (other, self) } else { (self, other) };
        let either = high.value - low.value <= low.error + high.error;
        Self { value: low.value, error: if either { low.error.max(high.error) } else { low.error } }
    }

    pub(crate) fn max(self, other: Self) -> Self {
        let negative = |x: Self| Self { value: -x.value, ..x };
        negative(negative(self).min(negative(other)))
    }

    /// Rounded to f32 from f64.
    pub(crate) fn narrow(self) -> Self {
        Self { error: self.error * (1.0 + U) + Self::constant(self.value).error, ..self }
    }

    /// old ← β·old + (1−β)·new as the step computes it: `about` is the value that the difference is added to, which is
    /// the old one with the weight 1−β, or for β < ½ the new one with the weight β. Two roundings, of the difference
    /// and of the result; the weight is rounded too.
    pub(crate) fn mix(old: Self, new: Self, beta: f64, about_new: bool) -> Self {
        let (about, other, weight) = if about_new { (new, old, beta) } else { (old, new, 1.0 - beta) };
        let difference = (other.value - about.value).abs();
        let inner =
            if difference == 0.0 { 0.0 } else { U * (difference + other.error + about.error) + UNDERFLOW };
        let error = (1.0 - weight) * about.error
            + weight * (other.error + inner)
            + Self::constant(weight).error * (difference + other.error + about.error + inner);
        Self::rounded(about.value + weight * (other.value - about.value), error)
    }

    /// Σx² over one tensor: in every chunk of 4096 elements lane j of 128 takes elements j, j+128, … by one rounding
    /// each, and a tree folds the lanes; the chunks are added in f64.
    pub(crate) fn sum_of_squares(tensor: &[Self]) -> Self {
        const CHUNK: usize = 4096;
        const LANES: usize = 128;
        let mut sum = ZERO;
        for chunk in tensor.chunks(CHUNK) {
            let value: f64 = chunk.iter().map(|x| x.value * x.value).sum();
            let inherited: f64 = chunk.iter().map(|x| (2.0 * x.value.abs() + x.error) * x.error).sum();
            let folds = chunk.len().min(LANES).next_power_of_two().ilog2();
            let roundings = (chunk.len().div_ceil(LANES) + folds as usize) as f64;
            let nonzero = chunk.iter().filter(|x| **x != ZERO).count() as f64;
            sum.value += value;
            // (1 + u)^k ≤ 1 + 1.01·k·u for these k
            sum.error += inherited + 1.01 * roundings * U * (value + inherited) + nonzero * UNDERFLOW;
        }
        sum
    }
}
