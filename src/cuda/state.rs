//! What a file of state asks of a GPU. Each copy is waited for, and ordered with the steps by their stream.

use super::buffer::Buffer;
use super::optimizer::Cuda;
use crate::args::{Progress, Record};
use crate::slot::{Slot, Stored};
use crate::{Error, Master};

impl Cuda {
    fn buffer(&self, index: usize, slot: Slot) -> Option<&Buffer> {
        let parameter = &self.parameters[index];
        match slot {
            Slot::ExpAvg => Some(&parameter.exp_avg),
            Slot::ExpAvgSq => Some(&parameter.exp_avg_sq),
            Slot::MaxExpAvgSq => parameter.max_exp_avg_sq.as_ref(),
            Slot::Master => parameter.master.as_ref().filter(|_| self.storage.master == Master::F32),
            Slot::Remainder => parameter.master.as_ref().filter(|_| self.storage.master == Master::Remainder),
            Slot::Ema => parameter.ema.as_ref(),
        }
    }

    pub(crate) fn slot(&self, index: usize, slot: Slot) -> Option<Stored> {
        self.buffer(index, slot).map(|_| Stored::of(slot, self.storage.moments))
    }

    pub(crate) fn read_slot(
        &self,
        index: usize,
        slot: Slot,
        offset: usize,
        into: &mut [u8],
    ) -> Result<(), Error> {
        self.buffer(index, slot).map_or(Ok(()), |buffer| buffer.download_at(offset, into))
    }

    pub(crate) fn write_slot(
        &self,
        index: usize,
        slot: Slot,
        offset: usize,
        from: &[u8],
    ) -> Result<(), Error> {
        self.buffer(index, slot).map_or(Ok(()), |buffer| buffer.upload_at(offset, from))
    }

    /// A record is all zeros before the first step.
    pub(crate) fn progress(&self, index: usize) -> Result<Progress, Error> {
        let Record { progress, .. } = self.record(index)?;
        Ok(if progress.step == 0 { Progress::START } else { progress })
    }

    pub(crate) fn set_progress(&self, index: usize, progress: Progress) -> Result<(), Error> {
        self.parameters[index].record.upload_at(0, &[Record { progress, ..Record::default() }])
    }
}
