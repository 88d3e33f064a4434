//! What drivers.rs starts with one set of libraries after the other: which device is the best, and whether a GPU works.

use fadam::{Adam, Device, Optimizer, Update};

fn main() {
    match Device::best() {
        Ok(device) => println!("best: {device}"),
        Err(error) => println!("best: error: {error}"),
    }
    match step(Device::Cuda(0)) {
        Ok(()) => println!("cuda: works"),
        Err(error) => println!("cuda: error: {error}"),
    }
    println!("cpu: {}", if step(Device::Cpu).is_ok() { "works" } else { "fails" });
}

/// A whole step where the parameters can be made without a GPU's help: none of them.
fn step(device: Device) -> Result<(), fadam::Error> {
    let mut optimizer = Optimizer::builder(Adam::default()).device(device).build()?;
    let id = optimizer.register("w", 3)?;
    if device == Device::Cpu {
        optimizer.step(&mut [Update::new(id, &mut [1.0_f32; 3], &[1.0_f32; 3])])?;
    } else {
        optimizer.step(&mut [])?;
    }
    optimizer.report().map(drop)
}
