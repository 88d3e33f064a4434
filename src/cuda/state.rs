//! What a file of state asks of a GPU. Each copy is waited for, and ordered with the steps by their stream.

use super::buffer::{Buffer, refuse_capture};
use super::{Cuda, driver_error};
use crate::Error;
use crate::args::{Control, Progress, Record};
use crate::state::{Counters, Slot, Stored};

impl Cuda {
    fn buffer(&self, index: usize, slot: Slot) -> Option<&Buffer> {
        let parameter = &self.parameters[index];
        match slot {
            Slot::ExpAvg => Some(&parameter.exp_avg),
            Slot::ExpAvgSq => Some(&parameter.exp_avg_sq),
            Slot::MaxExpAvgSq => parameter.max_exp_avg_sq.as_ref(),
        }
    }

    pub(crate) fn slot(&self, index: usize, slot: Slot) -> Option<Stored> {
        self.buffer(index, slot).map(|_| Stored::F32)
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

    pub(crate) fn counters(&mut self) -> Result<Counters, Error> {
        let Control { step, skipped_steps, .. } = self.control()?;
        Ok(Counters { step, skipped_steps })
    }

    /// Also what the host has of the control block: an older copy would tell of steps that are no more.
    pub(crate) fn set_counters(&mut self, Counters { step, skipped_steps }: Counters) -> Result<(), Error> {
        refuse_capture(&self.stream)?;
        let control = self.tables.control();
        control.upload_at(0, &[Control { step, skipped_steps, ..Control::default() }])?;
        for mirror in [&mut self.mirror, &mut self.alarm] {
            mirror.copy_from(control).map_err(driver_error("copying the report"))?;
        }
        (self.loaded, self.reported) = (step, 0);
        Ok(())
    }
}
