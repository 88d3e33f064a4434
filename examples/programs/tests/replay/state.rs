//! What a state file says of its optimizer is what `replay` takes, and means the same to it.

use crate::file::{File, Tensor};
use crate::program::{Folder, replayed};
use fadam::{Adam, Algorithm, FAdam, FisherAdam, NonFinite, Optimizer, Update};
use std::fs;

#[test]
fn the_configuration_in_a_state_file_replays_to_that_state() {
    let algorithms: [Algorithm; 5] = [
        Adam { weight_decay: 0.25, ..Adam::default() }.into(),
        Adam { lr: 0.5, maximize: true, amsgrad: true, ..Adam::adamw() }.into(),
        FAdam { eps0: 0.125, eps_decay: 0.5, betas: (0.3, 0.7), weight_decay: 0.01, ..FAdam::default() }
            .into(),
        FAdam { kappa: Some(0.5), decay_cap: Some(0.1), weight_decay: 0.5, ..FAdam::default() }.into(),
        FisherAdam { eps2: 0.5, clip: 0.75, ..FisherAdam::default() }.into(),
    ];
    for algorithm in algorithms {
        let builder = Optimizer::builder(algorithm).max_grad_norm(1.5).non_finite(NonFinite::Propagate);
        let mut optimizer = builder.build().unwrap();
        let w = optimizer.register("w", 4).unwrap();
        optimizer.set_grad_scale(2.0).unwrap();
        let (start, gradient) = ([1.0_f32, -2.0, 0.5, 0.0], [3.0_f32, 1.0, -0.25, 0.0]);
        let mut file = File::default();
        file.tensors.insert("param/w".into(), Tensor::f32(&[4], &start));
        let mut value = start;
        for t in 1..=3 {
            file.tensors.insert(format!("grad/{t}/w"), Tensor::f32(&[4], &gradient));
            optimizer.step(&mut [Update::new(w, &mut value, &gradient)]).unwrap();
        }
        let folder = Folder::new();
        optimizer.save(folder.0.join("state")).unwrap();
        let state = File::parse(&fs::read(folder.0.join("state")).unwrap());
        file.set_optimizer(&state.optimizer());
        let out = File::parse(&replayed(&file.bytes(), &[]));
        assert_eq!(out.tensors["param/w"], Tensor::f32(&[4], &value), "{algorithm:?}");
        for (name, tensor) in &state.tensors {
            assert_eq!(out.tensors[name], *tensor, "{algorithm:?}: {name}");
        }
    }
}
