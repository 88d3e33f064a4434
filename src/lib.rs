//! Fused optimizer steps.
