//! One step over candle's tensors: which storages it needs, and what lies in them when it has them.

use super::VARIABLES;
use super::lock::{self, Held, Wanted};
use crate::allocation::{collected, filled, with_capacity};
#[cfg(feature = "candle-cuda")]
use crate::cuda::{
    cudarc::driver::{CudaView, CudaViewMut, DeviceSlice},
    driver_error,
};
use crate::{Dtype, Error, ParameterId, Tensor, TensorMut, Update};
use candle_core::{CpuStorage, Layout, Storage};
#[cfg(feature = "candle-cuda")]
use candle_core::{CudaStorage, backend::BackendStorage};
use half::bf16;

/// One variable's part in a step.
pub(super) struct Part<'a> {
    pub(super) id: ParameterId,
    pub(super) name: &'a str,
    pub(super) dtype: Dtype,
    pub(super) variable: candle_core::Tensor,
    pub(super) gradient: candle_core::Tensor,
}

/// How often a step could not have all its tensors at once: see [`Optimizer::contention`](super::Optimizer::contention).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Contention {
    /// How often a step found a tensor in use by another thread, waited for it and tried again.
    pub retries: u64,
    /// How many steps worked on copies, since other threads kept using one tensor or another.
    pub copies: u64,
}

/// Calls `step` with every part's memory: in place, or on copies where other threads keep the tensors busy.
pub(super) fn step(
    parts: &[Part<'_>],
    contention: &mut Contention,
    step: &mut dyn FnMut(&mut [Update<'_>]) -> Result<(), Error>,
) -> Result<(), Error> {
    let (wanted, places) = storages(parts)?;
    if let Some(mut held) = lock::take_all(&wanted, &mut contention.retries)? {
        return in_place(parts, &places, &mut held, step);
    }
    contention.copies += 1;
    on_copies(parts, step)
}

/// The places in `wanted` of a part's two storages.
#[derive(Clone)]
struct Places {
    variable: usize,
    gradient: usize,
}

/// Each storage once, however many gradients lie in it.
fn storages<'a>(parts: &'a [Part<'_>]) -> Result<(Vec<Wanted<'a>>, Vec<Places>), Error> {
    struct Use {
        key: usize,
        gradient: bool,
        part: usize,
    }
    let locks = parts.iter().map(|part| (lock::of(&part.variable), lock::of(&part.gradient)));
    let locks = collected(locks, VARIABLES)?;
    let mut uses = with_capacity(2 * parts.len(), VARIABLES)?;
    for (part, (variable, gradient)) in locks.iter().enumerate() {
        uses.push(Use { key: lock::key(variable), gradient: false, part });
        uses.push(Use { key: lock::key(gradient), gradient: true, part });
    }
    uses.sort_unstable_by_key(|used| (used.key, used.gradient, used.part));
    let mut wanted = with_capacity(uses.len(), VARIABLES)?;
    let mut places = filled(Places { variable: 0, gradient: 0 }, parts.len(), VARIABLES)?;
    let mut before: Option<&Use> = None;
    for used in &uses {
        let (variable, gradient) = locks[used.part];
        match before.filter(|before| before.key == used.key) {
            // Variables come first, and no two of them share a storage (`Optimizer::over`).
            Some(before) if !before.gradient => {
                let (name, other) = (parts[before.part].name, parts[used.part].name);
                let other = format!("the gradient of `{other}`");
                return Err(Error::Aliased { name: name.to_string(), other });
            }
            Some(_) => {}
            None if used.gradient => wanted.push(Wanted::ToRead(gradient)),
            None => wanted.push(Wanted::ToWrite(variable)),
        }
        let place = wanted.len() - 1;
        match used.gradient {
            true => places[used.part].gradient = place,
            false => places[used.part].variable = place,
        }
        before = Some(used);
    }
    Ok((wanted, places))
}

/// A storage under its lock.
enum Open<'a> {
    /// Until its variable takes it.
    Write(Option<&'a mut Storage>),
    Read(&'a Storage),
}

/// With every lock held, and so nothing about to change, each storage is looked at: its type and length are what it has
/// now, whatever its tensors were made with.
fn in_place(
    parts: &[Part<'_>],
    places: &[Places],
    held: &mut [Held<'_>],
    step: &mut dyn FnMut(&mut [Update<'_>]) -> Result<(), Error>,
) -> Result<(), Error> {
    let open = held.iter_mut().map(|held| match held {
        Held::Write(storage) => Open::Write(Some(storage)),
        Held::Read(storage) => Open::Read(storage),
    });
    let mut open = collected(open, VARIABLES)?;
    let mut memory = with_capacity(parts.len(), VARIABLES)?;
    for (part, places) in parts.iter().zip(places) {
        let variable = match &mut open[places.variable] {
            Open::Write(storage) => storage.take().and_then(|storage| written(storage, part)),
            Open::Read(_) => None,
        };
        let gradient = match &open[places.gradient] {
            Open::Read(storage) => read(storage, &part.gradient),
            Open::Write(_) => None,
        };
        let variable = variable.ok_or_else(|| part.changed("parameter"))?;
        memory.push((part.id, variable, gradient.ok_or_else(|| part.changed("gradient"))?));
    }
    let updates = memory
        .iter_mut()
        .map(|(id, variable, gradient)| Update::new(*id, variable.tensor(), gradient.tensor()));
    step(&mut collected(updates, VARIABLES)?)
}

/// One lock at a time, as candle-nn's optimizers take them: copies of everything, a step on the copies, and the variables
/// written back one by one.
fn on_copies(
    parts: &[Part<'_>],
    step: &mut dyn FnMut(&mut [Update<'_>]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut copies = with_capacity(parts.len(), VARIABLES)?;
    for part in parts {
        copies.push(part.copied()?);
    }
    let (wanted, places) = storages(&copies)?;
    let mut held = collected(wanted.iter().map(|wanted| wanted.take()), VARIABLES)?;
    in_place(&copies, &places, &mut held, step)?;
    drop(held);
    let mut changed = Ok(());
    for (part, copy) in parts.iter().zip(&copies) {
        if let Err(error) = part.write_back(&copy.variable) {
            changed = changed.and(Err(error)); // the first; all others are written nevertheless
        }
    }
    changed
}

impl Part<'_> {
    fn copied(&self) -> Result<Self, Error> {
        let (variable, gradient) = (self.variable.copy()?, self.gradient.copy()?);
        Ok(Self { id: self.id, name: self.name, dtype: self.dtype, variable, gradient })
    }

    fn write_back(&self, copy: &candle_core::Tensor) -> Result<(), Error> {
        let mut to = lock::of(&self.variable).write();
        let (from, _) = copy.storage_and_layout();
        match (written(&mut to, self), read(&from, copy)) {
            (Some(Written::F32(to)), Some(Read::F32(from))) => to.copy_from_slice(from),
            (Some(Written::Bf16(to)), Some(Read::Bf16(from))) => to.copy_from_slice(from),
            #[cfg(feature = "candle-cuda")]
            (Some(Written::CudaF32(to)), Some(Read::CudaF32(from))) => copy_on_device(&from, to)?,
            #[cfg(feature = "candle-cuda")]
            (Some(Written::CudaBf16(to)), Some(Read::CudaBf16(from))) => copy_on_device(&from, to)?,
            _ => return Err(self.changed("parameter")),
        }
        Ok(())
    }

    /// A tensor's storage is not what the tensor was made with.
    fn changed(&self, role: &'static str) -> Error {
        let tensor = if role == "parameter" { &self.variable } else { &self.gradient };
        let (shape, dtype) = (tensor.dims(), tensor.dtype().as_str());
        let found = format!("in a storage that no longer holds {dtype} elements of shape {shape:?}");
        Error::Layout { name: self.name.to_string(), role, found }
    }
}

#[cfg(feature = "candle-cuda")]
fn copy_on_device<T>(from: &CudaView<'_, T>, mut to: CudaViewMut<'_, T>) -> Result<(), Error> {
    let stream = std::sync::Arc::clone(DeviceSlice::stream(from));
    stream.memcpy_dtod(from, &mut to).map_err(driver_error("writing a variable back"))
}

/// A variable's elements.
enum Written<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [bf16]),
    #[cfg(feature = "candle-cuda")]
    CudaF32(CudaViewMut<'a, f32>),
    #[cfg(feature = "candle-cuda")]
    CudaBf16(CudaViewMut<'a, bf16>),
}

/// A gradient's elements.
enum Read<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    #[cfg(feature = "candle-cuda")]
    CudaF32(CudaView<'a, f32>),
    #[cfg(feature = "candle-cuda")]
    CudaBf16(CudaView<'a, bf16>),
}

impl Written<'_> {
    fn tensor(&mut self) -> TensorMut<'_> {
        match self {
            Self::F32(slice) => (&mut **slice).into(),
            Self::Bf16(slice) => (&mut **slice).into(),
            #[cfg(feature = "candle-cuda")]
            Self::CudaF32(view) => view.into(),
            #[cfg(feature = "candle-cuda")]
            Self::CudaBf16(view) => view.into(),
        }
    }
}

impl Read<'_> {
    fn tensor(&self) -> Tensor<'_> {
        match self {
            Self::F32(slice) => (*slice).into(),
            Self::Bf16(slice) => (*slice).into(),
            #[cfg(feature = "candle-cuda")]
            Self::CudaF32(view) => view.into(),
            #[cfg(feature = "candle-cuda")]
            Self::CudaBf16(view) => view.into(),
        }
    }
}

/// The variable's elements, if the storage has them, and in the type that was registered.
fn written<'a>(storage: &'a mut Storage, part: &Part<'_>) -> Option<Written<'a>> {
    let range = range(part.variable.layout())?;
    match (storage, part.dtype) {
        (Storage::Cpu(CpuStorage::F32(values)), Dtype::F32) => values.get_mut(range).map(Written::F32),
        (Storage::Cpu(CpuStorage::BF16(values)), Dtype::Bf16) => values.get_mut(range).map(Written::Bf16),
        #[cfg(feature = "candle-cuda")]
        (Storage::Cuda(storage), Dtype::F32) => {
            storage.as_cuda_slice_mut().ok()?.try_slice_mut(range).map(Written::CudaF32)
        }
        #[cfg(feature = "candle-cuda")]
        (Storage::Cuda(storage), Dtype::Bf16) => {
            storage.as_cuda_slice_mut().ok()?.try_slice_mut(range).map(Written::CudaBf16)
        }
        _ => None,
    }
}

/// The gradient's elements, if the storage has them.
fn read<'a>(storage: &'a Storage, gradient: &candle_core::Tensor) -> Option<Read<'a>> {
    let range = range(gradient.layout())?;
    if storage.dtype() != gradient.dtype() {
        return None;
    }
    match storage {
        Storage::Cpu(CpuStorage::F32(values)) => values.get(range).map(Read::F32),
        Storage::Cpu(CpuStorage::BF16(values)) => values.get(range).map(Read::Bf16),
        #[cfg(feature = "candle-cuda")]
        Storage::Cuda(storage) => read_cuda(storage, range),
        _ => None,
    }
}

#[cfg(feature = "candle-cuda")]
fn read_cuda(storage: &CudaStorage, range: std::ops::Range<usize>) -> Option<Read<'_>> {
    match storage.dtype() {
        candle_core::DType::BF16 => storage.as_cuda_slice().ok()?.try_slice(range).map(Read::CudaBf16),
        _ => storage.as_cuda_slice().ok()?.try_slice(range).map(Read::CudaF32),
    }
}

/// Where a tensor's elements lie in its storage, one after the other.
fn range(layout: &Layout) -> Option<std::ops::Range<usize>> {
    layout.contiguous_offsets().map(|(start, end)| start..end)
}
