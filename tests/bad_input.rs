//! What is refused, and that a refusal changes nothing: no parameter, no moment, no count, no report.
//!
//! `Error::Hyperparameter` and `Error::NonFinite` are in edge_cases.rs, `Error::Lost` in lost.rs. `Error::Device` needs a
//! device: cuda_order.rs. `Error::Layout` cannot be had from plain slices, and `Error::Candle` needs candle.

mod common;

use common::{Model, algorithms, noise};
use fadam::{
    Adam, Device, Dtype, Error, Group, Master, NonFinite, Optimizer, Rounding, Simd, Tensor, TensorMut,
    Update,
};
use half::bf16;

/// A model of three parameters, "p0" of 8, "p1" of 8 and "p2" of 3 elements, with a step behind it.
fn model() -> Model {
    let (p, q, r) = (noise(8, 1), noise(8, 2), noise(3, 3));
    let mut model =
        Model::built(Optimizer::builder(Adam::adamw()).norms(true).max_grad_norm(1.0), &[&p, &q, &r]);
    model.step(&[&q, &p, &r]);
    model
}

/// The error of an attempt that must leave everything as it was.
fn refused(model: &mut Model, attempt: impl FnOnce(&mut Model) -> Result<(), Error>) -> Error {
    let (before, report) = (model.snapshot(), model.report());
    let norms: Vec<_> = model.ids.iter().map(|&id| model.optimizer.norms_of(id).unwrap()).collect();
    let error = attempt(model).unwrap_err();
    assert_eq!(model.snapshot(), before, "{error}");
    assert_eq!(model.report(), report, "{error}");
    let after: Vec<_> = model.ids.iter().map(|&id| model.optimizer.norms_of(id).unwrap()).collect();
    assert_eq!(after, norms, "{error}");
    error
}

/// The message names all of these.
fn assert_says(error: &Error, words: &[&str]) {
    let message = error.to_string();
    for word in words {
        assert!(message.contains(word), "`{message}` does not say {word}");
    }
    assert!(!message.contains('\n') && std::error::Error::source(error).is_none());
}

#[test]
fn a_name_is_registered_once() {
    let mut model = model();
    let error = refused(&mut model, |m| m.optimizer.register("p1", 5).map(drop));
    assert!(matches!(&error, Error::DuplicateName { name } if name == "p1"));
    assert_says(&error, &["`p1`", "already"]);
    let group = model.optimizer.add_group(Group::default()).unwrap();
    let error = refused(&mut model, |m| m.optimizer.register_in(group, "p1", 8, Dtype::F32).map(drop));
    assert!(matches!(&error, Error::DuplicateName { name } if name == "p1"));
    assert_eq!(model.optimizer.parameter("p1"), Some(model.ids[1]));
}

#[test]
fn a_name_that_is_not_registered_is_not_found() {
    let model = model();
    assert_eq!(model.optimizer.parameter("p3"), None);
    assert_eq!(model.optimizer.parameter(""), None);
    assert_eq!(model.optimizer.name(model.ids[2]).unwrap(), "p2");
}

#[test]
fn ids_of_another_optimizer_are_refused() {
    let (mut model, mut other) = (model(), self::model());
    let foreign = other.ids[1];
    let group = other.optimizer.add_group(Group::default()).unwrap();
    type Attempt = fn(&mut Model, fadam::ParameterId) -> Result<(), Error>;
    let attempts: [Attempt; 5] = [
        |m, id| {
            let g = [1.0_f32; 8];
            let [p, q, _] = &mut m.parameters[..] else { unreachable!() };
            m.optimizer.step(&mut [Update::new(m.ids[0], p, &g), Update::new(id, q, &g)])
        },
        |m, id| m.optimizer.state(id).map(drop),
        |m, id| m.optimizer.norms_of(id).map(drop),
        |m, id| m.optimizer.name(id).map(drop),
        |m, id| m.optimizer.reset_master(id),
    ];
    for attempt in attempts {
        let error = refused(&mut model, |m| attempt(m, foreign));
        assert!(matches!(error, Error::UnknownParameter { index: 1 }));
        assert_says(&error, &["1", "does not belong"]);
    }
    let error = refused(&mut model, |m| m.optimizer.register_in(group, "new", 1, Dtype::F32).map(drop));
    assert!(matches!(error, Error::UnknownGroup { index: 1 }), "{error:?}");
    assert_says(&error, &["group", "1", "does not belong"]);
    let error = refused(&mut model, |m| m.optimizer.set_group_learning_rate(group, 1.0));
    assert!(matches!(error, Error::UnknownGroup { .. }));
    assert_eq!(model.optimizer.parameter("new"), None);
}

