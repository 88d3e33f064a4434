//! The GPUs that tests run on: real ones, or those of the emulated driver where the loader finds that.
#![allow(dead_code)] // each test file uses its part

use crate::trajectories::{Home, shifted};
use fadam::cuda::cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr};
use fadam::{Builder, Tensor, TensorMut};
use half::bf16;
use std::sync::Arc;

/// Set where a test without a device is a failure, as in CI.
const REQUIRE: &str = "FADAM_REQUIRE_DEVICE";

/// A device and a stream on it.
pub(crate) struct Gpu {
    pub(crate) ordinal: usize,
    pub(crate) stream: Arc<CudaStream>,
}

/// Every device of this machine, or `None` with a word on why the test is skipped.
pub(crate) fn gpus() -> Option<Vec<Gpu>> {
    let usable = fadam::cuda::devices().and_then(|devices| fadam::cuda::nvrtc_version().map(|_| devices));
    match usable {
        Ok(devices) => Some(
            devices
                .into_iter()
                .map(|device| {
                    println!("device cuda:{}: {}", device.ordinal, device.name);
                    Gpu::new(device.ordinal)
                })
                .collect(),
        ),
        Err(error) => {
            assert!(std::env::var_os(REQUIRE).is_none(), "{REQUIRE} is set, and there is no device: {error}");
            println!("skipped: {error}");
            None
        }
    }
}

/// The one for what one device shows: of the three that are emulated, the sm_90.
pub(crate) fn middle(gpus: &[Gpu]) -> &Gpu {
    &gpus[gpus.len() / 2]
}

impl Gpu {
    /// Its own stream, which nothing else orders.
    pub(crate) fn new(ordinal: usize) -> Self {
        Self { ordinal, stream: CudaContext::new(ordinal).unwrap().new_stream().unwrap() }
    }

    pub(crate) fn context(&self) -> &Arc<CudaContext> {
        self.stream.context()
    }

    pub(crate) fn upload(&self, values: &[f32]) -> CudaSlice<f32> {
        self.stream.clone_htod(values).unwrap()
    }

    pub(crate) fn download(&self, slice: &CudaSlice<f32>) -> Vec<f32> {
        let values = self.stream.clone_dtoh(slice).unwrap();
        self.stream.synchronize().unwrap();
        values
    }
}

/// Elements in front of a tensor, at least one: the driver has no empty allocation.
const FRONT: usize = 4;

impl Home for Gpu {
    type F32 = CudaSlice<f32>;
    type Bf16 = CudaSlice<bf16>;

    fn builder(&self, builder: Builder) -> Builder {
        builder.stream(self.stream.clone())
    }

    fn f32(&self, values: &[f32], offset: usize) -> CudaSlice<f32> {
        self.stream.clone_htod(&shifted(values, FRONT + offset, 0.0)).unwrap()
    }

    fn bf16(&self, values: &[bf16], offset: usize) -> CudaSlice<bf16> {
        self.stream.clone_htod(&shifted(values, FRONT + offset, bf16::ZERO)).unwrap()
    }

    fn parameter<'a>(&self, tensor: &'a mut CudaSlice<f32>, offset: usize) -> TensorMut<'a> {
        let (address, len) = self.at(tensor, offset);
        // SAFETY: within the slice, which `tensor` borrows for as long as the result; all on one stream.
        unsafe { TensorMut::from_device_address::<f32>(address, len, self.context()) }
    }

    fn f32_gradient<'a>(&self, tensor: &'a CudaSlice<f32>, offset: usize) -> Tensor<'a> {
        let (address, len) = self.at(tensor, offset);
        // SAFETY: as above.
        unsafe { Tensor::from_device_address::<f32>(address, len, self.context()) }
    }

    fn bf16_gradient<'a>(&self, tensor: &'a CudaSlice<bf16>, offset: usize) -> Tensor<'a> {
        let (address, len) = self.at(tensor, offset);
        // SAFETY: as above.
        unsafe { Tensor::from_device_address::<bf16>(address, len, self.context()) }
    }

    fn bf16_parameter<'a>(&self, tensor: &'a mut CudaSlice<bf16>, offset: usize) -> TensorMut<'a> {
        let (address, len) = self.at(tensor, offset);
        // SAFETY: as above.
        unsafe { TensorMut::from_device_address::<bf16>(address, len, self.context()) }
    }

    fn read(&self, tensor: &CudaSlice<f32>, offset: usize) -> Vec<f32> {
        self.download(tensor)[FRONT + offset..].to_vec()
    }

    fn read_bf16(&self, tensor: &CudaSlice<bf16>, offset: usize) -> Vec<bf16> {
        let values = self.stream.clone_dtoh(tensor).unwrap();
        self.stream.synchronize().unwrap();
        values[FRONT + offset..].to_vec()
    }
}

impl Gpu {
    /// Address and length of what lies behind the front.
    fn at<T>(&self, tensor: &CudaSlice<T>, offset: usize) -> (u64, usize) {
        let front = FRONT + offset;
        (tensor.device_ptr(&self.stream).0 + (front * size_of::<T>()) as u64, tensor.len() - front)
    }
}
