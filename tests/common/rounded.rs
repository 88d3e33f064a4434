//! Running error analysis (Higham, "Accuracy and Stability of Numerical Algorithms", §3.3): a number carries how far an
//! f32 computation of it may be off. The tolerances of the oracle tests are computed with it, step by step as the
//! kernels are numbered; none is tuned.

/// Half the distance from 1 to the next f32, widened by 0.1 % for the terms of second order and the f64 arithmetic here.
const UNIT: f64 = 1.001 / (1 << 24) as f64;
/// Half the smallest subnormal f32: what rounding may lose where the relative bound says nothing.
const TINY: f64 = f32::MIN_POSITIVE as f64 / (1_u64 << 24) as f64;
/// Roundings that a square may pass on its way through a chunk: 4096/128 fused additions in its lane, 7 folds.
const SUM_DEPTH: f64 = 32.0 + 7.0;

/// A value in exact arithmetic, and a bound on the error of its f32 counterpart: ∞ where nothing can be said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rounded {
    pub(crate) value: f64,
    pub(crate) error: f64,
}

impl Rounded {
    pub(crate) fn exact(value: f64) -> Self {
        Self { value, error: 0.0 }
    }

    /// A scalar that is computed in f64 and rounded to f32 once.
    pub(crate) fn scalar(value: f64) -> Self {
        Self::exact(value).round()
    }

    /// A value that is known to be within `error` of the truth.
    pub(crate) fn within(value: f64, error: f64) -> Self {
        // ∞ · 0 and ∞ − ∞: unknown.
        let known = error.is_finite() && value.abs() + error < f64::from(f32::MAX);
        Self { value, error: if known { error } else { f64::INFINITY } }
    }

    /// One rounding. Zero is exact.
    pub(crate) fn round(self) -> Self {
        let Self { value, error } = self;
        if value == 0.0 && error == 0.0 {
            return self;
        }
        Self::within(value, error + UNIT * (value.abs() + error) + TINY)
    }

    /// A function that is monotonic between the ends of the interval.
    pub(crate) fn map(self, f: impl Fn(f64) -> f64) -> Self {
        let value = f(self.value);
        let [low, high] =
            [self.value - self.error, self.value + self.error].map(|end| (f(end) - value).abs());
        Self::within(value, if self.error == f64::INFINITY { self.error } else { low.max(high) })
    }

    pub(crate) fn neg(self) -> Self {
        Self { value: -self.value, ..self }
    }

    pub(crate) fn add(self, b: Self) -> Self {
        Self::within(self.value + b.value, self.error + b.error).round()
    }

    pub(crate) fn sub(self, b: Self) -> Self {
        self.add(b.neg())
    }

    fn product(self, b: Self) -> Self {
        let error = self.value.abs() * b.error + b.value.abs() * self.error + self.error * b.error;
        let zero = |x: Self| x.value == 0.0 && x.error == 0.0;
        if zero(self) || zero(b) { Self::exact(0.0) } else { Self::within(self.value * b.value, error) }
    }

    pub(crate) fn mul(self, b: Self) -> Self {
        self.product(b).round()
    }

    /// self · a + b, rounded once, and not at all where the product is 0.
    pub(crate) fn mul_add(self, a: Self, b: Self) -> Self {
        let product = self.product(a);
        if product.value == 0.0 && product.error == 0.0 {
            return b;
        }
        Self::within(product.value + b.value, product.error + b.error).round()
    }

    /// self / d, 0 where d is 0, unknown where d may be 0: |a/d − a'/d'| ≤ (|a−a'| + |a/d| |d−d'|) / |d'|.
    pub(crate) fn div_or_zero(self, d: Self) -> Self {
        if d.value == 0.0 && d.error == 0.0 {
            return d;
        }
        if d.value <= d.error {
            return Self { value: 0.0, error: f64::INFINITY };
        }
        let value = self.value / d.value;
        Self::within(value, (self.error + value.abs() * d.error) / (d.value - d.error)).round()
    }

    pub(crate) fn sqrt(self) -> Self {
        self.map(|x| x.max(0.0).sqrt()).round()
    }

    /// self^ρ with ρ rounded to f32, by a function that is right to one unit in the last place: 2 roundings.
    pub(crate) fn pow(self, rho: f64) -> Self {
        if self.value == 0.0 && self.error == 0.0 {
            return self;
        }
        let power = self.map(|x| x.max(0.0).powf(rho));
        // x^(ρ(1+δ)) = x^ρ (1 + ρ δ ln x); below the smallest subnormal x is 0 and the interval holds it already.
        let exponent = rho * UNIT * self.value.max(2.0 * TINY).ln().abs();
        Self::within(power.value, power.error + (power.value + power.error) * exponent).round().round()
    }

    pub(crate) fn min(self, b: Self) -> Self {
        Self::within(self.value.min(b.value), self.error.max(b.error))
    }

    pub(crate) fn max(self, b: Self) -> Self {
        Self::within(self.value.max(b.value), self.error.max(b.error))
    }
}

/// ‖x‖₂ with the squares summed in f32: by the triangle inequality within ‖errors‖₂, and half the relative error of the
/// sum. A square that underflows loses at most 2 TINY, and |√a − √b| ≤ √|a − b|.
pub(crate) fn norm<'a>(xs: impl IntoIterator<Item = &'a Rounded>) -> Rounded {
    let (mut sum, mut errors, mut lost) = (0.0, 0.0, 0.0);
    for x in xs {
        if x.value != 0.0 || x.error != 0.0 {
            sum += x.value * x.value;
            errors += x.error * x.error;
            lost += 2.0 * SUM_DEPTH * TINY;
        }
    }
    let (norm, errors): (f64, f64) = (f64::sqrt(sum), f64::sqrt(errors));
    let lost = if norm > 0.0 { f64::sqrt(lost).min(lost / norm) } else { f64::sqrt(lost) };
    // A partial sum may overflow where the whole one nearly does.
    let fits = sum < 0.9 * f64::from(f32::MAX);
    Rounded::within(
        norm,
        if fits { errors + 0.5 * SUM_DEPTH * UNIT * (norm + errors) + lost } else { f64::INFINITY },
    )
}
