//! Tensors of the host, copied to where an optimizer on a GPU works. Several programs share this module.
#![allow(dead_code)] // each uses its part

use anyhow::{Context, Result, bail};
use fadam::cuda::cudarc::driver::sys::{self, CUevent, CUresult};
use fadam::cuda::cudarc::driver::{
    CudaContext, CudaEvent, CudaSlice, CudaStream, CudaView, CudaViewMut, DeviceRepr,
};
use fadam::{Device, Dtype, Tensor, TensorMut};
use half::bf16;
use std::ffi::c_void;
use std::mem::transmute;
use std::ptr::null_mut;
use std::sync::Arc;

/// A GPU's name for people: `cuda:0, NVIDIA H100 80GB HBM3`. None of the CPU.
pub(crate) fn describe(device: Device) -> Result<Option<String>> {
    let Device::Cuda(ordinal) = device else { return Ok(None) };
    let gpu = fadam::cuda::devices()?.into_iter().find(|gpu| gpu.ordinal == ordinal);
    Ok(gpu.map(|gpu| format!("{device}, {}", gpu.name)))
}

/// A GPU's primary context.
pub(crate) fn context(ordinal: usize) -> Result<Arc<CudaContext>> {
    // The driver has been found usable: an optimizer has been built there, or its devices listed.
    CudaContext::new(ordinal).with_context(|| format!("cannot open cuda:{ordinal}"))
}

/// The default stream of a GPU, on which an optimizer there works too.
pub(crate) fn stream(ordinal: usize) -> Result<Arc<CudaStream>> {
    Ok(context(ordinal)?.default_stream())
}

/// Seconds between two events, for the later of which this waits. Not by cudarc's `elapsed_ms`: its
/// `cuEventElapsedTime_v2` is missing from drivers below CUDA 12.8, and a missing function panics.
pub(crate) fn seconds(before: &CudaEvent, after: &CudaEvent) -> Result<f64> {
    type Elapsed = unsafe extern "C" fn(*mut f32, CUevent, CUevent) -> CUresult;
    const SINCE: i32 = 12_000;
    after.synchronize().context("the work before an event has failed")?;
    let (mut function, mut milliseconds) = (null_mut(), 0.0);
    // SAFETY: a name, and a place for the answer; the driver's own answer is not asked for.
    let found = unsafe {
        sys::cuGetProcAddress_v2(c"cuEventElapsedTime".as_ptr(), &raw mut function, SINCE, 0, null_mut())
    };
    found.result().context("the driver cannot tell the time between events")?;
    // SAFETY: the type is that of cuda.h for this function, in every version.
    let elapsed = unsafe { transmute::<*mut c_void, Elapsed>(function) };
    // SAFETY: two events that have been recorded.
    let code = unsafe { elapsed(&raw mut milliseconds, before.cu_event(), after.cu_event()) };
    code.result().context("cannot read an event")?;
    Ok(f64::from(milliseconds) * 1e-3)
}

/// A tensor on a GPU, perhaps an empty one, which the driver does not know.
pub(crate) struct Copy<T> {
    slice: CudaSlice<T>,
    len: usize,
}

impl<T: DeviceRepr + Default + Clone> Copy<T> {
    pub(crate) fn of(stream: &Arc<CudaStream>, values: &[T]) -> Result<Self> {
        let nothing = [T::default()];
        let slice = stream.clone_htod(if values.is_empty() { &nothing[..] } else { values });
        Ok(Self { slice: slice.context("cannot copy a tensor to the GPU")?, len: values.len() })
    }

    /// Reads it back.
    pub(crate) fn read(&self, stream: &Arc<CudaStream>, into: &mut [T]) -> Result<()> {
        let copied = stream.memcpy_dtoh(&self.view(), into).and_then(|()| stream.synchronize());
        copied.context("cannot copy a tensor from the GPU")
    }

    pub(crate) fn view(&self) -> CudaView<'_, T> {
        self.slice.slice(..self.len)
    }

    pub(crate) fn view_mut(&mut self) -> CudaViewMut<'_, T> {
        self.slice.slice_mut(..self.len)
    }
}

/// A tensor of either type, here.
pub(crate) enum Values {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
}

impl Values {
    /// To the nearest, where that is narrower.
    pub(crate) fn of(values: Vec<f32>, dtype: Dtype) -> Self {
        match dtype {
            Dtype::Bf16 => Self::Bf16(values.into_iter().map(bf16::from_f32).collect()),
            _ => Self::F32(values),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }

    pub(crate) fn dtype(&self) -> Dtype {
        match self {
            Self::F32(_) => Dtype::F32,
            Self::Bf16(_) => Dtype::Bf16,
        }
    }

    pub(crate) fn tensor(&self) -> Tensor<'_> {
        match self {
            Self::F32(values) => values.into(),
            Self::Bf16(values) => values.into(),
        }
    }

    pub(crate) fn tensor_mut(&mut self) -> TensorMut<'_> {
        match self {
            Self::F32(values) => values.into(),
            Self::Bf16(values) => values.into(),
        }
    }
}

/// A copy of it on a GPU.
pub(crate) enum OnGpu {
    F32(Copy<f32>),
    Bf16(Copy<bf16>),
}

impl OnGpu {
    pub(crate) fn of(stream: &Arc<CudaStream>, values: &Values) -> Result<Self> {
        Ok(match values {
            Values::F32(values) => Self::F32(Copy::of(stream, values)?),
            Values::Bf16(values) => Self::Bf16(Copy::of(stream, values)?),
        })
    }

    pub(crate) fn view(&self) -> View<'_> {
        match self {
            Self::F32(copy) => View::F32(copy.view()),
            Self::Bf16(copy) => View::Bf16(copy.view()),
        }
    }

    pub(crate) fn view_mut(&mut self) -> ViewMut<'_> {
        match self {
            Self::F32(copy) => ViewMut::F32(copy.view_mut()),
            Self::Bf16(copy) => ViewMut::Bf16(copy.view_mut()),
        }
    }

    /// Reads it back to where it came from.
    pub(crate) fn read(&self, stream: &Arc<CudaStream>, into: &mut Values) -> Result<()> {
        match (self, into) {
            (Self::F32(copy), Values::F32(values)) => copy.read(stream, values),
            (Self::Bf16(copy), Values::Bf16(values)) => copy.read(stream, values),
            _ => bail!("a tensor has changed its type"),
        }
    }
}

/// A view of a tensor of either type.
pub(crate) enum View<'a> {
    F32(CudaView<'a, f32>),
    Bf16(CudaView<'a, bf16>),
}

/// As [`View`], of one that a step changes.
pub(crate) enum ViewMut<'a> {
    F32(CudaViewMut<'a, f32>),
    Bf16(CudaViewMut<'a, bf16>),
}

impl View<'_> {
    pub(crate) fn tensor(&self) -> Tensor<'_> {
        match self {
            Self::F32(view) => view.into(),
            Self::Bf16(view) => view.into(),
        }
    }
}

impl ViewMut<'_> {
    pub(crate) fn tensor(&mut self) -> TensorMut<'_> {
        match self {
            Self::F32(view) => view.into(),
            Self::Bf16(view) => view.into(),
        }
    }
}
