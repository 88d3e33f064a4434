//! PTX text to a [`Module`].

/// Why a module was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    /// The line of the PTX text, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub message: String,
}

/// A parsed module.
#[derive(Debug)]
pub struct Module {
    /// `.version`, major and minor.
    pub version: (u32, u32),
    /// The number of `.target sm_N` (90 for `sm_90` and `sm_90a`).
    pub target: u32,
    /// The entries.
    pub kernels: Vec<Kernel>,
}

/// An entry.
#[derive(Debug)]
pub struct Kernel {
    /// Its name.
    pub name: String,
    /// Offset and size in bytes of each parameter in the parameter block.
    pub parameters: Vec<(usize, usize)>,
    /// Bytes of static shared memory.
    pub static_shared: usize,
}

impl Module {
    /// Parses and checks the text of a module.
    ///
    /// # Errors
    /// Anything that is not known exactly.
    pub fn parse(text: &str) -> Result<Self, LoadError> {
        let _ = text;
        Err(LoadError { line: 1, message: "not implemented".into() })
    }

    /// The entry of this name.
    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|kernel| kernel.name == name)
    }
}