#[test]
fn a_parameter_takes_part_once() {
    let mut model = model();
    let error = refused(&mut model, |m| {
        let g = [1.0_f32; 8];
        let mut copy = m.parameters[1].clone();
        let [p, q, _] = &mut m.parameters[..] else { unreachable!() };
        let (a, b) = (m.ids[0], m.ids[1]);
        m.optimizer.step(&mut [Update::new(b, q, &g), Update::new(a, p, &g), Update::new(b, &mut copy, &g)])
    });
    assert!(matches!(&error, Error::RepeatedParameter { name } if name == "p1"), "{error}");
    assert_says(&error, &["`p1`", "twice"]);
    // An empty one, too.
    let mut model = Model::new(Adam::default(), &[&[], &[1.0]]);
    let error = refused(&mut model, |m| {
        let (mut a, mut b) = ([0.0_f32; 0], [0.0_f32; 0]);
        let g: &[f32] = &[];
        m.optimizer.step(&mut [Update::new(m.ids[0], &mut a, g), Update::new(m.ids[0], &mut b, g)])
    });
    assert!(matches!(&error, Error::RepeatedParameter { name } if name == "p0"), "{error}");
}

#[test]
fn a_repeated_parameter_is_named_in_a_step_that_is_too_long() {
    let mut model = model();
    let error = refused(&mut model, |m| {
        let (g, h) = ([1.0_f32; 8], [1.0_f32; 3]);
        let mut copy = m.parameters[0].clone();
        let [p, q, r] = &mut m.parameters[..] else { unreachable!() };
        let ids = &m.ids;
        m.optimizer.step(&mut [
            Update::new(ids[0], p, &g),
            Update::new(ids[0], &mut copy, &g),
            Update::new(ids[1], q, &g),
            Update::new(ids[2], r, &h),
        ])
    });
    assert!(matches!(&error, Error::RepeatedParameter { name } if name == "p0"), "{error}");
}

#[test]
fn lengths_must_be_the_registered_ones() {
    for (parameter_len, gradient_len, role, found) in [
        (7, 8, "parameter", 7),
        (9, 8, "parameter", 9),
        (0, 8, "parameter", 0),
        (8, 7, "gradient", 7),
        (8, 4097, "gradient", 4097),
        (8, 0, "gradient", 0),
        (7, 7, "parameter", 7),
    ] {
        let mut model = model();
        let error = refused(&mut model, |m| {
            let (mut short, g, good) = (vec![0.0; parameter_len], noise(gradient_len, 1), noise(8, 2));
            let ids = (m.ids[0], m.ids[1]);
            m.optimizer.step(&mut [
                Update::new(ids.0, &mut m.parameters[0], &good),
                Update::new(ids.1, &mut short, &g),
            ])
        });
        match &error {
            Error::Length { name, role: r, expected: 8, found: f } => {
                assert_eq!((name.as_str(), *r, *f), ("p1", role, found));
            }
            other => panic!("{other:?}"),
        }
        assert_says(&error, &["`p1`", role, "8", &found.to_string()]);
    }
}

/// The other way round; and a bf16 view of f32 memory would pass the check of lengths.
#[test]
fn an_f32_parameter_is_refused_where_bf16_is_registered() {
    let mut model = Model::bf16(Optimizer::builder(Adam::adamw()), &[&[1.0; 8], &[2.0; 8]]);
    model.step(&[&[1.0; 8], &[1.0; 8]]);
    let mut parameter = [1.0_f32; 8];
    let error = refused(&mut model, |m| {
        let g = [bf16::ONE; 8];
        m.optimizer.step(&mut [Update::new(m.ids[1], &mut parameter, &g)])
    });
    match &error {
        Error::Dtype { name, role, expected, found } => {
            assert_eq!((name.as_str(), *role, *expected, found.as_str()), ("p1", "parameter", "bf16", "f32"));
        }
        other => panic!("{other:?}"),
    }
    assert_says(&error, &["`p1`", "parameter", "f32", "bf16"]);
    assert_eq!(parameter, [1.0; 8]);
}

