//! One promise: on a GPU a step takes its place among the other work on its tensors, whichever stream that is on; tensors
//! of another context are refused; nothing in a step waits.
#![cfg(feature = "cuda")]

#[path = "common/emulator.rs"]
mod emulator;
#[path = "common/gpu.rs"]
mod gpu;
mod trajectories;

use fadam::cuda::cudarc::driver::{CudaContext, CudaSlice, DevicePtr};
use fadam::{
    Adam, Device, EmpiricalFisher, Error, FAdam, FisherPower, NonFinite, Optimizer, Tensor, TensorMut,
    Update, global_norm, natural_gradient_step,
};
use gpu::{Gpu, gpus};

/// Orders of independent work, where the device can be told one.
const SEEDS: std::ops::Range<u64> = 1..9;

/// A step of AdamW on the CPU: what every test here expects.
fn expected(parameter: &[f32], gradients: &[&[f32]]) -> Vec<f32> {
    let mut optimizer = Optimizer::new(Adam::adamw()).unwrap();
    let id = optimizer.register("w", parameter.len()).unwrap();
    let mut parameter = parameter.to_vec();
    for gradient in gradients {
        optimizer.step(&mut [Update::new(id, &mut parameter, *gradient)]).unwrap();
    }
    parameter
}

#[track_caller]
fn same(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    let different = found.iter().zip(expected).position(|(a, b)| a.to_bits() != b.to_bits());
    if let Some(i) = different {
        panic!("element {i} is {} instead of {}", found[i], expected[i]);
    }
}

fn on_every_order(test: impl Fn(&Gpu)) {
    let driver = emulator::find();
    let Some(gpus) = gpus() else { return };
    for seed in SEEDS {
        if let Some(emulator) = driver.emulated() {
            emulator.set_seed(seed);
        }
        test(&gpus[0]);
    }
}

#[test]
fn tensors_of_other_streams_are_waited_for_and_wait() {
    other_streams(true);
}

#[test]
fn they_are_on_the_default_stream_too() {
    other_streams(false);
}

fn other_streams(own_stream: bool) {
    on_every_order(|gpu| {
        let (forward, backward) = (gpu.context().new_stream().unwrap(), gpu.context().new_stream().unwrap());
        let builder = Optimizer::builder(Adam::adamw());
        let builder =
            if own_stream { builder.stream(gpu.stream.clone()) } else { builder.device(Device::Cuda(0)) };
        let mut optimizer = builder.build().unwrap();
        let id = optimizer.register("w", 5000).unwrap();
        let (zeros, ones, g) = (vec![0.0; 5000], vec![1.0; 5000], vec![0.5; 5000]);
        let mut parameter = forward.clone_htod(&zeros).unwrap();
        let mut gradient = backward.clone_htod(&zeros).unwrap();
        // Written on their own streams, just before the step, ...
        forward.memcpy_htod(&ones, &mut parameter).unwrap();
        backward.memcpy_htod(&g, &mut gradient).unwrap();
        optimizer.step(&mut [Update::new(id, &mut parameter, &gradient)]).unwrap();
        // ... overwritten and read there, just after it.
        backward.memset_zeros(&mut gradient).unwrap();
        let result = forward.clone_dtoh(&parameter).unwrap();
        forward.synchronize().unwrap();
        same(&result, &expected(&ones, &[&g]));
        drop(gradient);
    });
}

/// A context object with its default stream alone records no events; the optimizer's stream is another object's.
#[test]
fn tensors_of_a_context_object_without_events_are_ordered_too() {
    on_every_order(|gpu| {
        let simple = CudaContext::new(0).unwrap().default_stream();
        let mut optimizer = Optimizer::builder(Adam::adamw()).stream(gpu.stream.clone()).build().unwrap();
        let id = optimizer.register("w", 5000).unwrap();
        let (zeros, ones, g) = (vec![0.0; 5000], vec![1.0; 5000], vec![0.5; 5000]);
        let (mut parameter, mut gradient) =
            (simple.clone_htod(&zeros).unwrap(), simple.clone_htod(&zeros).unwrap());
        simple.memcpy_htod(&ones, &mut parameter).unwrap();
        simple.memcpy_htod(&g, &mut gradient).unwrap();
        optimizer.step(&mut [Update::new(id, &mut parameter, &gradient)]).unwrap();
        simple.memset_zeros(&mut gradient).unwrap();
        drop(gradient);
        let result = simple.clone_dtoh(&parameter).unwrap();
        simple.synchronize().unwrap();
        same(&result, &expected(&ones, &[&g]));
    });
}

