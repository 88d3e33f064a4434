//! What a file of state asks of the CPU's memory.

use super::memory::Buffer;
use super::optimizer::{Cpu, Parameter};
use crate::Master;
use crate::args::Progress;
use crate::slot::{Slot, Stored};

impl Parameter {
    fn slot(&mut self, slot: Slot) -> Option<&mut Buffer> {
        match slot {
            Slot::ExpAvg => Some(&mut self.exp_avg),
            Slot::ExpAvgSq => Some(&mut self.exp_avg_sq),
            Slot::MaxExpAvgSq => self.max_exp_avg_sq.as_mut(),
            Slot::Master | Slot::Remainder => self.master.as_mut(),
            Slot::Ema => self.ema.as_mut(),
        }
    }
}

impl Cpu {
    pub(crate) fn slot(&self, index: usize, slot: Slot) -> Option<Stored> {
        let parameter = &self.parameters[index];
        let master = |kind| parameter.master.is_some() && self.storage.master == kind;
        let kept = match slot {
            Slot::ExpAvg | Slot::ExpAvgSq => true,
            Slot::MaxExpAvgSq => parameter.max_exp_avg_sq.is_some(),
            Slot::Master => master(Master::F32),
            Slot::Remainder => master(Master::Remainder),
            Slot::Ema => parameter.ema.is_some(),
        };
        kept.then(|| Stored::of(slot, self.storage.moments))
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
}