#[test]
fn a_rounding_where_nothing_is_rounded_is_refused() {
    for rounding in [Rounding::Nearest, Rounding::Stochastic] {
        for master in [Master::F32, Master::Remainder] {
            let builder = || Optimizer::builder(Adam::default()).master(master).rounding(rounding);
            let error = builder().build().unwrap_err();
            assert!(matches!(error, Error::Options { .. }), "{error:?}");
            assert_says(&error, &["rounding", "no effect", "master"]);
            builder().moments(Dtype::Bf16).build().unwrap();
            builder().master(Master::None).build().unwrap();
        }
    }
}

#[test]
fn the_decay_of_an_average_has_its_domain() {
    for decay in [-0.1, 0.0, 0.49, 1.0, 1.5, f64::NAN, f64::INFINITY] {
        let error = Optimizer::builder(Adam::default()).ema(decay).build().unwrap_err();
        assert!(matches!(error, Error::Hyperparameter { .. }), "{error:?}");
        assert_says(&error, &["ema", "[0.5, 1)", &decay.to_string()]);
    }
    for decay in [0.5, 1.0 - f64::EPSILON] {
        Optimizer::builder(Adam::default()).ema(decay).build().unwrap();
    }
}

#[test]
fn a_bf16_parameter_is_refused_where_f32_is_registered() {
    let mut model = model();
    let mut parameter = [bf16::ONE; 8];
    let error = refused(&mut model, |m| {
        let g = [bf16::ONE; 8];
        m.optimizer.step(&mut [Update::new(m.ids[1], &mut parameter, &g)])
    });
    match &error {
        Error::Dtype { name, role, expected, found } => {
            assert_eq!((name.as_str(), *role, *expected, found.as_str()), ("p1", "parameter", "f32", "bf16"));
        }
        other => panic!("{other:?}"),
    }
    assert_says(&error, &["`p1`", "parameter", "f32", "bf16"]);
    assert_eq!(parameter, [bf16::ONE; 8]);
}

// Shared memory. Offsets count in halves of an f32, so that bf16 gradients can lie anywhere.

/// A step of p0 and p1 (8 elements each) over views into one piece of memory.
struct Views {
    memory: Vec<f32>,
}

impl Views {
    fn step(
        &mut self,
        model: &mut Model,
        [p, q]: [usize; 2],
        gradients: [(usize, bool); 2],
    ) -> Result<(), Error> {
        let halves = self.memory.as_mut_ptr().cast::<bf16>();
        let end = 2 * self.memory.len();
        assert!(p % 2 == 0 && q % 2 == 0 && p + 16 <= end && q + 16 <= end);
        let [g, h] = gradients.map(|(offset, short)| -> Tensor<'_> {
            assert!(offset + if short { 8 } else { 16 } <= end && (short || offset % 2 == 0));
            // SAFETY: within the memory, which outlives the step; the view may overlap others.
            unsafe {
                match short {
                    true => Tensor::from_raw_parts(halves.add(offset), 8),
                    false => Tensor::from_raw_parts(halves.add(offset).cast::<f32>(), 8),
                }
            }
        });
        // SAFETY: as above; a multiple of two halves is aligned for f32.
        let [p, q] =
            [p, q].map(|offset| unsafe { TensorMut::from_raw_parts(halves.add(offset).cast::<f32>(), 8) });
        model.optimizer.step(&mut [Update::new(model.ids[0], p, g), Update::new(model.ids[1], q, h)])
    }
}

fn views() -> Views {
    Views { memory: noise(64, 9) }
}

const FREE: usize = 96;

fn assert_aliased(parameters: [usize; 2], gradients: [(usize, bool); 2], name: &str, other: &str) {
    let (mut model, mut views) = (model(), views());
    let memory = views.memory.clone();
    let error = refused(&mut model, |m| views.step(m, parameters, gradients));
    assert_eq!(views.memory, memory);
    match &error {
        Error::Aliased { name: n, other: o } => assert_eq!((n.as_str(), o.as_str()), (name, other)),
        _ => panic!("{parameters:?} {gradients:?}: {error:?}"),
    }
    assert_says(&error, &["`p", "shares memory", name, other]);
}

