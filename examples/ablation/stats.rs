//! Means and how far they can be trusted.

/// The 0.975 quantile of Student's t-distribution, by degrees of freedom from 1 on.
const T_975: [f64; 10] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];

/// A mean and half the width of its 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Estimate {
    pub(crate) mean: f64,
    pub(crate) half_width: f64,
}

impl Estimate {
    /// Of independent values, by Student's t. None of fewer than two.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let count = values.len() as f64;
        let quantile = *T_975.get(values.len().checked_sub(2)?)?;
        let mean = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
        Some(Self { mean, half_width: quantile * (variance / count).sqrt() })
    }

    /// By how many per cent `values` lie above `base`, pair by pair. None where a run of either failed.
    pub(crate) fn change(values: &[Option<f64>], base: &[Option<f64>]) -> Option<Self> {
        let change = |(value, base): (&Option<f64>, &Option<f64>)| Some(100.0 * ((*value)? / (*base)? - 1.0));
        Self::of(&values.iter().zip(base).map(change).collect::<Option<Vec<f64>>>()?)
    }

    /// Whether 0 lies outside the interval.
    pub(crate) fn is_certain(&self) -> bool {
        self.mean.abs() > self.half_width
    }
}

#[cfg(test)]
mod tests {
    use super::Estimate;

    /// t(3) = 3.18245, times the standard deviation .42032 over √4.
    #[test]
    fn an_interval_is_students() {
        let found = Estimate::of(&[5.1, 4.9, 5.6, 5.8]).unwrap();
        assert!((found.mean - 5.35).abs() < 1e-12);
        assert!((found.half_width - 0.66882).abs() < 2e-4, "{found:?}");
        assert_eq!(Estimate::of(&[1.0]), None);
    }

    #[test]
    fn a_change_is_taken_pair_by_pair() {
        let base = [Some(1.0), Some(2.0), Some(4.0)];
        let found = Estimate::change(&base.map(|loss| loss.map(|loss: f64| loss * 1.01)), &base).unwrap();
        assert!((found.mean - 1.0).abs() < 1e-9 && found.half_width < 1e-9 && found.is_certain());
        assert_eq!(Estimate::change(&[None, Some(1.0), Some(1.0)], &base), None);
    }
}