/// Its handle means another stream on every thread: the optimizer is built on one and stepped on others.
#[test]
fn an_optimizer_on_the_per_thread_stream_may_change_threads() {
    on_every_order(|gpu| {
        let context = CudaContext::new(gpu.ordinal).unwrap();
        let builder = Optimizer::builder(Adam::adamw()).stream(context.per_thread_stream());
        let mut optimizer = builder.build().unwrap();
        let id = optimizer.register("w", 5000).unwrap();
        let (mut result, ones) = (vec![1.0; 5000], vec![1.0; 5000]);
        for _ in 0..3 {
            std::thread::scope(|scope| {
                let (optimizer, result, ones, context) = (&mut optimizer, &mut result, &ones, &context);
                scope.spawn(move || {
                    let stream = context.per_thread_stream();
                    let (parameter, gradient) =
                        (stream.clone_htod(&*result).unwrap(), stream.clone_htod(ones).unwrap());
                    let [p, g] = [&parameter, &gradient].map(|slice| slice.device_ptr(&stream).0);
                    // By address, as candle's tensors come: of what stream they are, an address does not tell.
                    // SAFETY: of the two slices, which outlive the step.
                    let update = unsafe {
                        let p = TensorMut::from_device_address::<f32>(p, 5000, context);
                        Update::new(id, p, Tensor::from_device_address::<f32>(g, 5000, context))
                    };
                    optimizer.step(&mut [update]).unwrap();
                    *result = stream.clone_dtoh(&parameter).unwrap();
                    stream.synchronize().unwrap();
                });
            });
        }
        same(&result, &expected(&ones, &[&ones, &ones, &ones]));
    });
}

#[test]
fn a_gradient_may_be_dropped_right_after_the_step() {
    on_every_order(|gpu| {
        let other = gpu.context().new_stream().unwrap();
        let mut optimizer = Optimizer::builder(Adam::adamw()).stream(gpu.stream.clone()).build().unwrap();
        let id = optimizer.register("w", 5000).unwrap();
        let ones = vec![1.0; 5000];
        let mut parameter = gpu.upload(&ones);
        for _ in 0..3 {
            let gradient = other.clone_htod(&ones).unwrap();
            optimizer.step(&mut [Update::new(id, &mut parameter, &gradient)]).unwrap();
        }
        drop(optimizer);
        same(&gpu.download(&parameter), &expected(&ones, &[&ones, &ones, &ones]));
    });
}

#[test]
fn views_are_stepped_in_place() {
    on_every_order(|gpu| {
        let mut optimizer = Optimizer::builder(Adam::adamw()).stream(gpu.stream.clone()).build().unwrap();
        let (a, b) = (optimizer.register("a", 4097).unwrap(), optimizer.register("b", 10).unwrap());
        let ones = vec![1.0; 4110];
        let (mut parameters, gradients) = (gpu.upload(&ones), gpu.upload(&ones));
        {
            let (mut first, mut second) = parameters.split_at_mut(4098);
            let (mut first, mut second) = (first.slice_mut(1..), second.slice_mut(2..));
            let (g, h) = (gradients.slice(3..4100), gradients.slice(4100..));
            optimizer.step(&mut [Update::new(b, &mut second, &h), Update::new(a, &mut first, &g)]).unwrap();
        }
        let result = gpu.download(&parameters);
        let moved = expected(&ones[..1], &[&ones[..1]])[0];
        let untouched = [0, 4098, 4099];
        for (i, &x) in result.iter().enumerate() {
            assert_eq!(x, if untouched.contains(&i) { 1.0 } else { moved }, "element {i}");
        }
    });
}

#[test]
fn tensors_elsewhere_are_refused() {
    let _alone = emulator::find();
    let Some(gpus) = gpus() else { return };
    let gpu = &gpus[0];
    let mut optimizer = Optimizer::builder(Adam::adamw()).stream(gpu.stream.clone()).build().unwrap();
    let id = optimizer.register("w", 3).unwrap();
    let (mut here, gradient) = (gpu.upload(&[1.0; 3]), gpu.upload(&[1.0; 3]));
    let (mut host, host_gradient) = ([1.0_f32; 3], [1.0_f32; 3]);
    let mut refused = |update: Update<'_>, found: &str| {
        let error = optimizer.step(&mut [update]).unwrap_err();
        assert!(matches!(&error, Error::Device { name, .. } if name == "w"), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(found) && text.contains("works on cuda:0"), "{text}");
    };
    refused(Update::new(id, &mut host, &gradient), "lies on cpu");
    refused(Update::new(id, &mut here, &host_gradient), "lies on cpu");
    if let Some(other) = gpus.get(1) {
        let mut there = other.upload(&[1.0; 3]);
        refused(Update::new(id, &mut there, &gradient), "lies on cuda:1");
        let there = other.upload(&[1.0; 3]);
        refused(Update::new(id, &mut here, &there), "lies on cuda:1");
    }
    // And the CPU refuses a GPU's.
    let mut cpu = Optimizer::new(Adam::adamw()).unwrap();
    let id = cpu.register("w", 3).unwrap();
    let error = cpu.step(&mut [Update::new(id, &mut host, &gradient)]).unwrap_err();
    assert_eq!(error.to_string(), "`w` lies on cuda:0, the optimizer works on cpu");
    assert!(matches!(global_norm(Device::Cpu, &[(&gradient).into()]), Err(Error::Device { .. })));
    assert!(matches!(global_norm(Device::Cuda(0), &[(&host_gradient).into()]), Err(Error::Device { .. })));
    assert_eq!(gpu.download(&here), [1.0; 3]);
}