#[test]
fn two_parameters_must_not_overlap() {
    let gradients = [(FREE, false), (FREE, false)];
    for (p, q) in [(0, 14), (0, 2)] {
        // The one that begins later is named first.
        assert_aliased([p, q], gradients, "p1", "parameter `p0`");
        assert_aliased([q, p], gradients, "p0", "parameter `p1`");
    }
    let (mut model, mut views) = (model(), views());
    let error = refused(&mut model, |m| views.step(m, [32, 32], gradients));
    assert!(matches!(error, Error::Aliased { .. }));
}

#[test]
fn a_parameter_must_not_overlap_its_own_gradient() {
    for offset in [32, 30, 34, 18, 46] {
        let gradients = [(FREE, false), (offset, false)];
        assert_aliased([0, 32], gradients, "p1", "the gradient of `p1`");
    }
    for offset in [25, 32, 47] {
        assert_aliased([0, 32], [(FREE, false), (offset, true)], "p1", "the gradient of `p1`");
    }
}

#[test]
fn a_parameter_must_not_overlap_the_gradient_of_another() {
    for offset in [32, 18, 46] {
        assert_aliased([0, 32], [(offset, false), (FREE, false)], "p1", "the gradient of `p0`");
        assert_aliased([32, 0], [(FREE, false), (offset, false)], "p0", "the gradient of `p1`");
    }
    for offset in [25, 32, 40, 47] {
        assert_aliased([0, 32], [(offset, true), (FREE, true)], "p1", "the gradient of `p0`");
    }
    // A long gradient that began before a short one in between.
    let mut optimizer = Optimizer::new(Adam::default()).unwrap();
    let [long, short] =
        [("long", 20), ("short", 2)].map(|(name, len)| optimizer.register(name, len).unwrap());
    let (mut memory, mut apart) = (vec![1.0_f32; 32], [1.0_f32; 20]);
    let start = memory.as_mut_ptr();
    // SAFETY: within the memory, which outlives the step; the views overlap.
    let (gradient, parameter, within) = unsafe {
        (
            Tensor::from_raw_parts(start, 20),
            TensorMut::from_raw_parts(start.add(18), 2),
            Tensor::from_raw_parts(start.add(4), 2),
        )
    };
    let mut updates = [Update::new(long, &mut apart, gradient), Update::new(short, parameter, within)];
    let error = optimizer.step(&mut updates).unwrap_err();
    assert!(matches!(&error, Error::Aliased { name, other }
        if name == "short" && other == "the gradient of `long`"));
    assert_eq!((&memory[..], apart), (&[1.0; 32][..], [1.0; 20]));
}

#[test]
fn neighbours_in_memory_and_shared_gradients_are_fine() {
    for (parameters, gradients) in [
        ([0, 16], [(32, false), (48, false)]),
        ([48, 16], [(32, false), (0, false)]),
        ([0, 24], [(16, true), (40, true)]),   // halves between wholes
        ([0, 16], [(32, false), (32, false)]), // one gradient for two parameters
        ([0, 16], [(32, false), (40, false)]), // overlapping gradients
        ([0, 16], [(33, true), (32, false)]),  // of two types
    ] {
        let (mut model, mut views) = (model(), views());
        let memory = views.memory.clone();
        views.step(&mut model, parameters, gradients).unwrap();
        let mut expected = self::model();
        for (i, offset) in parameters.into_iter().enumerate() {
            expected.parameters[i] = memory[offset / 2..][..8].to_vec();
        }
        let halves: Vec<bf16> = memory
            .iter()
            .flat_map(|x| [x.to_bits() as u16, (x.to_bits() >> 16) as u16].map(bf16::from_bits))
            .collect();
        let gradients = gradients.map(|(offset, short)| {
            Some(match short {
                true => common::Gradient::Bf16(halves[offset..][..8].to_vec()),
                false => common::Gradient::F32(memory[offset / 2..][..8].to_vec()),
            })
        });
        expected.try_step(&gradients).unwrap();
        for (i, offset) in parameters.into_iter().enumerate() {
            assert_eq!(views.memory[offset / 2..][..8], expected.parameters[i]);
        }
    }
}

