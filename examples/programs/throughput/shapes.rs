//! The tensors of a case: a model's, or one of N elements.

use std::fmt;
use std::str::FromStr;

/// What `--shape` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// GPT-2 124M, the output layer tied to the embedding.
    Gpt2,
    /// ResNet-50 for 1000 classes.
    Resnet50,
    /// One tensor of this many elements.
    Elements(usize),
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match (name, name.parse()) {
            ("gpt2", _) => Ok(Self::Gpt2),
            ("resnet50", _) => Ok(Self::Resnet50),
            (_, Ok(elements)) if elements > 0 => Ok(Self::Elements(elements)),
            _ => Err("a shape is gpt2, resnet50 or a number of elements of at least 1".into()),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gpt2 => f.pad("gpt2"),
            Self::Resnet50 => f.pad("resnet50"),
            Self::Elements(elements) => f.pad(&elements.to_string()),
        }
    }
}

impl Shape {
    /// The length of each tensor.
    pub(crate) fn tensors(self) -> Vec<usize> {
        match self {
            Self::Gpt2 => gpt2(),
            Self::Resnet50 => resnet50(),
            Self::Elements(elements) => vec![elements],
        }
    }
}

fn gpt2() -> Vec<usize> {
    const VOCABULARY: usize = 50257;
    const CONTEXT: usize = 1024;
    const WIDTH: usize = 768;
    const LAYERS: usize = 12;
    let norm = [WIDTH, WIDTH];
    let linear = |inputs: usize, outputs: usize| [inputs * outputs, outputs];
    let mut tensors = vec![VOCABULARY * WIDTH, CONTEXT * WIDTH];
    for _ in 0..LAYERS {
        tensors.extend(norm);
        tensors.extend(linear(WIDTH, 3 * WIDTH)); // query, key and value
        tensors.extend(linear(WIDTH, WIDTH));
        tensors.extend(norm);
        tensors.extend(linear(WIDTH, 4 * WIDTH));
        tensors.extend(linear(4 * WIDTH, WIDTH));
    }
    tensors.extend(norm);
    tensors
}

fn resnet50() -> Vec<usize> {
    const CLASSES: usize = 1000;
    /// Blocks of each stage, and the width of their middle convolution.
    const STAGES: [(usize, usize); 4] = [(3, 64), (4, 128), (6, 256), (3, 512)];
    /// A block's outputs in units of its width.
    const EXPANSION: usize = 4;
    // A convolution of size × size without bias, and the scale and shift of its normalisation.
    let convolution =
        |inputs: usize, outputs: usize, size: usize| [inputs * outputs * size * size, outputs, outputs];
    let mut tensors = Vec::from(convolution(3, 64, 7));
    let mut channels = 64;
    for (blocks, width) in STAGES {
        let outputs = EXPANSION * width;
        for block in 0..blocks {
            tensors.extend(convolution(channels, width, 1));
            tensors.extend(convolution(width, width, 3));
            tensors.extend(convolution(width, outputs, 1));
            if block == 0 {
                tensors.extend(convolution(channels, outputs, 1));
            }
            channels = outputs;
        }
    }
    tensors.extend([channels * CLASSES, CLASSES]);
    tensors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_have_their_published_sizes() {
        let size = |shape: Shape| (shape.tensors().len(), shape.tensors().iter().sum::<usize>());
        assert_eq!(size(Shape::Gpt2), (148, 124_439_808));
        assert_eq!(size(Shape::Resnet50), (161, 25_557_032));
    }
}