#[test]
fn tensors_that_overlap_are_refused() {
    let _alone = emulator::find();
    let Some(gpus) = gpus() else { return };
    let gpu = &gpus[0];
    let mut optimizer = Optimizer::builder(Adam::adamw()).stream(gpu.stream.clone()).build().unwrap();
    let (a, b) = (optimizer.register("a", 4).unwrap(), optimizer.register("b", 4).unwrap());
    let (tensor, gradient) = (gpu.upload(&[1.0; 8]), gpu.upload(&[1.0; 4]));
    let address = tensor.device_ptr(&gpu.stream).0;
    // SAFETY: within `tensor`; that they overlap is what a step refuses.
    let part =
        |from: u64| unsafe { TensorMut::from_device_address::<f32>(address + 4 * from, 4, gpu.context()) };
    let updates = &mut [Update::new(a, part(0), &gradient), Update::new(b, part(3), &gradient)];
    let error = optimizer.step(updates).unwrap_err();
    assert!(matches!(error, Error::Aliased { .. }), "{error:?}");
    optimizer.step(&mut [Update::new(a, part(0), &gradient), Update::new(b, part(4), &gradient)]).unwrap();
}

/// The error of a step comes from the call that finds it, once; the calls before do not wait for it.
#[test]
fn a_gradient_that_is_not_finite_is_found_later() {
    let driver = emulator::find();
    let Some(gpus) = gpus() else { return };
    let gpu = &gpus[0];
    let build = || {
        let builder = Optimizer::builder(FAdam::default()).stream(gpu.stream.clone());
        let mut optimizer = builder.non_finite(NonFinite::Error).build().unwrap();
        let ids = [optimizer.register("good", 2).unwrap(), optimizer.register("bad", 2).unwrap()];
        (optimizer, ids)
    };
    let (good, bad) = (gpu.upload(&[1.0; 2]), gpu.upload(&[1.0, f32::NAN]));
    let is_it = |error: Error| {
        assert!(matches!(&error, Error::NonFinite { name, step: 1 } if name == "bad"), "{error:?}");
    };
    // By the report, and by `synchronize`.
    for synchronize in [false, true] {
        let (mut optimizer, [a, b]) = build();
        let (mut p, mut q) = (gpu.upload(&[1.0; 2]), gpu.upload(&[1.0; 2]));
        optimizer.step(&mut [Update::new(a, &mut p, &good), Update::new(b, &mut q, &bad)]).unwrap();
        if let Some(emulator) = driver.emulated() {
            assert!(emulator.pending() > 0, "nobody has waited");
        }
        is_it(if synchronize {
            optimizer.synchronize().unwrap_err()
        } else {
            optimizer.report().unwrap_err()
        });
        let report = optimizer.report().unwrap();
        assert!(
            report.skipped
                && report.step == 1
                && report.skipped_steps == 1
                && report.clip_coefficient.is_none()
        );
        optimizer.synchronize().unwrap();
        assert_eq!(gpu.download(&p), [1.0; 2]);
        assert_eq!(optimizer.state(a).unwrap().step, 0);
    }
    // By the next step, once the device is known to be done.
    let (mut optimizer, [a, b]) = build();
    let (mut p, mut q) = (gpu.upload(&[1.0; 2]), gpu.upload(&[1.0; 2]));
    optimizer.step(&mut [Update::new(a, &mut p, &good), Update::new(b, &mut q, &bad)]).unwrap();
    gpu.stream.synchronize().unwrap();
    is_it(optimizer.step(&mut [Update::new(a, &mut p, &good)]).unwrap_err());
    optimizer.step(&mut [Update::new(a, &mut p, &good)]).unwrap();
    assert_eq!(optimizer.report().unwrap().step, 2, "the step that reported the error did not take place");
    assert_eq!(gpu.download(&p), [0.999; 2]);
}

