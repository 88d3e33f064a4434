//! Temporary: until `fadam::candle` lands.
use anyhow::Result;
use candle_core::{Tensor, Var, backprop::GradStore};
use candle_nn::VarMap;
use fadam::{Optimizer, ParameterId, Update};

pub(crate) struct Bridge {
    inner: Optimizer,
    vars: Vec<(ParameterId, Var)>,
}

impl Bridge {
    pub(crate) fn from_varmap(map: &VarMap, builder: fadam::Builder) -> Result<Self> {
        let mut inner = builder.build()?;
        let mut named: Vec<_> =
            map.data().lock().unwrap().iter().map(|(n, v)| (n.clone(), v.clone())).collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        let vars = named
            .into_iter()
            .map(|(n, v)| Ok((inner.register(n, v.elem_count())?, v)))
            .collect::<Result<_>>()?;
        Ok(Self { inner, vars })
    }
    pub(crate) fn set_learning_rate(&mut self, lr: f64) {
        self.inner.set_learning_rate(lr).unwrap()
    }
    pub(crate) fn step(&mut self, grads: &GradStore) -> Result<()> {
        let mut data = Vec::new();
        for (_, v) in &self.vars {
            data.push((
                v.flatten_all()?.to_vec1::<f32>()?,
                grads.get(v).unwrap().flatten_all()?.to_vec1::<f32>()?,
            ));
        }
        let mut updates: Vec<_> = self
            .vars
            .iter()
            .zip(&mut data)
            .map(|((id, _), (p, g))| Update::new(*id, &mut p[..], &g[..]))
            .collect();
        self.inner.step(&mut updates)?;
        for ((_, v), (p, _)) in self.vars.iter().zip(data) {
            v.set(&Tensor::from_vec(p, v.shape(), v.device())?)?;
        }
        Ok(())
    }
}