#[test]
fn bf16_parameters_are_two_bytes_an_element() {
    for (second, overlaps) in [(8, false), (7, true)] {
        let mut model = Model::bf16(Optimizer::builder(Adam::default()), &[&[1.0; 8], &[1.0; 8]]);
        let (mut memory, gradient) = ([bf16::ONE; 16], [1.0_f32; 8]);
        let start = memory.as_mut_ptr();
        // SAFETY: within the memory, which outlives the step; the views may overlap.
        let [p, q] = [0, second].map(|at| unsafe { TensorMut::from_raw_parts(start.add(at), 8) });
        let mut updates = [Update::new(model.ids[0], p, &gradient), Update::new(model.ids[1], q, &gradient)];
        let result = model.optimizer.step(&mut updates);
        assert_eq!(matches!(result, Err(Error::Aliased { .. })), overlaps, "{result:?}");
        assert_eq!(memory.iter().filter(|&&p| p != bf16::ONE).count(), 0); // 1e-3 is within half a step of bf16
    }
}

#[test]
fn an_empty_view_overlaps_nothing() {
    let mut optimizer = Optimizer::new(Adam::default()).unwrap();
    let [p, empty] = [("p", 4), ("empty", 0)].map(|(name, len)| optimizer.register(name, len).unwrap());
    let mut memory = [1.0_f32; 4];
    let start = memory.as_mut_ptr();
    // SAFETY: within the memory, which outlives the step.
    let (whole, nothing) =
        unsafe { (TensorMut::from_raw_parts(start, 4), TensorMut::from_raw_parts(start.add(2), 0)) };
    let g = [1.0_f32; 4];
    optimizer.step(&mut [Update::new(p, whole, &g), Update::new(empty, nothing, &g[..0])]).unwrap();
    assert!(memory.iter().all(|&p| p < 1.0));
}

// Machines

#[test]
fn an_instruction_set_that_is_not_there_is_refused() {
    let missing: Vec<Simd> = Simd::ALL.into_iter().filter(|simd| !simd.is_available()).collect();
    assert!(!missing.is_empty(), "no machine has both AVX and NEON");
    for simd in missing {
        let error = Optimizer::builder(Adam::default()).simd(simd).build().unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }));
        assert_says(&error, &[&simd.to_string(), "not available", &Simd::best().to_string()]);
    }
    let error = "sse9".parse::<Simd>().unwrap_err();
    assert_says(&error, &["sse9", "scalar, avx2, avx512, neon"]);
}

#[test]
fn a_device_that_is_not_there_is_refused() {
    assert_eq!("cuda".parse::<Device>().unwrap(), Device::Cuda(0));
    let device = "cuda:1717".parse::<Device>().unwrap();
    let error = Optimizer::builder(Adam::default()).device(device).build().unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    for name in ["", "gpu", "CPU", "cuda:", "cuda:x", "cuda:-1", " cpu"] {
        let error = name.parse::<Device>().unwrap_err();
        assert_says(&error, &[&format!("`{name}`"), "known are", "best, cpu, cuda"]);
    }
}

#[test]
fn memory_that_is_not_there_is_refused() {
    let mut model = model();
    for len in [usize::MAX, usize::MAX / 4, 1 << 60, 1 << 46] {
        let error = refused(&mut model, |m| m.optimizer.register("huge", len).map(drop));
        assert!(matches!(&error, Error::OutOfMemory { name, .. } if name == "huge"), "{len}: {error:?}");
        assert_says(&error, &["`huge`", "memory", "bytes"]);
        assert_eq!(model.optimizer.parameter("huge"), None);
    }
    // The name is still free, and the optimizer works.
    model.optimizer.register("huge", 1).unwrap();
    model.step(&[&noise(8, 4), &noise(8, 5), &noise(3, 6)]);
}

#[test]
fn after_a_refusal_the_next_step_is_as_if_it_had_not_been_tried() {
    for algorithm in algorithms() {
        for policy in [NonFinite::Skip, NonFinite::Error, NonFinite::Propagate] {
            let (p, g) = (noise(200, 1), noise(200, 2));
            let built = || Model::built(Optimizer::builder(algorithm).non_finite(policy), &[&p, &p]);
            let (mut tried, mut clean) = (built(), built());
            for _ in 0..2 {
                tried.try_step(&[Some(g.clone()), Some(vec![1.0])]).unwrap_err();
                assert_eq!(tried.step(&[&g, &g]), clean.step(&[&g, &g]));
                assert_eq!(tried.snapshot(), clean.snapshot(), "{algorithm:?} {policy:?}");
            }
        }
    }
}