/// A new learning rate takes its place in the stream, between the steps that surround it.
#[test]
fn hyper_parameters_keep_their_order() {
    on_every_order(|gpu| {
        let mut optimizer = Optimizer::builder(Adam::adamw()).stream(gpu.stream.clone()).build().unwrap();
        let mut cpu = Optimizer::new(Adam::adamw()).unwrap();
        let (id, cpu_id) = (optimizer.register("w", 100).unwrap(), cpu.register("w", 100).unwrap());
        let (mut host, g) = (vec![1.0_f32; 100], vec![0.5_f32; 100]);
        let (mut parameter, gradient) = (gpu.upload(&host), gpu.upload(&g));
        for step in 1..6 {
            for optimizer in [&mut optimizer, &mut cpu] {
                optimizer.set_learning_rate(0.1 / f64::from(step)).unwrap();
                optimizer.set_grad_scale(f64::from(step)).unwrap();
            }
            optimizer.step(&mut [Update::new(id, &mut parameter, &gradient)]).unwrap();
            cpu.step(&mut [Update::new(cpu_id, &mut host, &g)]).unwrap();
        }
        same(&gpu.download(&parameter), &host);
    });
}

/// A table of more than 64 KiB, another one each step, as with an autograd that allocates its gradients anew.
#[test]
fn a_step_of_many_tensors_that_move_waits_for_nothing() {
    let driver = emulator::find();
    let Some(gpus) = gpus() else { return };
    let gpu = &gpus[0];
    let mut optimizer = Optimizer::builder(Adam::adamw()).stream(gpu.stream.clone()).build().unwrap();
    let ids: Vec<_> = (0..1200).map(|i| optimizer.register(i.to_string(), 2).unwrap()).collect();
    let (mut parameters, gradients) = (gpu.upload(&[1.0; 2400]), gpu.upload(&[1.0; 2403]));
    for step in 0..3 {
        if let Some(emulator) = driver.emulated() {
            emulator.reset_counts();
        }
        let parts = parameters.slice_mut(..).into_view();
        let address = parts.device_ptr(&gpu.stream).0;
        let at = gradients.device_ptr(&gpu.stream).0 + 4 * step;
        let update = |(i, &id): (u64, _)| {
            // SAFETY: within the two slices, all on one stream.
            let (parameter, gradient) = unsafe {
                let parameter = TensorMut::from_device_address::<f32>(address + 8 * i, 2, gpu.context());
                (parameter, Tensor::from_device_address::<f32>(at + 8 * i, 2, gpu.context()))
            };
            Update::new(id, parameter, gradient)
        };
        optimizer.step(&mut (0..).zip(&ids).map(update).collect::<Vec<_>>()).unwrap();
        if let Some(emulator) = driver.emulated() {
            assert_eq!(emulator.syncs(), 0);
        }
    }
    same(&gpu.download(&parameters), &vec![expected(&[1.0], &[&[1.0], &[1.0], &[1.0]])[0]; 2400]);
}

/// Parameters that join late, after steps.
#[test]
fn the_tables_grow() {
    on_every_order(|gpu| {
        let mut optimizer = Optimizer::builder(Adam::adamw()).stream(gpu.stream.clone()).build().unwrap();
        let mut ids = Vec::new();
        let ones = vec![1.0; 5000];
        let gradient = gpu.upload(&ones);
        let mut parameters: Vec<CudaSlice<f32>> = Vec::new();
        for i in 0..5 {
            ids.push(optimizer.register(i.to_string(), 5000).unwrap());
            parameters.push(gpu.upload(&ones));
            let mut updates: Vec<_> =
                ids.iter().zip(&mut parameters).map(|(&id, p)| Update::new(id, p, &gradient)).collect();
            optimizer.step(&mut updates).unwrap();
        }
        for (i, parameter) in parameters.iter().enumerate() {
            let gradients = vec![&ones[..]; 5 - i];
            same(&gpu.download(parameter), &expected(&ones, &gradients));
            assert_eq!(optimizer.state(ids[i]).unwrap().step, 5 - i as u64);
        }
    });
}

