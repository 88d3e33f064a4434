//! The one error type: every variant names what was wrong, what was expected and what was found.

use std::fmt;
use std::path::PathBuf;

/// Why a call was refused. Nothing had changed when it was returned, except where the variant says so.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A hyper-parameter lies outside its domain.
    Hyperparameter {
        /// Its name, as the field is called.
        name: &'static str,
        /// What was given.
        found: f64,
        /// What is legal.
        expected: &'static str,
    },
    /// Two options of a [`Builder`](crate::Builder) exclude each other, or one would have no effect.
    Options {
        /// Which, and why.
        reason: &'static str,
    },
    /// A parameter of this name is registered already.
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A [`ParameterId`](crate::ParameterId) of another optimizer.
    UnknownParameter {
        /// The index that the id carries.
        index: usize,
    },
    /// A [`GroupId`](crate::GroupId) of another optimizer.
    UnknownGroup {
        /// The index that the id carries.
        index: usize,
    },
    /// One step names a parameter twice.
    RepeatedParameter {
        /// The parameter.
        name: String,
    },
    /// A tensor has another number of elements than the parameter was registered with.
    Length {
        /// The parameter.
        name: String,
        /// `"parameter"`, `"gradient"` or another role.
        role: &'static str,
        /// The registered number of elements.
        expected: usize,
        /// The number of elements of the tensor that was passed.
        found: usize,
    },
    /// A tensor has a data type that is not taken here.
    Dtype {
        /// The parameter.
        name: String,
        /// `"parameter"` or `"gradient"`.
        role: &'static str,
        /// What is taken.
        expected: &'static str,
        /// What was passed.
        found: String,
    },
    /// A tensor lies on another device than the optimizer.
    Device {
        /// The parameter.
        name: String,
        /// Where the optimizer works.
        expected: String,
        /// Where the tensor lies.
        found: String,
    },
    /// A tensor's elements do not lie one after the other in memory.
    Layout {
        /// The parameter.
        name: String,
        /// `"parameter"` or `"gradient"`.
        role: &'static str,
        /// What was found.
        found: String,
    },
    /// Two tensors of one step share memory, and at least one of them is written.
    Aliased {
        /// The parameter that is written.
        name: String,
        /// The tensor that overlaps it.
        other: String,
    },
    /// A gradient was infinite or NaN, or its squares overflow f32, under [`NonFinite::Error`](crate::NonFinite).
    NonFinite {
        /// The first such parameter in the order of registration.
        name: String,
        /// The call of `step`, counted from 1.
        step: u64,
    },
    /// A device or an instruction set that this machine, or this build, does not have.
    Unavailable {
        /// What was asked for.
        what: String,
        /// What is missing, and how to get it.
        remedy: String,
    },
    /// A file of state that is damaged, of another kind, or of another optimizer; or one that cannot be written.
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong, or differs.
        what: String,
    },
    /// The system refused to read or write a file.
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// The system's error.
        source: std::io::Error,
    },
    /// State is matched by names, and this optimizer has none: it was made by `candle_nn::Optimizer::new`.
    Unnamed,
    /// The system, or the device, has no memory for something that grows with elements, parameters, groups or a file. What stays
    /// small however large a model is (a message, a name, a task for a thread) is not asked for so carefully: where there is
    /// no memory for that either, the process ends, as with the standard library.
    OutOfMemory {
        /// What it was for: a parameter's name, or words.
        name: String,
        /// How much was asked for.
        bytes: usize,
    },
    /// An earlier step ended half-way (a panic in a thread pool, a failed launch on a GPU), or the reading of a state file
    /// did: parameters and moments no longer belong together. Restore both from a checkpoint into a new optimizer.
    Lost,
    /// A step, or a change of hyper-parameters, inside the capture of a CUDA graph that cannot be captured.
    Capture {
        /// Why, and what to do.
        reason: &'static str,
    },
    /// NVRTC refused to compile a kernel.
    Compile {
        /// The file of kernels.
        source: &'static str,
        /// The compiler's log.
        log: String,
    },
    /// The CUDA driver reported an error. Some of them (an illegal address, a lost device) end the whole context.
    #[cfg(feature = "cuda")]
    Cuda {
        /// What was being done.
        doing: &'static str,
        /// The driver's error.
        error: cudarc::driver::DriverError,
    },
    /// candle refused an operation.
    #[cfg(feature = "candle")]
    Candle(candle_core::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hyperparameter { name, found, expected } => {
                write!(f, "{name} is {found}, expected {expected}")
            }
            Self::Options { reason } => f.write_str(reason),
            Self::DuplicateName { name } => write!(f, "parameter `{name}` is registered already"),
            Self::UnknownParameter { index } => {
                write!(f, "parameter id {index} does not belong to this optimizer")
            }
            Self::UnknownGroup { index } => write!(f, "group id {index} does not belong to this optimizer"),
            Self::RepeatedParameter { name } => write!(f, "parameter `{name}` occurs twice in one step"),
            Self::Length { name, role, expected, found } => {
                write!(f, "{role} of `{name}` has {found} elements, expected {expected}")
            }
            Self::Dtype { name, role, expected, found } => {
                write!(f, "{role} of `{name}` is {found}, expected {expected}")
            }
            Self::Device { name, expected, found } => {
                write!(f, "`{name}` lies on {found}, the optimizer works on {expected}")
            }
            Self::Layout { name, role, found } => {
                write!(f, "{role} of `{name}` is {found}, expected contiguous elements")
            }
            Self::Aliased { name, other } => write!(f, "parameter `{name}` shares memory with {other}"),
            Self::NonFinite { name, step } => {
                write!(f, "gradient of `{name}` is not finite in step {step}; nothing was changed")
            }
            Self::Unavailable { what, remedy } => write!(f, "{what} is not available: {remedy}"),
            Self::State { path, what } => write!(f, "state file {}: {what}", path.display()),
            Self::Io { path, doing, source } => write!(f, "{doing} {} failed: {source}", path.display()),
            Self::Unnamed => f.write_str(
                "state belongs to names, and this optimizer knows its variables by their places in a list alone, which may \
                 differ in another run; make it by fadam::candle::Optimizer::from_varmap, or from_named",
            ),
            Self::OutOfMemory { name, bytes } => {
                write!(f, "no memory for `{name}` ({bytes} bytes)")
            }
            Self::Lost => write!(
                f,
                "an earlier step, or the reading of a state file, ended half-way; restore parameters and optimizer \
                 state from a checkpoint"
            ),
            Self::Capture { reason } => write!(f, "cannot be captured into a CUDA graph: {reason}"),
            Self::Compile { source, log } => write!(f, "NVRTC cannot compile {source}: {log}"),
            #[cfg(feature = "cuda")]
            Self::Cuda { doing, error } => match (error.error_name(), error.error_string()) {
                (Ok(name), Ok(text)) => {
                    write!(f, "{doing} failed: {} ({})", text.to_string_lossy(), name.to_string_lossy())
                }
                _ => write!(f, "{doing} failed: CUDA error {}", error.0 as u32),
            },
            #[cfg(feature = "candle")]
            Self::Candle(error) => write!(f, "candle: {error}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            #[cfg(feature = "cuda")]
            Self::Cuda { error, .. } => Some(error),
            #[cfg(feature = "candle")]
            Self::Candle(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(feature = "candle")]
impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::Candle(error)
    }
}
