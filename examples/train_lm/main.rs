//! scratch
mod corpus;
mod model;
use candle_core::{Device, Tensor, backprop::GradStore};
use candle_nn::Optimizer;
use rand_chacha::{ChaCha8Rng, rand_core::{RngCore, SeedableRng}};
use rayon::prelude::*;
use model::*;
fn main() -> anyhow::Result<()> {
    unsafe { std::env::set_var("RAYON_NUM_THREADS", "1") };
    rayon::ThreadPoolBuilder::new().num_threads(2).build_global()?;
    let corpus = corpus::Corpus::load(None)?;
    println!("{}", corpus.describe());
    corpus.require(1000)?;
    let g = |k: &str, d: f64| std::env::var(k).ok().map_or(d, |s| s.parse().unwrap());
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let model = Model::new(&mut rng, &Device::Cpu)?;
    println!("{} parameters", model.parameters());
    let mut opt = candle_nn::AdamW::new(model.weights.all_vars(), candle_nn::ParamsAdamW { lr: g("LR", 2e-3), beta2: g("B2", 0.99), ..Default::default() })?;
    let steps = g("STEPS", 300.) as usize;
    let (shards, per) = (g("SHARDS", 8.) as usize, g("PER", 2.) as usize);
    let len = g("LEN", 128.) as usize;
    let start = std::time::Instant::now();
    let mut topt = 0.0;
    let lr = g("LR", 2e-3);
    let span = len + LAGS;
    let eval = |seqs: usize| -> anyhow::Result<f64> {
        let stride = (corpus.held_out.len() - CONTEXT - LAGS) / seqs;
        let l: Vec<f64> = (0..seqs).into_par_iter().map(|i| -> anyhow::Result<f64> {
            Ok(model.loss(&corpus.held_out[i * stride..][..span], 1)?.to_scalar::<f32>()? as f64) }).collect::<anyhow::Result<_>>()?;
        Ok(l.iter().sum::<f64>() / seqs as f64)
    };
    for step in 0..steps {
        let frac = step as f64 / steps as f64;
        let warm = (step as f64 + 1.) / (0.05 * steps as f64);
        opt.set_learning_rate(lr * warm.min(1.0) * 0.5 * (1. + (std::f64::consts::PI * frac).cos()));
        let batches: Vec<Vec<u8>> = (0..shards).map(|_| (0..per).flat_map(|_| {
            let at = (rng.next_u64() as u128 * (corpus.train.len() - span) as u128 >> 64) as usize;
            corpus.train[at..at + span].iter().copied()
        }).collect()).collect();
        let grads: Vec<(f32, GradStore)> = batches.par_iter().map(|b| -> anyhow::Result<_> {
            let loss = model.loss(b, per)?;
            Ok((loss.to_scalar::<f32>()?, (loss / shards as f64)?.backward()?))
        }).collect::<anyhow::Result<_>>()?;
        let loss = grads.iter().map(|x| x.0).sum::<f32>() / shards as f32;
        let mut it = grads.into_iter().map(|x| x.1);
        let mut total = it.next().unwrap();
        for g in it { for v in model.weights.all_vars() { let s = (total.get(&v).unwrap() + g.get(&v).unwrap())?; total.insert(&v, s); } }
        let t = std::time::Instant::now();
        opt.step(&total)?;
        topt += t.elapsed().as_secs_f64();
        if (step + 1) % (steps / 5) == 0 {
            let s = start.elapsed().as_secs_f64();
            println!("{step} {loss:.3} {:.0} tok/s opt {topt:.2} of {s:.1}  held {:.3} bpb", ((step + 1) * shards * per * len) as f64 / s, eval(64)? / 2f64.ln());
        }
    }
    let _ = Tensor::new(0f32, &Device::Cpu)?;
    println!("held-out {:.3} bpb", eval(512)? / 2f64.ln());
    Ok(())
}