#[test]
fn several_threads_and_devices_step_at_once() {
    let _alone = emulator::find();
    let Some(gpus) = gpus() else { return };
    let (ones, g) = (vec![1.0; 9000], vec![0.5; 9000]);
    let result = expected(&ones, &[&g, &g]);
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let (gpu, ones, g, result) = (&gpus[thread % gpus.len()], &ones, &g, &result);
            scope.spawn(move || {
                let gpu = Gpu::new(gpu.ordinal);
                let builder = Optimizer::builder(Adam::adamw());
                // Some on a stream of their own, some on the device's default stream.
                let builder = if thread < 3 {
                    builder.stream(gpu.stream.clone())
                } else {
                    builder.device(Device::Cuda(gpu.ordinal))
                };
                let mut optimizer = builder.build().unwrap();
                let id = optimizer.register("w", ones.len()).unwrap();
                let (mut parameter, gradient) = (gpu.upload(ones), gpu.upload(g));
                gpu.stream.synchronize().unwrap();
                for _ in 0..2 {
                    optimizer.step(&mut [Update::new(id, &mut parameter, &gradient)]).unwrap();
                }
                optimizer.synchronize().unwrap();
                same(&gpu.download(&parameter), result);
            });
        }
    });
}

#[test]
fn kernels_are_loaded_once_a_context() {
    let driver = emulator::find();
    let Some(gpus) = gpus() else { return };
    let Some(emulator) = driver.emulated() else {
        println!("skipped: a real driver does not count");
        return;
    };
    let build = || Optimizer::builder(Adam::adamw()).stream(gpus[0].stream.clone()).build().unwrap();
    let loads = || {
        emulator.calls().iter().find(|(name, _)| name == "cuModuleLoadData").map_or(0, |(_, count)| *count)
    };
    emulator.reset_counts();
    let first = build();
    // adam.cu and norm.cu, which `global_norm` in another test of this process may have loaded for good.
    let once = loads();
    assert!((1..=2).contains(&once), "{once}");
    let second = build();
    assert_eq!(loads(), once);
    // Another context object of the same device has the same kernels.
    let third = Optimizer::builder(Adam::adamw()).device(Device::Cuda(0)).build().unwrap();
    assert_eq!(loads(), once);
    drop((first, second, third));
    // They are gone with the last that used them.
    let _fourth = build();
    assert_eq!(loads(), 2 * once);
}

#[test]
fn norms_and_fisher_functions_agree_with_the_cpu() {
    let driver = emulator::find();
    let Some(gpus) = gpus() else { return };
    let values = |seed: u32, len: usize| -> Vec<f32> {
        (0..len as u32)
            .map(|i| f32::from_bits(0x3e00_0000 + (i.wrapping_mul(2_654_435_761) ^ seed) % 0x0180_0000))
            .collect()
    };
    for gpu in &gpus {
        if let Some(emulator) = driver.emulated() {
            emulator.set_seed(gpu.ordinal as u64 + 3);
        }
        let device = Device::Cuda(gpu.ordinal);
        let host: Vec<Vec<f32>> =
            [70_000, 0, 1, 4097].into_iter().map(|len| values(len as u32, len)).collect();
        let there: Vec<CudaSlice<f32>> =
            host.iter().map(|x| gpu.upload(if x.is_empty() { &[0.0] } else { x })).collect();
        let views: Vec<_> = there.iter().zip(&host).map(|(slice, host)| slice.slice(..host.len())).collect();
        let tensors: Vec<Tensor<'_>> = views.iter().map(Tensor::from).collect();
        let cpu: Vec<Tensor<'_>> = host.iter().map(Tensor::from).collect();
        let norms = [global_norm(device, &tensors).unwrap(), global_norm(Device::Cpu, &cpu).unwrap()];
        assert_eq!(norms[0].to_bits(), norms[1].to_bits());
        assert_eq!(global_norm(device, &[]).unwrap(), 0.0);

        let (samples, parameter) = (values(1, 3000), values(2, 1000));
        let mut fishers =
            [EmpiricalFisher::new(device, 1000).unwrap(), EmpiricalFisher::new(Device::Cpu, 1000).unwrap()];
        let on_device = gpu.upload(&samples);
        for _ in 0..2 {
            fishers[0].add(&on_device).unwrap();
            fishers[1].add(&samples).unwrap();
        }
        let [diagonal, expected] = fishers.each_ref().map(|fisher| fisher.diagonal().unwrap());
        same(&diagonal, &expected);

        for power in [FisherPower::One, FisherPower::Half] {
            let (mut host, mut theta) = (parameter.clone(), gpu.upload(&parameter));
            let (gradient, fisher) = (gpu.upload(&samples[..1000]), gpu.upload(&diagonal));
            natural_gradient_step(device, &mut theta, &gradient, &fisher, 0.1, power, 1e-3).unwrap();
            natural_gradient_step(Device::Cpu, &mut host, &samples[..1000], &expected, 0.1, power, 1e-3)
                .unwrap();
            same(&gpu.download(&theta), &host);
        }
    }
}
