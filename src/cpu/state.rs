//! What a file of state asks of the CPU's memory.

use super::memory::Buffer;
use super::{Cpu, Parameter};
use crate::Report;
use crate::args::Progress;
use crate::state::{Counters, Slot, Stored};

impl Parameter {
    fn slot(&mut self, slot: Slot) -> Option<&mut Buffer> {
        match slot {
            Slot::ExpAvg => Some(&mut self.exp_avg),
            Slot::ExpAvgSq => Some(&mut self.exp_avg_sq),
            Slot::MaxExpAvgSq => self.max_exp_avg_sq.as_mut(),
        }
    }
}

impl Cpu {
    pub(crate) fn slot(&self, index: usize, slot: Slot) -> Option<Stored> {
        let kept = match slot {
            Slot::ExpAvg | Slot::ExpAvgSq => true,
            Slot::MaxExpAvgSq => self.parameters[index].max_exp_avg_sq.is_some(),
        };
        kept.then_some(Stored::F32)
    }

    pub(crate) fn read_slot(&mut self, index: usize, slot: Slot, offset: usize, into: &mut [u8]) {
        if let Some(buffer) = self.parameters[index].slot(slot) {
            into.copy_from_slice(&buffer.as_bytes_mut()[offset..][..into.len()]);
        }
    }

    pub(crate) fn write_slot(&mut self, index: usize, slot: Slot, offset: usize, from: &[u8]) {
        if let Some(buffer) = self.parameters[index].slot(slot) {
            buffer.as_bytes_mut()[offset..][..from.len()].copy_from_slice(from);
        }
    }

    pub(crate) fn progress(&self, index: usize) -> Progress {
        self.parameters[index].progress
    }

    pub(crate) fn set_progress(&mut self, index: usize, progress: Progress) {
        let parameter = &mut self.parameters[index];
        (parameter.progress, parameter.norms) = (progress, None);
    }

    pub(crate) fn counters(&self) -> Counters {
        Counters { step: self.report.step, skipped_steps: self.report.skipped_steps }
    }

    pub(crate) fn set_counters(&mut self, Counters { step, skipped_steps }: Counters) {
        self.report = Report { step, skipped_steps, ..Report::default() };
    }
}
